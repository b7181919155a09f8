// What the losses of loss/ have in common, and where they part. Internal to loss/.
#ifndef LOSSD_LOSS_EVALUATE_H_
#define LOSSD_LOSS_EVALUATE_H_

#include <array>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <span>

#include "loss/element.h"
#include "loss/elementary.h"
#include "loss/loss.h"
#include "loss/targets.h"

namespace lossd {

inline constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

// Everything about the blocks that a thread evaluates together, and about the one it is at: elements [begin, end).
struct Block {
  const Plan& plan;
  const Inputs& inputs;
  const Weights& weights;
  const Results& results;
  std::byte* const scratch;
  const Plan::Range blocks;
  const std::span<BlockSummary> summaries;
  const ParallelFor parallel_for;
  int64_t begin = 0, end = 0;
  BlockSummary summary = {};
  // Elements take turns at a few sums of losses, so that none has to wait for the one before it.
  std::array<double, kTurns> sums = {};

  // Goes to each block in turn and calls evaluate().
  template <typename Evaluate>
  void ForEach(const Evaluate& evaluate) {
    for (int64_t block = blocks.begin; block < blocks.end; ++block) {
      const Plan::Range elements = plan.ElementsOf(block);
      begin = elements.begin;
      end = elements.end;
      summary = {};
      sums = {};
      evaluate();
      for (size_t width = kTurns / 2; width > 0; width /= 2) {
        for (size_t i = 0; i < width; ++i) sums[i] += sums[i + width];
      }
      summary.loss_sum += sums[0];
      summaries[static_cast<size_t>(block)] = summary;
    }
  }

  // The element's g: dL/d(its loss), sample weight and unit included.
  double Upstream(int64_t element) const {
    const double s = SampleWeight(inputs, element);
    if (inputs.upstream_gradient.type.shape.rank() == 0) return s * weights.gradient_scale;
    return s * plan.unit_scale * FloatAt(inputs.upstream_gradient, element);
  }

  // The class of the element's largest logit, the lowest of equals; -1 where the row has NaN. Of the logits as they
  // came: temperature and softcap keep their order, but may round two of them to one.
  int64_t PredictedClass(int64_t element) const;

  // From here on a loss, as the caller sees it, is infinite: halfway to the power of two that float32 does not have.
  double FiniteBelow() const {
    return plan.results.loss.data_type == DataType::kFloat32 ? 0x1.ffffffp127 : std::numeric_limits<double>::infinity();
  }

  // Records the loss of an element, before its sample weight and unit.
  void AddLoss(int64_t element, double raw_loss) {
    const double loss = SampleWeight(inputs, element) * plan.unit_scale * raw_loss;
    SumOf(element) += loss;
    summary.nonfinite_count += std::fabs(loss) < FiniteBelow() ? 0 : 1;
    StoreLoss(element, loss);
  }
  // The same for elements [first, first + losses.size()), where `scale` is sample weight and unit; of those ignored, 0.
  void AddLosses(int64_t first, std::span<const double> losses, double scale);
  // An element that counts nowhere.
  void AddIgnored(int64_t element) { StoreLoss(element, 0); }

 private:
  double& SumOf(int64_t element) { return sums[static_cast<size_t>(element - begin) % kTurns]; }

  void StoreLoss(int64_t element, double loss) {
    if (std::isnan(loss)) loss = kNan;  // which sign a NaN has is up to the compiler
    if (results.element_loss) StoreFloat(results.element_loss, element, loss);
    if (plan.spec.reduction == Reduction::kNone) StoreFloat(results.loss, element, loss);
  }
};

// mass * cost, where nothing of what is impossible costs nothing: 0 * inf = 0.
inline double MassTimes(double mass, double cost) { return mass == 0 && std::isinf(cost) ? 0 : mass * cost; }

// -mass * ln p, where 0 * ln 0 = 0.
inline double CrossTerm(double mass, double log_p) { return MassTimes(mass, -log_p); }

// One for each loss; docs/numerics.md says what they compute.
void EvaluateSoftmaxLoss(Block& block);  // softmax_loss.cc: cross-entropy and all that modifies it, all blocks
void EvaluateNegativeLogLikelihood(Block& block);  // pointwise_loss.cc, the block it is at
void EvaluateKlDivergence(Block& block);
void EvaluateBinaryCrossEntropy(Block& block);

}  // namespace lossd

#endif  // LOSSD_LOSS_EVALUATE_H_
