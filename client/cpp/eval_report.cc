#include "client/cpp/eval_report.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cpp/json.h"
#include "loss/loss.h"

namespace lossd {
namespace {

std::string Describe(const Tensor& tensor) {
  return absl::StrCat(Name(tensor.data_type()), " ", ToString(tensor.shape()));
}

std::string SummaryJson(const Summary& summary) {
  JsonObject json;
  json.Add("loss_sum", summary.loss_sum);
  json.Add("weight_sum", summary.weight_sum);
  json.Add("element_count", summary.element_count);
  json.Add("ignored_count", summary.ignored_count);
  if (summary.correct_count) json.Add("correct_count", *summary.correct_count);
  json.Add("nonfinite_count", summary.nonfinite_count);
  return json.str();
}

std::string TensorJson(const Tensor& tensor) {
  JsonObject json;
  json.Add("data_type", absl::string_view(Name(tensor.data_type())));
  json.AddJson("shape", JsonArray(tensor.shape().dims(), [](int64_t dim) { return std::string(absl::StrCat(dim)); }));
  return json.str();
}

std::string LossText(const Spec& spec, const Tensor& loss) {
  if (loss.shape().rank() != 0 || spec.reduction == Reduction::kNone) return Describe(loss) + ", not reduced";
  static constexpr const char* kReductions[] = {"mean", "sum", "none", "batch mean"};
  const int digits = loss.data_type() == DataType::kFloat64 ? 17 : 9;
  return absl::StrFormat("%.*g  (%s, %s)", digits, loss.scalar(), kReductions[static_cast<int>(spec.reduction)],
                         spec.unit == InformationUnit::kBits ? "bits" : "nats");
}

std::string SummaryText(const Summary& summary) {
  std::string text =
      absl::StrFormat("loss sum      %.17g\nweight sum    %.17g\n", summary.loss_sum, summary.weight_sum);
  absl::StrAppendFormat(&text, "elements      %d, of them ignored %d, not finite %d\n", summary.element_count,
                        summary.ignored_count, summary.nonfinite_count);
  if (summary.correct_count) absl::StrAppendFormat(&text, "correct       %d\n", *summary.correct_count);
  return text;
}

}  // namespace

std::vector<NamedTensor> ReturnedTensors(const Evaluation& evaluation) {
  std::vector<NamedTensor> tensors;
  ForEachResult(
      [&](const char* name, const Tensor& tensor) {
        if (tensor) tensors.push_back({name, &tensor});
      },
      evaluation);
  return tensors;
}

std::string TextReport(const Spec& spec, const Evaluation& evaluation, absl::Duration round_trip) {
  std::string text = absl::StrCat("loss          ", LossText(spec, evaluation.loss), "\n");
  text += SummaryText(evaluation.summary);
  const char* label = "returned";
  for (const NamedTensor& named : ReturnedTensors(evaluation)) {
    absl::StrAppendFormat(&text, "%-13s %-22s  %s\n", label, named.name, Describe(*named.tensor));
    label = "";
  }
  absl::StrAppendFormat(&text, "time          %.3f ms: queue %.3f ms, compute %.3f ms\n",
                        absl::ToDoubleMilliseconds(round_trip), evaluation.queue_seconds * 1e3,
                        evaluation.compute_seconds * 1e3);
  return text;
}

std::string JsonReport(const Evaluation& evaluation, absl::Duration round_trip) {
  JsonObject tensors;
  for (const NamedTensor& named : ReturnedTensors(evaluation)) tensors.AddJson(named.name, TensorJson(*named.tensor));
  JsonObject json;
  if (evaluation.loss.shape().rank() == 0) {
    json.Add("loss", evaluation.loss.scalar());
  } else {
    json.AddJson("loss", "null");
  }
  json.AddJson("summary", SummaryJson(evaluation.summary));
  json.Add("queue_seconds", evaluation.queue_seconds);
  json.Add("compute_seconds", evaluation.compute_seconds);
  json.Add("round_trip_seconds", absl::ToDoubleSeconds(round_trip));
  json.AddJson("tensors", tensors.str());
  return json.str();
}

}  // namespace lossd
