#include <cstdint>
#include <span>
#include <string>

#include "absl/strings/str_cat.h"
#include "client/cpp/batch_inputs.h"
#include "client/cpp/messages.h"
#include "wire/parse.h"

namespace lossd {
namespace {

// Which field answers which output, and where it goes.
struct Answer {
  Output output;
  const char* field;
  bool (v1::EvaluateResponse::*has)() const;
  const v1::Tensor& (v1::EvaluateResponse::*message)() const;
  Tensor Evaluation::*tensor;
};

constexpr Answer kAnswers[] = {
    {Output::kElementLoss, "element_loss", &v1::EvaluateResponse::has_element_loss, &v1::EvaluateResponse::element_loss,
     &Evaluation::element_loss},
    {Output::kLogSumExp, "log_sum_exp", &v1::EvaluateResponse::has_log_sum_exp, &v1::EvaluateResponse::log_sum_exp,
     &Evaluation::log_sum_exp},
    {Output::kTargetLogProbability, "target_log_probability", &v1::EvaluateResponse::has_target_log_probability,
     &v1::EvaluateResponse::target_log_probability, &Evaluation::target_log_probability},
    {Output::kPredictedClass, "predicted_class", &v1::EvaluateResponse::has_predicted_class,
     &v1::EvaluateResponse::predicted_class, &Evaluation::predicted_class},
    {Output::kEntropy, "entropy", &v1::EvaluateResponse::has_entropy, &v1::EvaluateResponse::entropy,
     &Evaluation::entropy},
    {Output::kProbabilities, "probabilities", &v1::EvaluateResponse::has_probabilities,
     &v1::EvaluateResponse::probabilities, &Evaluation::probabilities},
    {Output::kLogProbabilities, "log_probabilities", &v1::EvaluateResponse::has_log_probabilities,
     &v1::EvaluateResponse::log_probabilities, &Evaluation::log_probabilities},
    {Output::kTargetsGradient, "targets_gradient", &v1::EvaluateResponse::has_targets_gradient,
     &v1::EvaluateResponse::targets_gradient, &Evaluation::targets_gradient},
    {Output::kLogitsGradient, "logits_gradient", &v1::EvaluateResponse::has_logits_gradient,
     &v1::EvaluateResponse::logits_gradient, &Evaluation::logits_gradient},
};

// The type of a tensor whose bytes fill its shape, or an error.
absl::StatusOr<TensorType> TypeOf(const char* field, const v1::Tensor& message) {
  const std::span<const int64_t> dims(message.shape().data(), static_cast<size_t>(message.shape_size()));
  if (dims.size() > Shape::kMaxRank) return Malformed(field, absl::StrCat("has ", dims.size(), " axes"));
  const int data_type = message.data_type();
  if (!v1::DataType_IsValid(data_type) || data_type == v1::DATA_TYPE_UNSPECIFIED) {
    return Malformed(field, absl::StrCat("has the unknown data type ", data_type));
  }
  const TensorType type{static_cast<DataType>(data_type), Shape(dims)};
  // An answer of no elements may leave its contents out.
  if (message.contents_case() != v1::Tensor::kRaw && message.contents_case() != v1::Tensor::CONTENTS_NOT_SET) {
    return Malformed(field, "does not carry raw contents");
  }
  const int64_t element_bytes = SizeOf(type.data_type);
  const int64_t num_elements = NumElements(type.shape);
  const int64_t num_bytes = message.has_raw() ? ReferenceOf(message).size : 0;
  if (num_bytes % element_bytes != 0 || num_bytes / element_bytes != num_elements) {
    return Malformed(field, absl::StrCat("is ", Name(type.data_type), " of shape ", ToString(type.shape), " but has ",
                                         num_bytes, " bytes"));
  }
  return type;
}

absl::Status CheckType(const char* field, const TensorType& tensor, DataType want) {
  if (tensor.data_type == want) return absl::OkStatus();
  return Malformed(field, absl::StrCat("is ", Name(tensor.data_type), ", not ", Name(want)));
}

absl::Status CheckShape(const char* field, const TensorType& tensor, const Shape& want) {
  if (tensor.shape == want) return absl::OkStatus();
  return Malformed(field, absl::StrCat("has the shape ", ToString(tensor.shape), ", not ", ToString(want)));
}

absl::Status CheckElements(const char* field, const TensorType& tensor, int64_t num_elements) {
  if (NumElements(tensor.shape) == num_elements) return absl::OkStatus();
  return Malformed(field, absl::StrCat("has the shape ", ToString(tensor.shape), " for ", num_elements, " elements"));
}

// As the batch says it; a newer server may accept one that this client does not understand, and counts it.
int64_t NumElementsOf(const Batch& batch, const v1::EvaluateResponse& response) {
  const absl::StatusOr<Plan> plan = MakePlan(batch.spec, TypesOf(InputsOf(batch)));
  return plan.ok() ? plan->num_elements : response.summary().element_count();
}

DataType LossType(const Batch& batch) {
  return batch.logits.type.data_type == DataType::kFloat64 ? DataType::kFloat64 : DataType::kFloat32;
}

DataType AnswerType(const Batch& batch, Output output) {
  switch (output) {
    case Output::kPredictedClass:
      return DataType::kInt64;
    case Output::kLogitsGradient:
    case Output::kTargetsGradient:
      return GradientType(batch);
    default:
      return LossType(batch);
  }
}

absl::Status CheckAnswer(const Batch& batch, const Answer& answer, const TensorType& type, int64_t num_elements) {
  absl::Status status = CheckType(answer.field, type, AnswerType(batch, answer.output));
  if (!status.ok()) return status;
  switch (answer.output) {
    case Output::kLogitsGradient:
    case Output::kProbabilities:
    case Output::kLogProbabilities:
      return CheckShape(answer.field, type, batch.logits.type.shape);
    case Output::kTargetsGradient:
      return CheckShape(answer.field, type, batch.targets.type.shape);
    default:
      return CheckElements(answer.field, type, num_elements);
  }
}

absl::Status CheckLoss(const Batch& batch, const TensorType& type, int64_t num_elements) {
  absl::Status status = CheckType("loss", type, LossType(batch));
  if (!status.ok()) return status;
  if (batch.spec.reduction == Reduction::kNone) return CheckElements("loss", type, num_elements);
  return CheckShape("loss", type, Shape());
}

Summary ToSummary(const v1::Summary& message) {
  Summary summary;
  summary.loss_sum = message.loss_sum();
  summary.weight_sum = message.weight_sum();
  summary.element_count = message.element_count();
  summary.ignored_count = message.ignored_count();
  if (message.has_correct_count()) summary.correct_count = message.correct_count();
  summary.nonfinite_count = message.nonfinite_count();
  return summary;
}

absl::Status Copy(const char* field, const v1::Tensor& tensor, const TensorType& type, const Slices& message,
                  std::byte* to) {
  if (to == nullptr) {
    return Malformed(field, absl::StrCat("has the shape ", ToString(type.shape), ", which is not the batch's"));
  }
  if (!tensor.has_raw()) return absl::OkStatus();
  const RawReference raw = ReferenceOf(tensor);
  message.CopyTo(raw.offset, raw.size, to);
  return absl::OkStatus();
}

absl::Status ReadLoss(const Batch& batch, const v1::EvaluateResponse& response, const Slices& message, Place place,
                      int64_t num_elements) {
  if (!response.has_loss()) return Malformed("loss", "is missing");
  const absl::StatusOr<TensorType> type = TypeOf("loss", response.loss());
  if (!type.ok()) return type.status();
  if (absl::Status status = CheckLoss(batch, *type, num_elements); !status.ok()) return status;
  return Copy("loss", response.loss(), *type, message, place(&Evaluation::loss, *type));
}

absl::Status ReadOutput(const Batch& batch, const Answer& answer, const v1::EvaluateResponse& response,
                        const Slices& message, Place place, int64_t num_elements) {
  if (!batch.spec.outputs.Has(answer.output)) return absl::OkStatus();
  if (!(response.*answer.has)()) return Malformed(answer.field, "was asked for and is missing");
  const v1::Tensor& tensor = (response.*answer.message)();
  const absl::StatusOr<TensorType> type = TypeOf(answer.field, tensor);
  if (!type.ok()) return type.status();
  if (absl::Status status = CheckAnswer(batch, answer, *type, num_elements); !status.ok()) return status;
  return Copy(answer.field, tensor, *type, message, place(answer.tensor, *type));
}

}  // namespace

absl::Status ReadAnswer(const Batch& batch, const Slices& message, Place place, Evaluation& evaluation) {
  v1::EvaluateResponse response;
  const auto reserve = [](int64_t) { return absl::OkStatus(); };
  if (!ParseMessage(message, reserve, response).ok()) {
    return Malformed("EvaluateResponse", absl::StrCat("of ", message.size(), " bytes cannot be parsed"));
  }
  return ReadAnswer(batch, response, message, place, evaluation);
}

absl::Status ReadAnswer(const Batch& batch, const v1::EvaluateResponse& response, const Slices& message, Place place,
                        Evaluation& evaluation) {
  evaluation.summary = ToSummary(response.summary());
  evaluation.queue_seconds = response.timing().queue_seconds();
  evaluation.compute_seconds = response.timing().compute_seconds();
  const int64_t num_elements = NumElementsOf(batch, response);
  absl::Status status = ReadLoss(batch, response, message, place, num_elements);
  for (const Answer& answer : kAnswers) {
    if (status.ok()) status = ReadOutput(batch, answer, response, message, place, num_elements);
  }
  return status;
}

absl::Status Malformed(absl::string_view field, absl::string_view why) {
  return absl::InternalError(absl::StrCat("the server's answer is malformed: ", field, " ", why));
}

DataType GradientType(const Batch& batch) {
  return batch.spec.gradient_type != DataType::kUnspecified ? batch.spec.gradient_type : batch.logits.type.data_type;
}

ServerInfo ToServerInfo(const v1::GetServerInfoResponse& response) {
  ServerInfo info;
  info.version = response.version();
  info.simd_target = response.simd_target();
  info.compute_threads = response.compute_threads();
  info.max_message_bytes = response.max_message_bytes();
  info.memory_budget_bytes = response.memory_budget_bytes();
  info.losses.assign(response.losses().begin(), response.losses().end());
  for (int type : response.data_types()) {
    if (v1::DataType_IsValid(type)) info.data_types.push_back(static_cast<DataType>(type));
  }
  for (int output : response.outputs()) {
    if (v1::Output_IsValid(output)) info.outputs.push_back(static_cast<Output>(output));
  }
  info.extensions.assign(response.extensions().begin(), response.extensions().end());
  return info;
}

}  // namespace lossd
