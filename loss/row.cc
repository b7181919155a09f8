#include "loss/row.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/row.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "loss/loss.h"
#include "loss/row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {

RowKernels<float> Float32Kernels() { return MakeRowKernels<float>(); }
RowKernels<double> Float64Kernels() { return MakeRowKernels<double>(); }
RowKernels<Float16> Float16Kernels() { return MakeRowKernels<Float16>(); }
RowKernels<Bfloat16> Bfloat16Kernels() { return MakeRowKernels<Bfloat16>(); }
const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd {

HWY_EXPORT(Float32Kernels);
HWY_EXPORT(Float64Kernels);
HWY_EXPORT(Float16Kernels);
HWY_EXPORT(Bfloat16Kernels);
HWY_EXPORT(TargetName);

template <>
RowKernels<float> RowKernelsOf() {
  return HWY_DYNAMIC_DISPATCH(Float32Kernels)();
}
template <>
RowKernels<double> RowKernelsOf() {
  return HWY_DYNAMIC_DISPATCH(Float64Kernels)();
}
template <>
RowKernels<Float16> RowKernelsOf() {
  return HWY_DYNAMIC_DISPATCH(Float16Kernels)();
}
template <>
RowKernels<Bfloat16> RowKernelsOf() {
  return HWY_DYNAMIC_DISPATCH(Bfloat16Kernels)();
}

void FlushStreams() { hwy::FlushStream(); }

const char* SimdTarget() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace lossd
#endif  // HWY_ONCE
