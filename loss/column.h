// The vector steps of a softmax loss (row.h) on many rows at once, one in each lane: for rows that do not lie one after
// the other in memory (a class axis before others), and for rows too short to fill vectors.
//
// x [num_classes, stride]: class c of row r is x[c * stride + r]. All functions never allocate, never fail, are
// thread-safe, and need no alignment beyond their type's. A row's result depends on the row and the SIMD target only.
#ifndef LOSSD_LOSS_COLUMN_H_
#define LOSSD_LOSS_COLUMN_H_

#include <cstdint>

#include "loss/row.h"

namespace lossd {

// The kernels for logits stored as S, of the best SIMD target.
template <typename S>
struct ColumnKernels {
  using T = ComputeType<S>;

  // sums [count] of rows [0, count), count <= stride. `background` has no probabilities. Reads x once, in the cache
  // twice; sums of 32 terms are kept in T, everything above in double.
  void (*reduce)(const S* x, int64_t stride, int64_t num_classes, int64_t count, const Background<T>& background,
                 RowSums* sums);

  // dx, of x's layout, may be x. gradients [count]; all have the same background, and their points are left to the
  // caller.
  void (*scatter)(const S* x, int64_t stride, int64_t num_classes, int64_t count, const Gradient<T>* gradients, S* dx);
  void (*scatter_wide)(const S* x, int64_t stride, int64_t num_classes, int64_t count, const Gradient<T>* gradients,
                       T* dx);
};

// Instantiated for float, double, Float16, Bfloat16.
template <typename S>
ColumnKernels<S> ColumnKernelsOf();

}  // namespace lossd

#endif  // LOSSD_LOSS_COLUMN_H_
