#include "loss/plain.h"

#include <algorithm>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/plain.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#include "loss/element.h"
#include "loss/plain-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <bool kGradient, bool kBackground, bool kModified>
void DecideAll(int64_t count, const PlainTargets& targets, PlainRows& rows) {
  const hn::ScalableTag<double> d;
  using V = hn::Vec<decltype(d)>;
  for (auto* array : {&rows.max, &rows.others, &rows.logits, &rows.background, &rows.background_dot}) {
    std::fill(array->begin() + count, array->begin() + RoundUpToStep(count), 0);
  }
  const auto sums = [&](size_t, size_t r) HWY_ATTR -> PlainSums<V> {
    const auto load = [r, d](const auto& array) HWY_ATTR { return hn::LoadU(d, array.data() + r); };
    const V max = load(rows.max), none = hn::Zero(d);
    return {max, load(rows.others), hn::Sub(load(rows.logits), max), kBackground ? load(rows.background) : none,
            kBackground ? load(rows.background_dot) : none};
  };
  const auto store = [&](size_t, size_t r, const auto& decision) HWY_ATTR {
    hn::StoreU(decision.p_scale, d, rows.p_scales.data() + r);
    hn::StoreU(decision.point, d, rows.points.data() + r);
  };
  for (size_t r = 0; r < static_cast<size_t>(count); r += kDecided * hn::Lanes(d)) {
    DecideVectors<kGradient, kBackground, kModified>(d, targets, r, sums, store);
  }
}

void DecideAny(int64_t count, bool gradient, const PlainTargets& targets, PlainRows& rows) {
  WithBool(gradient, [&](auto is_gradient) {
    WithBool(targets.background_scale != 0, [&](auto background) {
      WithBool(targets.modifies(), [&](auto modified) {
        DecideAll<is_gradient.value, background.value, modified.value>(count, targets, rows);
      });
    });
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd {

HWY_EXPORT(DecideAny);

void DecidePlainRows(int64_t count, bool gradient, const PlainTargets& targets, PlainRows& rows) {
  HWY_DYNAMIC_DISPATCH(DecideAny)(count, gradient, targets, rows);
}

}  // namespace lossd
#endif  // HWY_ONCE
