// What is done to many numbers at once, beside the kernels of rows. No alignment needed; never allocate, never fail,
// thread-safe.
#ifndef LOSSD_LOSS_ELEMENTARY_H_
#define LOSSD_LOSS_ELEMENTARY_H_

#include <cstddef>
#include <cstdint>

namespace lossd {

// exp and logarithms of doubles, for the decide step of a tile of rows. y may be x. A result depends on its argument
// and the SIMD target only. Errors: at most 1 unit in the last place (exp-inl.h, log-inl.h). NaN stays NaN.

// y_i = exp(x_i), x_i <= 0.
void ExpAll(const double* x, int64_t size, double* y);
// y_i = ln x_i.
void LogAll(const double* x, int64_t size, double* y);
// y_i = ln(1 + x_i), x_i >= 0.
void Log1pAll(const double* x, int64_t size, double* y);

// How many class indices are ignore_index, and how many of the others are outside [0, num_classes).
struct IndexCounts {
  int64_t ignored = 0;
  int64_t outside = 0;
};
IndexCounts CountIndices(const int64_t* indices, int64_t size, int64_t ignore_index, int64_t num_classes);

// targets_i = indices_i, -1 where that is ignore_index. REQUIRES: the others are in [0, 2^31).
void NarrowIndices(const int64_t* indices, int64_t size, int64_t ignore_index, int32_t* targets);

// sums[i % kTurns] += scale * x_i, in order. Returns how many of these terms are not below `limit` in magnitude.
inline constexpr size_t kTurns = 8;
int64_t AddInTurns(const double* x, int64_t size, double scale, double limit, double* sums);

}  // namespace lossd

#endif  // LOSSD_LOSS_ELEMENTARY_H_
