#include "loss/plain_elements.h"

#include <algorithm>
#include <limits>

#include "loss/decide.h"
#include "loss/elementary.h"

namespace lossd {

bool PlainElements::AreEnough(const Block& block) {
  const Plan& plan = block.plan;
  const CrossEntropy& options = plan.cross_entropy;
  const bool index = plan.target_kind == TargetKind::kClassIndices && !block.inputs.sample_weights;
  const bool scalar = block.inputs.upstream_gradient.type.shape.rank() == 0;
  const bool more = block.results.log_sum_exp || block.results.target_log_probability;
  const bool modified = options.z_loss != 0 || IsModified(options);
  const bool narrow = plan.num_classes <= std::numeric_limits<int32_t>::max();
  return index && scalar && !more && !modified && narrow;
}

PlainTargets PlainElements::Read(int64_t first, int64_t count, double background_scale) {
  first_ = first;
  count_ = count;
  ReadTargets();
  const int64_t end = RoundUpToStep(count);
  std::fill(targets_.begin() + count, targets_.begin() + end, -1);
  for (; weighed_ < end; ++weighed_) weights_[weighed_] = 1;
  if (const TensorView& weights = block_.inputs.class_weights) {
    WithFloats(weights, [&](const auto& load) {
      for (int64_t row = 0; row < count; ++row) weights_[row] = load(std::max(targets_[row], 0));
    });
  }
  return {.targets = targets_.data(),
          .weights = weights_.data(),
          .point_scale = 1 - block_.plan.cross_entropy.label_smoothing,
          .background_scale = background_scale,
          .gradient_scale = block_.weights.gradient_scale,
          .losses = losses_.data()};
}

// Those after them are asked for: classes that lie apart leave the hardware no stream to notice.
void PlainElements::ReadTargets() {
  const TensorView& indices = block_.inputs.targets;
  const int64_t size = SizeOf(indices.type.data_type), ignore_index = block_.plan.ignore_index;
  const auto* const data = static_cast<const char*>(indices.data) + first_ * size;
  for (int64_t i = 0; i < count_ * size; i += 64) __builtin_prefetch(data + count_ * size + i);
  if (indices.type.data_type == DataType::kInt64) {
    return NarrowIndices(reinterpret_cast<const int64_t*>(data), count_, ignore_index, targets_.data());
  }
  WithIntegers(indices, [&](const auto& load) {
    for (int64_t row = 0; row < count_; ++row) {
      const int64_t target = load(first_ + row);
      targets_[row] = target == ignore_index ? -1 : static_cast<int32_t>(target);
    }
  });
}

}  // namespace lossd
