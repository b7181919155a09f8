#include "loss/column.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/column.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#include "loss/column-inl.h"
#include "loss/log-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {

template <class Function>
void MapAll(const double* x, int64_t size, double* y, const Function& function) {
  const hn::ScalableTag<double> d;
  MapRow(
      d, static_cast<size_t>(size), [&](const auto& load) HWY_ATTR { return function(d, load(x)); }, {}, y);
}

void Log1pOfAll(const double* x, int64_t size, double* y) {
  MapAll(x, size, y, [](auto d, auto v) HWY_ATTR { return Log1p(d, v); });
}
void ExpOfAll(const double* x, int64_t size, double* y) {
  MapAll(x, size, y, [](auto d, auto v) HWY_ATTR {
    const auto scaled = ScaledExp(d, v, OriginOf(d, hn::Zero(d)));
    return hn::Mul(scaled, hn::Set(d, ExpConstants<double>::kUnscale));
  });
}

ColumnKernels<float> Float32Columns() { return MakeColumnKernels<float>(); }
ColumnKernels<double> Float64Columns() { return MakeColumnKernels<double>(); }
ColumnKernels<Float16> Float16Columns() { return MakeColumnKernels<Float16>(); }
ColumnKernels<Bfloat16> Bfloat16Columns() { return MakeColumnKernels<Bfloat16>(); }

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd {

HWY_EXPORT(Log1pOfAll);
HWY_EXPORT(ExpOfAll);
HWY_EXPORT(Float32Columns);
HWY_EXPORT(Float64Columns);
HWY_EXPORT(Float16Columns);
HWY_EXPORT(Bfloat16Columns);

void Log1pAll(const double* x, int64_t size, double* y) { HWY_DYNAMIC_DISPATCH(Log1pOfAll)(x, size, y); }
void ExpAll(const double* x, int64_t size, double* y) { HWY_DYNAMIC_DISPATCH(ExpOfAll)(x, size, y); }

template <>
ColumnKernels<float> ColumnKernelsOf() {
  return HWY_DYNAMIC_DISPATCH(Float32Columns)();
}
template <>
ColumnKernels<double> ColumnKernelsOf() {
  return HWY_DYNAMIC_DISPATCH(Float64Columns)();
}
template <>
ColumnKernels<Float16> ColumnKernelsOf() {
  return HWY_DYNAMIC_DISPATCH(Float16Columns)();
}
template <>
ColumnKernels<Bfloat16> ColumnKernelsOf() {
  return HWY_DYNAMIC_DISPATCH(Bfloat16Columns)();
}

}  // namespace lossd
#endif  // HWY_ONCE
