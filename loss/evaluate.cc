#include "loss/evaluate.h"

#include <algorithm>
#include <iterator>

#include "loss/elementary.h"
#include "loss/pointwise.h"

namespace lossd {
namespace {

void Dispatch(const CrossEntropy&, Block& block) { EvaluateSoftmaxLoss(block); }
void Dispatch(const NegativeLogLikelihood&, Block& block) {
  block.ForEach([&block] { EvaluateNegativeLogLikelihood(block); });
}
void Dispatch(const KlDivergence&, Block& block) {
  block.ForEach([&block] { EvaluateKlDivergence(block); });
}
void Dispatch(const BinaryCrossEntropy&, Block& block) {
  block.ForEach([&block] { EvaluateBinaryCrossEntropy(block); });
}

}  // namespace

int64_t Block::PredictedClass(int64_t element) const {
  int64_t predicted = 0;
  PredictClasses(inputs.logits, plan.RowStart(element), plan.num_classes, plan.inner_size, 1, &predicted);
  return predicted;
}

void Block::AddLosses(int64_t first, std::span<const double> losses, double scale) {
  const bool stored = results.element_loss || plan.spec.reduction == Reduction::kNone;
  const auto place = [&](size_t i) { return first + static_cast<int64_t>(i); };
  std::array<double, kTurns> turns;  // from the turn of the first on
  for (size_t i = 0; i < kTurns; ++i) turns[i] = SumOf(place(i));
  summary.nonfinite_count += AddInTurns(losses.data(), std::ssize(losses), scale, FiniteBelow(), turns.data());
  for (size_t i = 0; i < kTurns; ++i) SumOf(place(i)) = turns[i];
  for (size_t i = 0; stored && i < losses.size(); ++i) StoreLoss(place(i), scale * losses[i]);
}

void SerialFor(int64_t count, absl::FunctionRef<void(int64_t i)> body) {
  for (int64_t i = 0; i < count; ++i) body(i);
}

void EvaluateBlocks(const Plan& plan, const Inputs& inputs, const Weights& weights, Plan::Range blocks,
                    const Results& results, std::byte* scratch, std::span<BlockSummary> summaries,
                    ParallelFor parallel_for) {
  Block work{plan, inputs, weights, results, scratch, blocks, summaries, parallel_for};
  std::visit([&work](const auto& loss) { Dispatch(loss, work); }, plan.spec.loss);
}

double ReduceLoss(const Weights& weights, double loss_sum) {
  const double loss = weights.denominator == 0 ? kNan : loss_sum / weights.denominator;
  return std::isnan(loss) ? kNan : loss;
}

Summary Summarize(const Plan& plan, const Weights& weights, std::span<const BlockSummary> blocks,
                  const Results& results) noexcept {
  Summary summary;
  int64_t correct_count = 0;
  const auto blocks_per_segment = static_cast<size_t>(plan.BlocksPerSegment());
  double segment_sum = 0;
  for (size_t i = 0; i < blocks.size(); ++i) {
    segment_sum += blocks[i].loss_sum;
    summary.nonfinite_count += blocks[i].nonfinite_count;
    correct_count += blocks[i].correct_count;
    if ((i + 1) % blocks_per_segment != 0 && i + 1 != blocks.size()) continue;
    summary.loss_sum += segment_sum;
    segment_sum = 0;
  }
  summary.weight_sum = weights.weight_sum;
  summary.element_count = plan.num_elements;
  summary.ignored_count = weights.ignored_count;
  if (results.predicted_class && plan.target_kind == TargetKind::kClassIndices) summary.correct_count = correct_count;
  if (plan.spec.reduction == Reduction::kNone) return summary;
  StoreFloat(results.loss, 0, ReduceLoss(weights, summary.loss_sum));
  return summary;
}

}  // namespace lossd
