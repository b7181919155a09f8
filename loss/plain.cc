#include "loss/plain.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/plain.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#include "loss/plain-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <bool kGradient>
void DecideAll(int64_t count, double gradient_scale, PlainElements& elements, PlainRows& rows) {
  const hn::ScalableTag<double> d;
  const auto sums = [&](size_t, size_t r) HWY_ATTR -> PlainSums<hn::Vec<decltype(d)>> {
    const auto max = hn::LoadU(d, rows.max.data() + r);
    return {OthersBelow(d, max, hn::LoadU(d, rows.others.data() + r)),
            hn::Sub(hn::LoadU(d, rows.logits.data() + r), max)};
  };
  const auto store = [&](size_t, size_t r, const auto& decision) HWY_ATTR {
    hn::StoreU(decision.p_scale, d, rows.p_scales.data() + r);
    hn::StoreU(decision.point, d, rows.points.data() + r);
  };
  for (size_t r = 0; r < static_cast<size_t>(count); r += kDecided * hn::Lanes(d)) {
    DecideVectors<kGradient>(d, gradient_scale, elements, r, sums, store);
  }
}

void DecideAny(int64_t count, double gradient_scale, bool gradient, PlainElements& elements, PlainRows& rows) {
  return gradient ? DecideAll<true>(count, gradient_scale, elements, rows)
                  : DecideAll<false>(count, gradient_scale, elements, rows);
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd {

HWY_EXPORT(DecideAny);

void DecidePlainRows(int64_t count, double gradient_scale, bool gradient, PlainElements& elements, PlainRows& rows) {
  HWY_DYNAMIC_DISPATCH(DecideAny)(count, gradient_scale, gradient, elements, rows);
}

bool PlainElements::AreEnough(const Block& block) {
  const Plan& plan = block.plan;
  const CrossEntropy& options = plan.cross_entropy;
  const bool index = plan.target_kind == TargetKind::kClassIndices && !block.inputs.sample_weights;
  const bool scalar = block.inputs.upstream_gradient.type.shape.rank() == 0;
  const bool more = block.results.log_sum_exp || block.results.target_log_probability;
  const bool modified = options.label_smoothing != 0 || options.z_loss != 0 || options.focal_gamma != 0 ||
                        options.poly_epsilon != 0 || options.temperature != 1 || options.softcap != 0;
  return index && scalar && !more && !modified;
}

void PlainElements::Read(int64_t first, int64_t count) {
  first_ = first;
  count_ = count;
  ReadTargets();
  const int64_t end = (count + kPlainStep - 1) / kPlainStep * kPlainStep;
  std::fill(targets.begin() + count, targets.begin() + end, -1);
  for (; weighed_ < end; ++weighed_) masses[weighed_] = 1;
  for (int64_t row = 0; block_.inputs.class_weights && row < count; ++row) {
    if (targets[row] >= 0) masses[row] = ClassWeight(block_.inputs, targets[row]);
  }
}

// Those after them are asked for: classes that lie apart leave the hardware no stream to notice.
void PlainElements::ReadTargets() {
  const TensorView& indices = block_.inputs.targets;
  const int64_t size = SizeOf(indices.type.data_type), ignore_index = block_.plan.ignore_index;
  const auto* const data = static_cast<const char*>(indices.data) + first_ * size;
  for (int64_t i = 0; i < count_ * size; i += 64) __builtin_prefetch(data + count_ * size + i);
  if (indices.type.data_type == DataType::kInt64) {
    return NarrowIndices(reinterpret_cast<const int64_t*>(data), count_, ignore_index, targets.data());
  }
  WithIntegers(indices, [&](const auto& load) {
    for (int64_t row = 0; row < count_; ++row) {
      const int64_t target = load(first_ + row);
      targets[row] = target == ignore_index ? -1 : static_cast<int32_t>(target);
    }
  });
}

}  // namespace lossd
#endif  // HWY_ONCE
