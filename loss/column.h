// The vector steps of a softmax loss (row.h) on many rows at once, one in each lane: for rows that do not lie one after
// the other in memory (a class axis before others), and for rows too short to fill vectors. They work on a tile that
// was copied to the caches: where classes are a power of 2 apart, the caches hold only a few of them at a time.
//
// x [num_classes, stride]: class c of row r is x[c * stride + r]. All functions never allocate, never fail, are
// thread-safe, and need no alignment beyond their type's. A row's result depends on the row and the SIMD target only.
#ifndef LOSSD_LOSS_COLUMN_H_
#define LOSSD_LOSS_COLUMN_H_

#include <cstdint>

#include "loss/plain.h"
#include "loss/row.h"

namespace lossd {

// Columns are read and written by whole vectors: the stride is a multiple of this, and past the last row there may be
// anything.
inline constexpr int64_t kColumnLanes = 16;

// A tile of plain rows.
template <typename T>
struct PlainTile {
  T* x;  // [num_classes, stride]; spoilt where the gradient is asked for
  int64_t stride, num_classes, count;
  PlainTargets targets;
  Background<T> background;  // has no probabilities
  int64_t* predicted;        // [stride], as PREDICTED_CLASS; null if not asked for

  // Where the gradient goes: class c of row r to dx[c * dx_stride + r], in whole vectors; null if not asked for. May be
  // x. `stream`: as Gradient's, and each class's first row is aligned to 64 bytes.
  T* dx = nullptr;
  int64_t dx_stride = 0;
  bool stream = false;

  // What is copied meanwhile, so that memory is read while this tile is computed: class c of the next tile, as many
  // rows as the stride, from next[c * next_stride] on to copy[c * stride]. null: nothing.
  const T* next = nullptr;
  int64_t next_stride = 0;
  T* copy = nullptr;
};

// The kernels for columns of T (float or double), of the best SIMD target.
template <typename T>
struct ColumnKernels {
  // sums [count] of rows [0, count). `background` has no probabilities. Sums of 32 terms are kept in T,
  // everything above in double.
  void (*reduce)(const T* x, int64_t stride, int64_t num_classes, int64_t count, const Background<T>& background,
                 RowSums* sums);

  // dx, of x's layout, may be x. gradients [count]; all have the same background, and their points are left to the
  // caller.
  void (*scatter)(const T* x, int64_t stride, int64_t num_classes, int64_t count, const Gradient<T>* gradients, T* dx);

  // The same numbers, to the bit, as `reduce`, decide.h and `scatter`. False, and the tile is spoilt, where of a row
  // that counts, or of any where that is asked for, the maximum or a sum of the background is infinite or NaN, or a
  // coefficient is NaN, or not FitsIn() the vector code.
  bool (*plain)(const PlainTile<T>& tile);

  // Rows [count, num_classes] that lie one after the other become columns, and columns rows.
  void (*from_rows)(const T* rows, int64_t num_classes, int64_t count, int64_t stride, T* columns);
  void (*to_rows)(const T* columns, int64_t stride, int64_t num_classes, int64_t count, T* rows);
};

// Instantiated for float and double.
template <typename T>
ColumnKernels<T> ColumnKernelsOf();

}  // namespace lossd

#endif  // LOSSD_LOSS_COLUMN_H_
