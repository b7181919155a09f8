// The decide step of a softmax loss: from a row's sums to its loss and the coefficients of its gradient, in double. A
// new loss is a few lines here (docs/design.md, "Adding a loss"). Internal to loss/.
//
// Notation of row.h: m = max x, d = sum exp(x - m), p the softmax; h_k mass at a single class, t the background.
#ifndef LOSSD_LOSS_DECIDE_H_
#define LOSSD_LOSS_DECIDE_H_

#include <algorithm>
#include <cmath>
#include <compare>
#include <span>

#include "loss/element.h"
#include "loss/evaluate.h"
#include "loss/power.h"
#include "loss/row.h"
#include "loss/spec.h"

namespace lossd {

// A row after its reduction: the softmax of its logits, without loss of precision at either end.
class Softmax {
 public:
  // `log_denominator` is log1p(sums.others).
  Softmax(const RowSums& sums, double log_denominator)
      : max_(sums.max), has_nan_(std::isnan(sums.others)), others_(sums.others), log_denominator_(log_denominator) {
    // A +inf, or nothing but -inf. Which sign a NaN has is nobody's business.
    if (has_nan_ || !std::isfinite(max_)) others_ = log_denominator_ = kNan;
  }

  double max() const { return max_; }
  double denominator() const { return 1 + others_; }  // d
  double log_denominator() const { return log_denominator_; }
  double LogSumExp() const { return std::isinf(max_) && !has_nan_ ? max_ : max_ + log_denominator(); }
  double LogProbability(double x) const { return is_nan() ? kNan : (x - max_) - log_denominator(); }
  // Of exp(x - max()).
  double Probability(double exp) const { return exp / denominator(); }
  // 1 - p, exact where p is near 1.
  double Complement(double exp) const { return (exp == 1 ? others_ : denominator() - exp) / denominator(); }
  bool is_nan() const { return std::isnan(others_); }
  // Whether one class has more than two thirds: RowSums::argmax, which is known then.
  bool is_sure() const { return others_ < 0.5; }

 private:
  double max_;
  bool has_nan_;
  double others_;  // d - 1
  double log_denominator_;
};

// The row's loss, and the gradient's coefficients: dx_j = p_factor p_j - t_j - sum_k h_k ([j = k] - p_j).
struct Decision {
  double loss = 0;
  double p_factor = 0;
};

// An entry of the gradient over the upstream gradient, p_factor p - t, of a class of which exp is exp(x - max()) and t
// the background: precise where p is near 1, as p_factor and t then often are.
inline double EntryOf(const Softmax& softmax, double p_factor, double exp, double t) {
  return (p_factor - t) * softmax.Probability(exp) - t * softmax.Complement(exp);
}

// Focal and poly losses bend -ln p_y, here with l = ln p_y and h = w_y:
//   loss = h (1-p)^gamma (-l) + epsilon (1-p),  -dloss/dl = h (1-p)^gamma (1 + gamma p (-l)/(1-p)) + epsilon p
// which takes h's place in the gradient. (-l)/(1-p) tends to 1 as p does, so nothing overflows for gamma < 1.
inline double Modify(const CrossEntropy& options, const Softmax& softmax, double x, Point& point) {
  const double p = softmax.Probability(point.exp), complement = softmax.Complement(point.exp);
  const double l = softmax.LogProbability(x);
  const double focus = PowerOf(complement, options.focal_gamma);
  const double ratio = complement == 0 ? 1 : -l / complement;
  const double slope = p == 0 ? 0 : options.focal_gamma * p * ratio;
  const double loss = CrossTerm(point.value * focus, l) + options.poly_epsilon * complement;
  point.value = point.value * focus * (1 + slope) + options.poly_epsilon * p;
  return loss;
}

// An element's points by class, each class once, in their place.
inline std::span<Point> MergePoints(std::span<Point> points) {
  if (points.size() < 2) return points;
  // The order of the sum is the row's own, not the caller's; a total order, NaN included.
  std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) {
    return a.target != b.target ? a.target < b.target : std::strong_order(a.value, b.value) < 0;
  });
  size_t last = 0;
  for (size_t i = 1; i < points.size(); ++i) {
    if (points[i].target == points[last].target) {
      points[last].value += points[i].value;
    } else {
      points[++last] = points[i];
    }
  }
  return points.first(last + 1);
}

// Whether Decide() reads Point::exp; the gradient always does.
inline bool IsModified(const CrossEntropy& options) { return options.focal_gamma != 0 || options.poly_epsilon != 0; }

// `points` are the masses h by class, each class once; logit_at(k) is x_k.
template <typename LogitAt>
Decision Decide(const CrossEntropy& options, const RowSums& sums, const Softmax& softmax, const LogitAt& logit_at,
                std::span<Point> points) {
  Decision decision{kNan, sums.background};
  if (softmax.is_nan()) return decision;
  decision.loss = sums.background * softmax.log_denominator() - sums.background_dot;
  const bool modified = IsModified(options);
  for (Point& point : points) {
    const double logit = logit_at(point.target);
    decision.loss +=
        modified ? Modify(options, softmax, logit, point) : CrossTerm(point.value, softmax.LogProbability(logit));
  }
  if (options.z_loss != 0) {
    const double lse = softmax.LogSumExp();
    decision.loss += options.z_loss * lse * lse;
    decision.p_factor += 2 * options.z_loss * lse;
  }
  return decision;
}

}  // namespace lossd

#endif  // LOSSD_LOSS_DECIDE_H_
