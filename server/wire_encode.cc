// Encode(): small fields through protobuf, tensors as slices that own their buffers; and the status mapping.
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>
#include <grpcpp/support/slice.h>

#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "lossd/v1/loss.pb.h"
#include "server/wire.h"

namespace lossd {
namespace {

using google::protobuf::internal::WireFormatLite;

constexpr int64_t kCopyBytes = 4096;       // a tensor up to this size is cheaper copied than referred to
constexpr int64_t kMaxSmallFields = 4096;  // summary, timing, shapes and tags, generously
constexpr size_t kMaxMessageBytes = 2048;  // of an error: it travels in a header

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

// Writes one message as a few slices, in the order of its fields.
class SliceWriter {
 public:
  // A length-delimited field with these contents.
  void Field(int number, const std::string& contents) {
    Tag(number);
    Varint(contents.size());
    text_ += contents;
  }

  // A field of type Tensor.
  void Tensor(int number, const TensorType& type, Buffer buffer) {
    v1::Tensor head;
    head.set_data_type(static_cast<v1::DataType>(type.data_type));
    for (int64_t extent : type.shape.dims()) head.add_shape(extent);
    std::string inner = head.SerializeAsString();
    const auto bytes = static_cast<uint64_t>(buffer.size());
    const size_t raw_head = 1 + google::protobuf::io::CodedOutputStream::VarintSize64(bytes);
    Tag(number);
    Varint(inner.size() + raw_head + bytes);
    text_ += inner;
    Tag(v1::Tensor::kRawFieldNumber);
    Varint(bytes);
    if (buffer.size() <= kCopyBytes) {
      text_.append(reinterpret_cast<const char*>(buffer.data()), bytes);
      return;
    }
    Flush();
    std::byte* data = buffer.Release();
    slices_.emplace_back(data, bytes, &Buffer::Free, data);
  }

  grpc::ByteBuffer Finish() {
    Flush();
    return grpc::ByteBuffer(slices_.data(), slices_.size());
  }

 private:
  void Tag(int number) { Varint(WireFormatLite::MakeTag(number, WireFormatLite::WIRETYPE_LENGTH_DELIMITED)); }
  void Varint(uint64_t value) {
    uint8_t bytes[10];
    const uint8_t* end = google::protobuf::io::CodedOutputStream::WriteVarint64ToArray(value, bytes);
    text_.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(end - bytes));
  }
  void Flush() {
    if (!text_.empty()) slices_.emplace_back(text_);
    text_.clear();
  }

  std::string text_;
  std::vector<grpc::Slice> slices_;
};

std::string SummaryOf(const Summary& summary) {
  v1::Summary message;
  message.set_loss_sum(summary.loss_sum);
  message.set_weight_sum(summary.weight_sum);
  message.set_element_count(summary.element_count);
  message.set_ignored_count(summary.ignored_count);
  if (summary.correct_count) message.set_correct_count(*summary.correct_count);
  message.set_nonfinite_count(summary.nonfinite_count);
  return message.SerializeAsString();
}

}  // namespace

grpc::ByteBuffer Encode(Answer answer) {
  using Response = v1::EvaluateResponse;
  v1::Timing timing;
  timing.set_queue_seconds(answer.queue_seconds);
  timing.set_compute_seconds(answer.compute_seconds);
  SliceWriter writer;
  ForEachResult(
      [&](const char*, int number, const TensorType& type, Buffer& buffer) {
        if (number == Response::kElementLossFieldNumber) {  // what stands between the loss and the outputs
          writer.Field(Response::kSummaryFieldNumber, SummaryOf(answer.summary));
          writer.Field(Response::kTimingFieldNumber, timing.SerializeAsString());
        }
        if (type) writer.Tensor(number, type, std::move(buffer));
      },
      kFieldNumbers, answer.types, answer.buffers);
  return writer.Finish();
}

int64_t MaxResponseBytes(const Plan& plan) { return plan.result_bytes + kMaxSmallFields; }

grpc::Status ToGrpcStatus(const absl::Status& status) {
  // absl's codes are google.rpc's, and so are gRPC's.
  const auto code = static_cast<grpc::StatusCode>(status.code());
  return {code, std::string(status.message().substr(0, kMaxMessageBytes))};
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
