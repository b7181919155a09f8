// The vector steps of losses without a softmax, on runs of entries. Internal to loss/.
//
// All functions here: never allocate, never fail, thread-safe; pointers need no alignment beyond what is said; what
// becomes of an entry depends on the entry and the SIMD target only, not on its place.
#ifndef LOSSD_LOSS_POINTWISE_H_
#define LOSSD_LOSS_POINTWISE_H_

#include <cstdint>

namespace lossd {

// y_i = ln x_i and ln(1 + x_i), for i in [0, n): Log() and Log1p() of log-inl.h, for tests. y may be x.
void LogOf(const double* x, int64_t n, double* y);
void Log1pOf(const double* x, int64_t n, double* y);

}  // namespace lossd

#endif  // LOSSD_LOSS_POINTWISE_H_
