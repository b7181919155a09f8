#include "loss/pointwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/pointwise.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#include "loss/pointwise-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {

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

HWY_EXPORT(LogEach);
HWY_EXPORT(Log1pEach);

void LogOf(const double* x, int64_t n, double* y) { HWY_DYNAMIC_DISPATCH(LogEach)(x, n, y); }
void Log1pOf(const double* x, int64_t n, double* y) { HWY_DYNAMIC_DISPATCH(Log1pEach)(x, n, y); }

}  // namespace lossd
#endif  // HWY_ONCE
