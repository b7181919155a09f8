#include "loss/elementary.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/elementary.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#include "loss/exp-inl.h"
#include "loss/lanes-inl.h"
#include "loss/log-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// y_i = map(d, x_i).
template <class Map>
HWY_INLINE void MapDoubles(const double* x, int64_t n, double* y, const Map& map) {
  const hn::ScalableTag<double> d;
  const auto size = static_cast<size_t>(n), lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) StoreLanes(map(d, LoadLanes(d, x + i)), d, y + i);
  if (i < size) StoreTail(map(d, LoadTail(d, x + i, size - i)), d, y + i, size - i);
}

void ExpEach(const double* x, int64_t n, double* y) {
  MapDoubles(x, n, y, [](auto d, auto v) HWY_ATTR {
    const auto scaled = ScaledExp(d, v, OriginOf(d, hn::Zero(d)));
    return hn::Mul(scaled, hn::Set(d, ExpConstants<double>::kUnscale));
  });
}
void LogEach(const double* x, int64_t n, double* y) {
  MapDoubles(x, n, y, [](auto d, auto v) HWY_ATTR { return Log(d, v); });
}
void Log1pEach(const double* x, int64_t n, double* y) {
  MapDoubles(x, n, y, [](auto d, auto v) HWY_ATTR { return Log1p(d, v); });
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd {

HWY_EXPORT(ExpEach);
HWY_EXPORT(LogEach);
HWY_EXPORT(Log1pEach);

void ExpAll(const double* x, int64_t size, double* y) { HWY_DYNAMIC_DISPATCH(ExpEach)(x, size, y); }
void LogAll(const double* x, int64_t size, double* y) { HWY_DYNAMIC_DISPATCH(LogEach)(x, size, y); }
void Log1pAll(const double* x, int64_t size, double* y) { HWY_DYNAMIC_DISPATCH(Log1pEach)(x, size, y); }

}  // namespace lossd
#endif  // HWY_ONCE
