// Losses without a softmax: one logit of a row (negative log-likelihood), or one entry at a time (KL divergence, binary
// cross-entropy). Scalar, in double: each value is read once, and rounded once.
#include <algorithm>
#include <cmath>
#include <cstring>

#include "loss/evaluate.h"

namespace lossd {
namespace {

// Calls visit(first, count) for each run of the logits that rows [begin, end) have, in the tensor's order.
template <typename Visit>
void ForEachRun(const Block& block, const Visit& visit) {
  const int64_t inner = block.plan.inner_size, num_classes = block.plan.num_classes;
  for (int64_t element = block.begin; element < block.end;) {
    const int64_t count = std::min(block.end - element, inner - element % inner);
    const int64_t start = block.plan.RowStart(element);
    for (int64_t c = 0; c < num_classes; ++c) visit(start + c * inner, count);
    element += count;
  }
}

void ZeroGradient(const Block& block) {
  const MutableTensorView& gradient = block.results.logits_gradient;
  const int64_t size = SizeOf(gradient.type.data_type);
  ForEachRun(block, [&](int64_t first, int64_t count) {
    std::memset(static_cast<char*>(gradient.data) + first * size, 0, static_cast<size_t>(count * size));
  });
}

// What one entry contributes: its loss, and its derivatives by logit and target.
struct Entry {
  double loss;
  double logit_slope;
  double target_slope;
};

template <typename Function>
void EvaluateEntries(Block& block, const Function& evaluate) {
  const Results& results = block.results;
  for (int64_t i = block.begin; i < block.end; ++i) {
    if (IsIgnored(block.plan, block.inputs, i)) {
      block.AddIgnored(i);
      if (results.logits_gradient) StoreFloat(results.logits_gradient, i, 0);
      if (results.targets_gradient) StoreFloat(results.targets_gradient, i, 0);
      continue;
    }
    const double x = FloatAt(block.inputs.logits, i), t = FloatAt(block.inputs.targets, i);
    // A NaN makes its own entry NaN, also where it would be multiplied by 0.
    const Entry entry = std::isnan(x) || std::isnan(t) ? Entry{kNan, kNan, kNan} : evaluate(i, x, t);
    const double g = block.Upstream(i);
    block.AddLoss(i, entry.loss);
    if (results.targets_gradient) StoreFloat(results.targets_gradient, i, MassTimes(g, entry.target_slope));
    if (results.logits_gradient) StoreFloat(results.logits_gradient, i, MassTimes(g, entry.logit_slope));
  }
}

// t (ln t - x), 0 at t = 0.
Entry KlOf(double x, double t) {
  const double log_t = std::log(t);
  return {t == 0 ? 0 : t * (log_t - x), -t, log_t - x + 1};
}

// exp(t) (t - x), 0 at t = -inf.
Entry KlOfLogTarget(double x, double t) {
  const double p = std::exp(t);
  return {p == 0 ? 0 : p * (t - x), -p, p == 0 ? 0 : p * (t - x + 1)};
}

// ln(1 + exp(x)), precise at both ends.
double Softplus(double x) { return std::max(x, 0.0) + std::log1p(std::exp(-std::fabs(x))); }
double Sigmoid(double x) {
  const double e = std::exp(-std::fabs(x));
  return (x >= 0 ? 1 : e) / (1 + e);
}

// w t' softplus(-x) + (1 - t') softplus(x), t' = t (1 - e) + e/2: no term is a difference, so neither end loses
// precision.
Entry BinaryCrossEntropyOf(double x, double t, double e, double w) {
  const double yes = t * (1 - e) + e / 2, no = (1 - t) * (1 - e) + e / 2;
  const double cost_of_yes = Softplus(-x), cost_of_no = Softplus(x);
  return {MassTimes(w * yes, cost_of_yes) + MassTimes(no, cost_of_no), no * Sigmoid(x) - w * yes * Sigmoid(-x),
          MassTimes(1 - e, MassTimes(w, cost_of_yes) - cost_of_no)};
}

// Where entry `index` of a tensor of shape `to` finds its value in one of shape `from`, broadcast from the last axis.
int64_t BroadcastIndex(const Shape& from, const Shape& to, int64_t index) {
  int64_t result = 0, stride = 1;
  const int offset = to.rank() - from.rank();
  for (int axis = to.rank() - 1; axis >= offset; --axis) {
    const int64_t extent = from[axis - offset];
    if (extent != 1) result += index % to[axis] * stride;
    stride *= extent;
    index /= to[axis];
  }
  return result;
}

}  // namespace

void EvaluateNegativeLogLikelihood(Block& block) {
  const Plan& plan = block.plan;
  const Results& results = block.results;
  const auto for_each_row = [&](const auto& visit) {
    for (int64_t element = block.begin; element < block.end; ++element) {
      visit(element, IntegerAt(block.inputs.targets, element), plan.RowStart(element));
    }
  };
  for_each_row([&](int64_t element, int64_t target, int64_t start) {
    const bool ignored = IsIgnored(plan, block.inputs, element);
    if (results.predicted_class) {
      const int64_t predicted = block.PredictedClass(element);
      StoreElement(results.predicted_class.data, element, predicted);
      if (!ignored && predicted == target) ++block.summary.correct_count;
    }
    const double x = ignored ? 0 : FloatAt(block.inputs.logits, start + target * plan.inner_size);
    if (results.target_log_probability) StoreFloat(results.target_log_probability, element, x);
    if (ignored) return block.AddIgnored(element);
    block.AddLoss(element, CrossTerm(ClassWeight(block.inputs, target), x));
  });
  if (!results.logits_gradient) return;
  ZeroGradient(block);  // it may be the logits themselves, which are not needed any more
  for_each_row([&](int64_t element, int64_t target, int64_t start) {
    if (IsIgnored(plan, block.inputs, element)) return;
    const double slope = -block.Upstream(element) * ClassWeight(block.inputs, target);
    StoreFloat(results.logits_gradient, start + target * plan.inner_size, slope);
  });
}

void EvaluateKlDivergence(Block& block) {
  if (std::get<KlDivergence>(block.plan.spec.loss).log_target) {
    EvaluateEntries(block, [](int64_t, double x, double t) { return KlOfLogTarget(x, t); });
  } else {
    EvaluateEntries(block, [](int64_t, double x, double t) { return KlOf(x, t); });
  }
}

void EvaluateBinaryCrossEntropy(Block& block) {
  const double smoothing = std::get<BinaryCrossEntropy>(block.plan.spec.loss).label_smoothing;
  const TensorView& weights = block.inputs.class_weights;
  const Shape& shape = block.plan.inputs.logits.shape;
  EvaluateEntries(block, [&](int64_t i, double x, double t) {
    const double w = weights ? FloatAt(weights, BroadcastIndex(weights.type.shape, shape, i)) : 1;
    return BinaryCrossEntropyOf(x, t, smoothing, w);
  });
}

}  // namespace lossd
