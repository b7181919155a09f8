// exp and logarithms of many doubles at once, for the decide step of a tile of rows. y may be x; no alignment needed;
// never allocate, never fail, thread-safe. A result depends on its argument and the SIMD target only. Errors: at most 1
// unit in the last place (exp-inl.h, log-inl.h). NaN stays NaN.
#ifndef LOSSD_LOSS_ELEMENTARY_H_
#define LOSSD_LOSS_ELEMENTARY_H_

#include <cstdint>

namespace lossd {

// y_i = exp(x_i), x_i <= 0.
void ExpAll(const double* x, int64_t size, double* y);
// y_i = ln x_i.
void LogAll(const double* x, int64_t size, double* y);
// y_i = ln(1 + x_i), x_i >= 0.
void Log1pAll(const double* x, int64_t size, double* y);

}  // namespace lossd

#endif  // LOSSD_LOSS_ELEMENTARY_H_
