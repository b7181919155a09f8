#include "loss/column.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/column.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#include "loss/column-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {

ColumnKernels<float> Float32Columns() { return MakeColumnKernels<float>(); }
ColumnKernels<double> Float64Columns() { return MakeColumnKernels<double>(); }

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd {

HWY_EXPORT(Float32Columns);
HWY_EXPORT(Float64Columns);

template <>
ColumnKernels<float> ColumnKernelsOf() {
  return HWY_DYNAMIC_DISPATCH(Float32Columns)();
}
template <>
ColumnKernels<double> ColumnKernelsOf() {
  return HWY_DYNAMIC_DISPATCH(Float64Columns)();
}

}  // namespace lossd
#endif  // HWY_ONCE
