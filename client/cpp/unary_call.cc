#include "client/cpp/unary_call.h"

#include <grpcpp/generic/generic_stub.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/backoff.h"
#include "client/cpp/lent_memory.h"
#include "wire/metadata.h"
#include "wire/slices.h"
#include "wire/write.h"

namespace lossd {
namespace {

constexpr char kMethod[] = "/lossd.v1.LossService/Evaluate";

struct Reply {
  absl::Status status;
  grpc::ByteBuffer message;
  std::optional<absl::Duration> pushback;  // when a server that is full wants to be asked again
};

// Sends `request` and waits for the end of the call.
Reply CallOnce(const std::shared_ptr<grpc::Channel>& channel, grpc::CompletionQueue& queue, absl::Time deadline,
               const grpc::ByteBuffer& request) {
  grpc::GenericStub stub(channel);
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(deadline));
  context.AddMetadata(kRequestBytesKey, absl::StrCat(request.Length()));
  Reply reply;
  grpc::Status status;
  const auto call = stub.PrepareUnaryCall(&context, kMethod, request, &queue);
  call->StartCall();
  call->Finish(&reply.message, &status, &reply);
  void* tag = nullptr;
  bool ok = false;
  while (tag != &reply && queue.Next(&tag, &ok)) {
  }
  reply.status = ToAbslStatus(status);
  if (absl::IsResourceExhausted(reply.status)) reply.pushback = PushbackOf(context);
  return reply;
}

// REQUIRES: `memory` outlives `queue`'s calls.
absl::StatusOr<grpc::ByteBuffer> CallPatiently(const Channels& channels, grpc::CompletionQueue& queue,
                                               const Batch& batch, absl::Time deadline, LentMemory& memory) {
  Backoff backoff;
  for (;;) {
    MessageWriter writer;
    if (absl::Status status = WriteRequest(batch, memory, writer); !status.ok()) return status;
    Reply reply = CallOnce(channels.Get(), queue, deadline, writer.Finish());
    if (reply.status.ok()) return std::move(reply.message);
    if (!reply.pushback) return reply.status;
    const std::optional<absl::Duration> pause = backoff.Next(*reply.pushback);
    if (!pause || absl::Now() + *pause >= deadline) return reply.status;
    absl::SleepFor(*pause);
  }
}

}  // namespace

std::optional<absl::Duration> PushbackOf(const grpc::ClientContext& context) {
  const auto& metadata = context.GetServerTrailingMetadata();
  const auto found = metadata.find(kPushbackKey);
  int64_t milliseconds = 0;
  if (found == metadata.end() ||
      !absl::SimpleAtoi(absl::string_view(found->second.data(), found->second.size()), &milliseconds) ||
      milliseconds < 0) {
    return std::nullopt;
  }
  return absl::Milliseconds(milliseconds);
}

absl::Status CallEvaluate(const Channels& channels, const Batch& batch, absl::Time deadline, Place place,
                          Evaluation& evaluation) {
  LentMemory memory;
  grpc::CompletionQueue queue;
  const absl::StatusOr<grpc::ByteBuffer> message = CallPatiently(channels, queue, batch, deadline, memory);
  AwaitReturn(memory, queue);
  if (!message.ok()) return message.status();
  return ReadAnswer(batch, Slices(*message), place, evaluation);
}

absl::StatusOr<Evaluation> CallEvaluate(const Channels& channels, const Batch& batch, const EvaluateOptions& options,
                                        absl::Time deadline) {
  Evaluation evaluation;
  const auto place = [&](Tensor Evaluation::*field, const TensorType& type) {
    const bool given = field == &Evaluation::logits_gradient && !options.logits_gradient.empty();
    evaluation.*field = given ? Tensor(type, options.logits_gradient.data()) : Tensor(type);
    return (evaluation.*field).data();
  };
  absl::Status status = CallEvaluate(channels, batch, deadline, place, evaluation);
  if (!status.ok()) return status;
  return evaluation;
}

}  // namespace lossd
