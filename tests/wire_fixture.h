// What the tests of Decode() share: a request in which every field says something, and the fixture.
#ifndef LOSSD_TESTS_WIRE_FIXTURE_H_
#define LOSSD_TESTS_WIRE_FIXTURE_H_

#include <google/protobuf/stubs/logging.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "server/wire.h"
#include "tests/messages.h"

namespace lossd {

constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;
constexpr absl::StatusCode kUnimplemented = absl::StatusCode::kUnimplemented;

// As the server, with memory for everything: tensors in several slices are gathered.
inline absl::StatusOr<Request> DecodeBuffer(const grpc::ByteBuffer& bytes) {
  absl::StatusOr<Request> request = Decode(bytes, [](int64_t) { return absl::OkStatus(); });
  if (!request.ok()) return request;
  if (absl::Status status = Gather({true, true, true, true, true, true}, *request); !status.ok()) return status;
  return request;
}

inline absl::StatusOr<Request> DecodeMessage(const v1::EvaluateRequest& message) {
  return DecodeBuffer(BufferOf(message.SerializeAsString()));
}

template <typename T>
void SetRaw(v1::DataType type, const std::vector<int64_t>& shape, const std::vector<T>& values, v1::Tensor* tensor) {
  tensor->set_data_type(type);
  tensor->mutable_shape()->Assign(shape.begin(), shape.end());
  tensor->set_raw(values.data(), values.size() * sizeof(T));
}

// A valid request of class indices with every field that goes with them.
inline v1::EvaluateRequest FullRequest() {
  v1::EvaluateRequest message;
  message.set_job("team/digits_1.0:a-b");
  message.set_step(-17);
  v1::CrossEntropy* loss = message.mutable_loss()->mutable_cross_entropy();
  loss->set_label_smoothing(0.125);
  loss->set_ignore_index(-1);
  loss->set_class_axis(-1);
  message.mutable_loss()->set_normalizer(4);
  message.mutable_loss()->set_unit(v1::INFORMATION_UNIT_BITS);
  for (const auto output : {v1::OUTPUT_LOGITS_GRADIENT, v1::OUTPUT_ELEMENT_LOSS, v1::OUTPUT_LOGITS_GRADIENT}) {
    message.add_outputs(output);
  }
  message.set_gradient_type(v1::DATA_TYPE_FLOAT32);
  SetRaw<float>(v1::DATA_TYPE_FLOAT32, {3}, {1, 2, 3}, message.mutable_class_weights());
  SetRaw<double>(v1::DATA_TYPE_FLOAT64, {2}, {0.5, 0.25}, message.mutable_sample_weights());
  message.mutable_upstream_gradient()->mutable_floats()->add_values(2);
  for (const int64_t target : {2, -1}) message.mutable_targets()->mutable_ints()->add_values(target);
  message.mutable_targets()->add_shape(2);
  SetRaw<float>(v1::DATA_TYPE_FLOAT32, {2, 3}, {1, 2, 3, 4, 5, 6}, message.mutable_logits());
  return message;
}

// The same of sparse targets, K = 1.
inline v1::EvaluateRequest SparseRequest() {
  v1::EvaluateRequest message = FullRequest();
  message.mutable_targets()->add_shape(1);
  SetRaw<float>(v1::DATA_TYPE_FLOAT32, {2, 1}, {0.75f, 0.5f}, message.mutable_target_probabilities());
  return message;
}

class WireTest : public ::testing::Test {
 protected:
  void SetUp() override { google::protobuf::SetLogHandler(nullptr); }  // it complains about strings that are not UTF-8
};

}  // namespace lossd

#endif  // LOSSD_TESTS_WIRE_FIXTURE_H_
