#include "loss/plain_elements.h"

#include <algorithm>
#include <limits>

#include "loss/elementary.h"

namespace lossd {

bool PlainElements::AreEnough(const Block& block) {
  const Plan& plan = block.plan;
  return plan.target_kind == TargetKind::kClassIndices && plan.num_classes <= std::numeric_limits<int32_t>::max();
}

PlainTargets PlainElements::Read(int64_t first, int64_t count, double background_scale) {
  const CrossEntropy& options = block_.plan.cross_entropy;
  first_ = first;
  count_ = count;
  ReadTargets();
  const int64_t end = RoundUpToStep(count);
  std::fill(targets_.begin() + count, targets_.begin() + end, -1);
  const bool gradient = static_cast<bool>(block_.results.logits_gradient);
  for (; filled_ < end; ++filled_) {
    weights_[filled_] = 1;
    if (gradient) upstream_[filled_] = block_.weights.gradient_scale / options.temperature;
  }
  if (const TensorView& weights = block_.inputs.sample_weights) {
    WithFloats(weights, [&](const auto& load) {
      for (int64_t row = 0; row < count; ++row) {
        sample_weights_[row] = load(first + row);
        if (sample_weights_[row] == 0) targets_[row] = -1;
      }
    });
  }
  if (const TensorView& weights = block_.inputs.class_weights) {
    WithFloats(weights, [&](const auto& load) {
      for (int64_t row = 0; row < count; ++row) weights_[row] = load(std::max(targets_[row], 0));
    });
  }
  if (gradient) ReadUpstream();
  return {
      .targets = targets_.data(),
      .weights = weights_.data(),
      .upstream = upstream_.data(),
      .point_scale = 1 - options.label_smoothing,
      .background_scale = background_scale,
      .z_loss = options.z_loss,
      .focal_gamma = options.focal_gamma,
      .poly_epsilon = options.poly_epsilon,
      .losses = losses_.data(),
      .log_sum_exps = block_.results.log_sum_exp ? log_sum_exps_.data() : nullptr,
      .target_log_probabilities = block_.results.target_log_probability ? target_log_probabilities_.data() : nullptr};
}

// Block::Upstream() over the temperature.
void PlainElements::ReadUpstream() {
  const bool weighted = static_cast<bool>(block_.inputs.sample_weights);
  const TensorView& upstream = block_.inputs.upstream_gradient;
  const double temperature = block_.plan.cross_entropy.temperature;
  if (upstream.type.shape.rank() == 0) {
    const double scale = block_.weights.gradient_scale;
    for (int64_t row = 0; weighted && row < count_; ++row) upstream_[row] = sample_weights_[row] * scale / temperature;
    return;
  }
  WithFloats(upstream, [&](const auto& load) {
    for (int64_t row = 0; row < count_; ++row) {
      const double weight = weighted ? sample_weights_[row] : 1;
      upstream_[row] = weight * block_.plan.unit_scale * load(first_ + row) / temperature;
    }
  });
}

void PlainElements::AddLosses() {
  const double unit = block_.plan.unit_scale;
  const std::span<const double> losses(losses_.data(), static_cast<size_t>(count_));
  if (!block_.inputs.sample_weights) return block_.AddLosses(first_, losses, unit);
  for (int64_t row = 0; row < count_; ++row) {
    losses_[row] = targets_[row] < 0 ? 0 : sample_weights_[row] * unit * losses_[row];
  }
  block_.AddLosses(first_, losses, 1);
}

void PlainElements::Store(const std::array<double, kMaxPlainRows>& values, const MutableTensorView& to) const {
  if (!to) return;
  WithFloatType(to.type.data_type, [&]<typename S>(S) {
    for (int64_t row = 0; row < count_; ++row) StoreElement(to.data, first_ + row, FromDouble<S>(values[row]));
  });
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
