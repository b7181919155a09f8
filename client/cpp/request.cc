#include <cstdint>
#include <variant>

#include "absl/strings/str_cat.h"
#include "client/cpp/messages.h"

namespace lossd {
namespace {

// The enumerations of spec.h and types.h go over the wire by number.
constexpr bool SameNumber(auto ours, auto theirs) { return static_cast<int>(ours) == static_cast<int>(theirs); }
static_assert(SameNumber(DataType::kFloat32, v1::DATA_TYPE_FLOAT32));
static_assert(SameNumber(DataType::kFloat64, v1::DATA_TYPE_FLOAT64));
static_assert(SameNumber(DataType::kFloat16, v1::DATA_TYPE_FLOAT16));
static_assert(SameNumber(DataType::kBfloat16, v1::DATA_TYPE_BFLOAT16));
static_assert(SameNumber(DataType::kInt8, v1::DATA_TYPE_INT8));
static_assert(SameNumber(DataType::kInt16, v1::DATA_TYPE_INT16));
static_assert(SameNumber(DataType::kInt32, v1::DATA_TYPE_INT32));
static_assert(SameNumber(DataType::kInt64, v1::DATA_TYPE_INT64));
static_assert(SameNumber(DataType::kUint8, v1::DATA_TYPE_UINT8));
static_assert(SameNumber(DataType::kUint16, v1::DATA_TYPE_UINT16));
static_assert(SameNumber(DataType::kUint32, v1::DATA_TYPE_UINT32));
static_assert(SameNumber(DataType::kBool, v1::DATA_TYPE_BOOL));
static_assert(SameNumber(DataType::kBool, v1::DataType_MAX), "a data type that this client does not know");
static_assert(SameNumber(Reduction::kNone, v1::REDUCTION_NONE));
static_assert(SameNumber(Reduction::kBatchMean, v1::REDUCTION_BATCH_MEAN));
static_assert(SameNumber(InformationUnit::kBits, v1::INFORMATION_UNIT_BITS));
static_assert(SameNumber(Output::kLogitsGradient, v1::OUTPUT_LOGITS_GRADIENT));
static_assert(SameNumber(Output::kElementLoss, v1::OUTPUT_ELEMENT_LOSS));
static_assert(SameNumber(Output::kPredictedClass, v1::OUTPUT_PREDICTED_CLASS));
static_assert(SameNumber(Output::kLogProbabilities, v1::Output_MAX), "an output that this client does not know");

struct Input {
  const char* field;
  int number;
  TensorView Batch::*view;
};

constexpr Input kInputs[] = {
    {"class_weights", v1::EvaluateRequest::kClassWeightsFieldNumber, &Batch::class_weights},
    {"sample_weights", v1::EvaluateRequest::kSampleWeightsFieldNumber, &Batch::sample_weights},
    {"upstream_gradient", v1::EvaluateRequest::kUpstreamGradientFieldNumber, &Batch::upstream_gradient},
    {"targets", v1::EvaluateRequest::kTargetsFieldNumber, &Batch::targets},
    {"target_probabilities", v1::EvaluateRequest::kTargetProbabilitiesFieldNumber, &Batch::target_probabilities},
    {"logits", v1::EvaluateRequest::kLogitsFieldNumber, &Batch::logits},
};

absl::Status TooLarge(const char* field) {
  return absl::ResourceExhaustedError(
      absl::StrCat("with ", field, " the batch exceeds the ", kMaxMessageBytes, " bytes that one message can carry"));
}

struct FillLoss {
  v1::LossSpec* message;

  void operator()(const CrossEntropy& loss) const {
    v1::CrossEntropy* out = message->mutable_cross_entropy();
    out->set_label_smoothing(loss.label_smoothing);
    if (loss.ignore_index) out->set_ignore_index(*loss.ignore_index);
    if (loss.class_axis) out->set_class_axis(*loss.class_axis);
    out->set_z_loss(loss.z_loss);
    out->set_softcap(loss.softcap);
    if (loss.temperature != 1) out->set_temperature(loss.temperature);
    out->set_focal_gamma(loss.focal_gamma);
    out->set_poly_epsilon(loss.poly_epsilon);
  }
  void operator()(const NegativeLogLikelihood& loss) const {
    v1::NegativeLogLikelihood* out = message->mutable_negative_log_likelihood();
    if (loss.ignore_index) out->set_ignore_index(*loss.ignore_index);
    if (loss.class_axis) out->set_class_axis(*loss.class_axis);
  }
  void operator()(const KlDivergence& loss) const { message->mutable_kl_divergence()->set_log_target(loss.log_target); }
  void operator()(const BinaryCrossEntropy& loss) const {
    message->mutable_binary_cross_entropy()->set_label_smoothing(loss.label_smoothing);
  }
};

void FillSpec(const Spec& spec, v1::EvaluateRequest* request) {
  v1::LossSpec* message = request->mutable_loss();
  std::visit(FillLoss{message}, spec.loss);
  message->set_reduction(static_cast<v1::Reduction>(spec.reduction));
  if (spec.normalizer) message->set_normalizer(*spec.normalizer);
  message->set_unit(static_cast<v1::InformationUnit>(spec.unit));
  for (int output = v1::Output_MIN; output <= v1::Output_MAX; ++output) {
    if (spec.outputs.Has(static_cast<Output>(output))) request->add_outputs(static_cast<v1::Output>(output));
  }
  request->set_gradient_type(static_cast<v1::DataType>(spec.gradient_type));
}

}  // namespace

absl::StatusOr<int64_t> RequestBytes(const Batch& batch) {
  int64_t room = kMaxMessageBytes - kMaxSmallFieldsBytes;
  if (batch.job.size() > static_cast<uint64_t>(room)) return TooLarge("job");
  room -= static_cast<int64_t>(batch.job.size());
  for (const Input& input : kInputs) {
    const TensorType& type = (batch.*input.view).type;
    if (!type) continue;
    const int64_t num_elements = NumElements(type.shape);
    const int64_t element_bytes = SizeOf(type.data_type);
    if (num_elements < 0 || element_bytes == 0) {
      return absl::InvalidArgumentError(absl::StrCat(input.field, " is ", Name(type.data_type), " of shape ",
                                                     ToString(type.shape), ", which has no size in bytes"));
    }
    if (num_elements > room / element_bytes) return TooLarge(input.field);
    room -= num_elements * element_bytes;
  }
  return kMaxMessageBytes - room;
}

absl::Status WriteRequest(const Batch& batch, LentMemory& memory, MessageWriter& writer) {
  if (absl::Status status = RequestBytes(batch).status(); !status.ok()) return status;
  v1::EvaluateRequest small;
  small.set_job(batch.job);
  if (batch.step) small.set_step(*batch.step);
  FillSpec(batch.spec, &small);
  writer.Fields(small);
  for (const Input& input : kInputs) {
    const TensorView& view = batch.*input.view;
    if (view) writer.Tensor(input.number, view.type, memory.Lend(view));
  }
  return absl::OkStatus();
}

}  // namespace lossd
