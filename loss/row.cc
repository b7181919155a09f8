#include "loss/row.h"

#include <algorithm>
#include <cmath>
#include <limits>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/row.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#include "loss/loss.h"
#include "loss/row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {

RowSums ReduceRowF32(const float* x, int64_t num_classes, const Background<float>& background) {
  return ReduceRowAny(x, num_classes, background);
}
RowSums ReduceRowF64(const double* x, int64_t num_classes, const Background<double>& background) {
  return ReduceRowAny(x, num_classes, background);
}
void ScatterRowF32(const float* x, int64_t num_classes, double max, double p_scale, double t_scale,
                   const Background<float>& background, float* dx) {
  return ScatterRowAny(x, num_classes, max, p_scale, t_scale, background, dx);
}
void ScatterRowF64(const double* x, int64_t num_classes, double max, double p_scale, double t_scale,
                   const Background<double>& background, double* dx) {
  return ScatterRowAny(x, num_classes, max, p_scale, t_scale, background, dx);
}
void LogSoftmaxRowF32(const float* x, int64_t num_classes, double max, double log_denominator, float* y) {
  return LogSoftmaxRowAny(x, num_classes, max, log_denominator, y);
}
void LogSoftmaxRowF64(const double* x, int64_t num_classes, double max, double log_denominator, double* y) {
  return LogSoftmaxRowAny(x, num_classes, max, log_denominator, y);
}
double EntropySumF32(const float* x, int64_t num_classes, double max) { return EntropySumAny(x, num_classes, max); }
double EntropySumF64(const double* x, int64_t num_classes, double max) { return EntropySumAny(x, num_classes, max); }
const char* TargetName() { return hwy::TargetName(HWY_TARGET); }

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd {

HWY_EXPORT(ReduceRowF32);
HWY_EXPORT(ReduceRowF64);
HWY_EXPORT(ScatterRowF32);
HWY_EXPORT(ScatterRowF64);
HWY_EXPORT(LogSoftmaxRowF32);
HWY_EXPORT(LogSoftmaxRowF64);
HWY_EXPORT(EntropySumF32);
HWY_EXPORT(EntropySumF64);
HWY_EXPORT(TargetName);

RowSums ReduceRow(const float* x, int64_t num_classes, const Background<float>& background) {
  return HWY_DYNAMIC_DISPATCH(ReduceRowF32)(x, num_classes, background);
}
RowSums ReduceRow(const double* x, int64_t num_classes, const Background<double>& background) {
  return HWY_DYNAMIC_DISPATCH(ReduceRowF64)(x, num_classes, background);
}
void ScatterRow(const float* x, int64_t num_classes, double max, double p_scale, double t_scale,
                const Background<float>& background, float* dx) {
  return HWY_DYNAMIC_DISPATCH(ScatterRowF32)(x, num_classes, max, p_scale, t_scale, background, dx);
}
void ScatterRow(const double* x, int64_t num_classes, double max, double p_scale, double t_scale,
                const Background<double>& background, double* dx) {
  return HWY_DYNAMIC_DISPATCH(ScatterRowF64)(x, num_classes, max, p_scale, t_scale, background, dx);
}
void LogSoftmaxRow(const float* x, int64_t num_classes, double max, double log_denominator, float* y) {
  return HWY_DYNAMIC_DISPATCH(LogSoftmaxRowF32)(x, num_classes, max, log_denominator, y);
}
void LogSoftmaxRow(const double* x, int64_t num_classes, double max, double log_denominator, double* y) {
  return HWY_DYNAMIC_DISPATCH(LogSoftmaxRowF64)(x, num_classes, max, log_denominator, y);
}
double EntropySum(const float* x, int64_t num_classes, double max) {
  return HWY_DYNAMIC_DISPATCH(EntropySumF32)(x, num_classes, max);
}
double EntropySum(const double* x, int64_t num_classes, double max) {
  return HWY_DYNAMIC_DISPATCH(EntropySumF64)(x, num_classes, max);
}
const char* SimdTarget() { return HWY_DYNAMIC_DISPATCH(TargetName)(); }

}  // namespace lossd
#endif  // HWY_ONCE
