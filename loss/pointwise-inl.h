// Bodies of pointwise.h for one SIMD target.

#if defined(LOSSD_LOSS_POINTWISE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_POINTWISE_INL_H_
#undef LOSSD_LOSS_POINTWISE_INL_H_
#else
#define LOSSD_LOSS_POINTWISE_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

#include "loss/lanes-inl.h"
#include "loss/log-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using Doubles = hn::ScalableTag<double>;

// y_i = map(d, x_i).
template <class Map>
HWY_INLINE void MapDoubles(const double* x, int64_t n, double* y, const Map& map) {
  const Doubles d;
  const auto size = static_cast<size_t>(n), lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) StoreLanes(map(d, LoadLanes(d, x + i)), d, y + i);
  if (i < size) StoreTail(map(d, LoadTail(d, x + i, size - i, 1.0)), d, y + i, size - i);
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_POINTWISE_INL_H_
