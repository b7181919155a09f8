// Where a thread keeps what it needs for one tile of rows (tile.h). Internal to loss/.
#ifndef LOSSD_LOSS_SCRATCH_H_
#define LOSSD_LOSS_SCRATCH_H_

#include <algorithm>
#include <cstdint>

#include "loss/loss.h"

namespace lossd {

// Mass h at a single class of a target distribution.
struct Point {
  int64_t target = 0;
  double mass = 0;
};

// Which tensors are copied to scratch, and where in it: byte offsets, or kInPlace for rows that are used where they
// are.
struct ScratchLayout {
  static constexpr int64_t kInPlace = -1;
  static constexpr int64_t kAlignment = 64;
  static constexpr int64_t kTileBytes = 1 << 18;  // rows of one tile stay in the L2 cache
  static constexpr int64_t kMaxTileElements = 16;

  explicit ScratchLayout(const Plan& plan) {
    const int64_t row_bytes = plan.num_classes * SizeOf(plan.compute_type);
    tile_elements = std::clamp<int64_t>(kTileBytes / row_bytes, 1, kMaxTileElements);
    const int64_t tile_bytes = tile_elements * row_bytes;
    const auto other_type = [&](const TensorType& tensor) { return tensor && tensor.data_type != plan.compute_type; };
    const auto copied = [&](const TensorType& tensor) {
      return tensor && (plan.inner_size != 1 || other_type(tensor));
    };
    const CrossEntropy& loss = plan.cross_entropy;
    const ResultTypes& results = plan.results;
    modified = loss.temperature != 1 || loss.softcap != 0;
    logits = Take(modified || copied(plan.inputs.logits), tile_bytes);
    targets = Take(plan.target_kind == TargetKind::kProbabilities && copied(plan.inputs.targets), tile_bytes);
    // The derivative of the modifiers needs the logits, which the gradient may overwrite.
    logits_gradient = Take(copied(results.logits_gradient) || (modified && results.logits_gradient), tile_bytes);
    targets_gradient = Take(copied(results.targets_gradient), tile_bytes);
    probabilities = Take(copied(results.probabilities), tile_bytes);
    log_probabilities = Take(copied(results.log_probabilities), tile_bytes);
    class_weights = Take(other_type(plan.inputs.class_weights), row_bytes);
    points = Take(plan.sparse_size > 0, plan.sparse_size * static_cast<int64_t>(sizeof(Point)));
  }

  int64_t total_bytes = 0;
  int64_t tile_elements;  // rows evaluated together
  bool modified;          // temperature or softcap: rows are rewritten before they are evaluated
  int64_t logits, targets, logits_gradient, targets_gradient, probabilities, log_probabilities, class_weights, points;

 private:
  int64_t Take(bool needed, int64_t bytes) {
    if (!needed) return kInPlace;
    const int64_t offset = total_bytes;
    total_bytes += (bytes + kAlignment - 1) / kAlignment * kAlignment;
    return offset;
  }
};

}  // namespace lossd

#endif  // LOSSD_LOSS_SCRATCH_H_
