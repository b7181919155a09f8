// Encode(): small fields through protobuf, tensors as slices that own their buffers; and the status mapping.
#include <grpcpp/support/slice.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "server/wire.h"

namespace lossd {
namespace {

constexpr int64_t kMaxNumbersBytes = 128;     // sequence, summary and timing
constexpr int64_t kMaxTensorHeadBytes = 192;  // type, sixteen axes, tags and lengths
constexpr int kMaxTensors = 10;               // of an answer
static_assert(kMaxNumbersBytes + kMaxTensors * kMaxTensorHeadBytes <= kMaxSmallFieldsBytes);
constexpr size_t kMaxErrorMessageBytes = 2048;  // of an error: it travels in a header

static_assert(static_cast<int>(DataType::kBool) == v1::DATA_TYPE_BOOL);
static_assert(static_cast<int>(DataType::kFloat32) == v1::DATA_TYPE_FLOAT32);
static_assert(static_cast<int>(Output::kLogProbabilities) == v1::OUTPUT_LOG_PROBABILITIES);
static_assert(static_cast<int>(Reduction::kBatchMean) == v1::REDUCTION_BATCH_MEAN);

constexpr ResultSet<int> kFieldNumbers = {
    .loss = v1::EvaluateResponse::kLossFieldNumber,
    .element_loss = v1::EvaluateResponse::kElementLossFieldNumber,
    .log_sum_exp = v1::EvaluateResponse::kLogSumExpFieldNumber,
    .target_log_probability = v1::EvaluateResponse::kTargetLogProbabilityFieldNumber,
    .predicted_class = v1::EvaluateResponse::kPredictedClassFieldNumber,
    .entropy = v1::EvaluateResponse::kEntropyFieldNumber,
    .probabilities = v1::EvaluateResponse::kProbabilitiesFieldNumber,
    .log_probabilities = v1::EvaluateResponse::kLogProbabilitiesFieldNumber,
    .targets_gradient = v1::EvaluateResponse::kTargetsGradientFieldNumber,
    .logits_gradient = v1::EvaluateResponse::kLogitsGradientFieldNumber,
};

// The buffer's memory; small contents are copied by the writer, and need no owner.
grpc::Slice SliceOf(Buffer& buffer) {
  const auto bytes = static_cast<size_t>(buffer.size());
  if (buffer.size() <= kCopiedContentsBytes) return grpc::Slice(buffer.data(), bytes, grpc::Slice::STATIC_SLICE);
  std::byte* data = buffer.Release();
  return grpc::Slice(data, bytes, &Buffer::Free, data);
}

v1::Summary SummaryOf(const Summary& summary) {
  v1::Summary message;
  message.set_loss_sum(summary.loss_sum);
  message.set_weight_sum(summary.weight_sum);
  message.set_element_count(summary.element_count);
  message.set_ignored_count(summary.ignored_count);
  if (summary.correct_count) message.set_correct_count(*summary.correct_count);
  message.set_nonfinite_count(summary.nonfinite_count);
  return message;
}

}  // namespace

MessageWriter Encode(Answer answer) {
  using Response = v1::EvaluateResponse;
  v1::Timing timing;
  timing.set_queue_seconds(answer.queue_seconds);
  timing.set_compute_seconds(answer.compute_seconds);
  MessageWriter writer;
  ForEachResult(
      [&](const char*, int number, const TensorType& type, Buffer& buffer) {
        if (number == Response::kElementLossFieldNumber) {  // what stands between the loss and the outputs
          writer.Field(Response::kSummaryFieldNumber, SummaryOf(answer.summary));
          writer.Field(Response::kTimingFieldNumber, timing);
        }
        if (type) writer.Tensor(number, type, SliceOf(buffer));
      },
      kFieldNumbers, answer.types, answer.buffers);
  return writer;
}

grpc::ByteBuffer EncodeStreamed(int64_t sequence, absl::StatusOr<MessageWriter> answer) {
  v1::EvaluateStreamResponse head;
  head.set_sequence(sequence);
  if (answer.ok()) {
    answer->Wrap(head, v1::EvaluateStreamResponse::kResponseFieldNumber);
    return answer->Finish();
  }
  const grpc::Status status = ToGrpcStatus(answer.status());
  head.mutable_error()->set_code(status.error_code());
  head.mutable_error()->set_message(status.error_message());
  MessageWriter writer;
  writer.Fields(head);
  return writer.Finish();
}

int64_t MaxResponseBytes(const Plan& plan) {
  int64_t bytes = plan.result_bytes + kMaxNumbersBytes;
  ForEachResult([&](const char*, const TensorType& type) { bytes += type ? kMaxTensorHeadBytes : 0; }, plan.results);
  return bytes;
}

absl::Status ParseSmall(const grpc::ByteBuffer& bytes, google::protobuf::MessageLite& message) {
  if (bytes.Length() > kMaxSmallMessageBytes) {
    return absl::InvalidArgumentError(absl::StrCat("a ", message.GetTypeName(), " of ", bytes.Length(),
                                                   " bytes; at most ", kMaxSmallMessageBytes, " are read"));
  }
  grpc::Slice slice;
  if (bytes.DumpToSingleSlice(&slice).ok() && message.ParseFromArray(slice.begin(), static_cast<int>(slice.size()))) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("this is not a ", message.GetTypeName()));
}

grpc::ByteBuffer SerializeSmall(const google::protobuf::MessageLite& message) {
  MessageWriter writer;
  writer.Fields(message);
  return writer.Finish();
}

grpc::Status ToGrpcStatus(const absl::Status& status) {
  // absl's codes are google.rpc's, and so are gRPC's.
  const auto code = static_cast<grpc::StatusCode>(status.code());
  return {code, std::string(status.message().substr(0, kMaxErrorMessageBytes))};
}

const char* CodeName(absl::StatusCode code) {
  static constexpr const char* kNames[] = {
      "OK",       "Canceled",       "Unknown",          "InvalidArgument",   "DeadlineExceeded",
      "NotFound", "AlreadyExists",  "PermissionDenied", "ResourceExhausted", "FailedPrecondition",
      "Aborted",  "OutOfRange",     "Unimplemented",    "Internal",          "Unavailable",
      "DataLoss", "Unauthenticated"};
  const auto index = static_cast<size_t>(code);
  return index < std::size(kNames) ? kNames[index] : "Unknown";
}

}  // namespace lossd
