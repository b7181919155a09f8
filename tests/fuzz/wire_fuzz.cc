// Any bytes, in any slices: what ParseMessage() makes of them is what protobuf's own parser makes of them, to the last
// field; and what Decode() accepts can be planned, gathered and weighed without harm.
//
//   scripts/fuzz [SECONDS]
#include <google/protobuf/stubs/logging.h>

#include <algorithm>
#include <cstdint>
#include <cstdlib>
#include <iostream>
#include <string>

#include "server/wire.h"
#include "tests/messages.h"

namespace lossd {
namespace {

[[noreturn]] void Fail(const char* what) {
  std::cerr << "wire_fuzz: " << what << std::endl;
  std::abort();
}

// In place of references, the contents that they refer to.
void Restore(const Slices& bytes, v1::Tensor* tensor) {
  if (!tensor->has_raw()) return;
  const RawReference reference = ReferenceOf(*tensor);
  std::string contents(static_cast<size_t>(reference.size), '\0');
  bytes.CopyTo(reference.offset, reference.size, contents.data());
  tensor->set_raw(contents);
}

void RestoreAll(const Slices& bytes, google::protobuf::Message* message) {
  const auto* reflection = message->GetReflection();
  std::vector<const google::protobuf::FieldDescriptor*> fields;
  reflection->ListFields(*message, &fields);
  for (const auto* field : fields) {
    if (field->message_type() == nullptr || field->is_repeated()) continue;
    google::protobuf::Message* inner = reflection->MutableMessage(message, field);
    if (field->message_type() == v1::Tensor::descriptor()) {
      Restore(bytes, static_cast<v1::Tensor*>(inner));
    } else {
      RestoreAll(bytes, inner);
    }
  }
}

// Fields that the contract does not know are left out, but inside the loss, where they must be refused.
std::string Normalized(google::protobuf::Message& message, v1::EvaluateRequest* request) {
  v1::LossSpec loss;
  if (request != nullptr) loss = request->loss();
  message.DiscardUnknownFields();
  return message.SerializeAsString() + "|" + loss.SerializeAsString();
}

template <typename Message>
void Compare(const std::string& text, const grpc::ByteBuffer& buffer, v1::EvaluateRequest* (*request_of)(Message&)) {
  Message want, got;
  const bool parses = want.ParseFromString(text);
  const Slices slices(buffer);
  const absl::Status status = ParseMessage(
      slices, [](int64_t) { return absl::OkStatus(); }, got);
  if (status.ok() != parses) Fail(parses ? "refused what protobuf parses" : "parsed what protobuf refuses");
  if (!parses) return;
  RestoreAll(slices, &got);
  if (Normalized(want, request_of(want)) != Normalized(got, request_of(got))) Fail("another message than protobuf's");
}

void Use(absl::StatusOr<Request> request) {
  if (!request.ok()) return;
  const absl::StatusOr<Plan> plan = MakePlan(request->spec, TypesOf(request->inputs));
  if (!plan.ok() || !CheckContents(*request).ok()) return;
  if (!Gather({true, true, true, true, true, true}, *request).ok()) return;
  WeighElements(*plan, request->inputs).status().IgnoreError();
}

}  // namespace
}  // namespace lossd

extern "C" int LLVMFuzzerInitialize(int*, char***) {
  google::protobuf::SetLogHandler(nullptr);
  return 0;
}

// The first byte says how long slices are.
extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  using namespace lossd;
  if (size == 0) return 0;
  const std::string text(reinterpret_cast<const char*>(data) + 1, size - 1);
  const size_t slice_bytes = data[0] == 0 ? kWhole : data[0];
  const grpc::ByteBuffer buffer = BufferOf(text, slice_bytes);
  Compare<v1::EvaluateRequest>(text, buffer, [](v1::EvaluateRequest& message) { return &message; });
  Compare<v1::EvaluateStreamRequest>(text, buffer,
                                     [](v1::EvaluateStreamRequest& message) { return message.mutable_request(); });
  Compare<v1::EvaluateResponse>(text, buffer, [](v1::EvaluateResponse&) -> v1::EvaluateRequest* { return nullptr; });
  Compare<v1::EvaluateStreamResponse>(text, buffer,
                                      [](v1::EvaluateStreamResponse&) -> v1::EvaluateRequest* { return nullptr; });
  const auto reserve = [](int64_t) { return absl::OkStatus(); };
  Use(Decode(buffer, reserve));
  int64_t sequence = 0;
  Use(DecodeStreamed(buffer, reserve, sequence));
  return 0;
}
