#include "client/cpp/verify.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "client/cpp/batch_inputs.h"
#include "loss/element.h"
#include "loss/reference.h"

namespace lossd {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

double Error(long double answer, long double truth) {
  if (std::isnan(answer) && std::isnan(truth)) return 0;
  if (answer == truth) return 0;
  const long double error = std::abs(answer - truth);
  return std::isnan(error) ? kInfinity : static_cast<double>(error);
}

// Takes the worst of the entries it is shown.
class Worst {
 public:
  Worst(std::string field, DataType type, DataType compute_type) : type_(type), compute_type_(compute_type) {
    difference_.field = std::move(field);
  }

  void Add(int64_t index, double answer, long double truth, long double magnitude) {
    const double error = Error(static_cast<long double>(answer), truth);
    const double tolerance = static_cast<double>(Tolerance(type_, compute_type_, truth, magnitude));
    const double share = error == 0 ? 0 : tolerance > 0 && std::isfinite(tolerance) ? error / tolerance : kInfinity;
    if (shown_++ > 0 && share <= difference_.tolerance_share) return;
    difference_.index = index;
    difference_.answer = answer;
    difference_.truth = static_cast<double>(truth);
    difference_.error = error;
    difference_.tolerance_share = share;
  }

  const Difference& difference() const { return difference_; }

 private:
  DataType type_;
  DataType compute_type_;
  int64_t shown_ = 0;
  Difference difference_;
};

Difference Compare(const char* field, const Tensor& answer, DataType compute_type, const ReferenceTensor& truth) {
  Worst worst(field, answer.data_type(), compute_type);
  const TensorView view = answer.view();
  const auto size = static_cast<size_t>(NumElements(answer.shape()));
  if (size != truth.value.size()) worst.Add(0, static_cast<double>(size), kInfinity, 0);
  for (size_t i = 0; i < std::min(size, truth.value.size()); ++i) {
    const auto index = static_cast<int64_t>(i);
    const bool is_float = IsFloat(answer.data_type());
    const double value = is_float ? FloatAt(view, index) : static_cast<double>(IntegerAt(view, index));
    // Classes are right or wrong.
    worst.Add(index, is_float || value == truth.value[i] ? value : kInfinity, truth.value[i], truth.magnitude[i]);
  }
  return worst.difference();
}

Difference CompareNumber(const char* field, double answer, long double truth) {
  Worst worst(field, DataType::kFloat64, DataType::kFloat64);
  worst.Add(0, answer, truth, std::abs(truth));
  return worst.difference();
}

}  // namespace

absl::StatusOr<std::vector<Difference>> CompareWithReference(const Batch& batch, const Evaluation& evaluation) {
  const Inputs inputs = InputsOf(batch);
  const absl::StatusOr<Plan> plan = MakePlan(batch.spec, TypesOf(inputs));
  if (!plan.ok()) return plan.status();
  const absl::StatusOr<Weights> weights = WeighElements(*plan, inputs);
  if (!weights.ok()) return weights.status();

  Reference reference = EvaluateReference(*plan, inputs);
  if (batch.spec.reduction == Reduction::kNone) reference.results.loss = reference.results.element_loss;
  std::vector<Difference> differences = {
      CompareNumber("summary.weight_sum", evaluation.summary.weight_sum, reference.weight_sum)};
  ForEachResult(
      [&](const char* name, const Tensor& answer, const ReferenceTensor& truth) {
        if (answer) differences.push_back(Compare(name, answer, plan->compute_type, truth));
      },
      evaluation, reference.results);
  return differences;
}

}  // namespace lossd
