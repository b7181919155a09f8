// The vector steps of a softmax loss, on one row of logits.
//
// Every softmax loss is  loss = T ln d - sum_j t_j (x_j - m) - sum_k h_k (x_k - m)  with
//   m = max x,  d = sum_j exp(x_j - m),  p_j = exp(x_j - m) / d,
//   t_j = w_j (alpha q_j + beta): the background of the target distribution, smooth over the classes (Background),
//   h_k: points of it, on single classes (a class index),  T = sum_j t_j + sum_k h_k.
// so that  dx_j = T p_j - t_j - sum_k h_k [j = k].  `reduce` takes the sums, decide.h decides, `scatter` writes the
// gradient; only the middle step knows which loss it is.
//
// With a temperature t, x is what was stored over t: everywhere but in the rows themselves, which nothing rewrites.
//
// All functions here: never allocate, never fail, thread-safe; inputs need not be aligned, outputs as their type is;
// the result depends on the row and the SIMD target only.
#ifndef LOSSD_LOSS_ROW_H_
#define LOSSD_LOSS_ROW_H_

#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <span>
#include <type_traits>

#include "loss/element.h"

namespace lossd {

// What rows stored as S (float, double, Float16 or Bfloat16) are computed in.
template <typename S>
using ComputeType = std::conditional_t<std::is_same_v<S, double>, double, float>;

// Whether rows stored as S are evaluated with a temperature, and with which. Beyond these 1 / t, or what is compared
// with x times t, may be no normal number.
template <typename S>
inline constexpr bool kTempers = std::is_same_v<S, float>;
template <typename S>
constexpr bool CanTemper(double temperature) {
  return kTempers<S> && temperature >= 0x1p-60 && temperature <= 0x1p60;
}

// t_j = w_j (alpha q_j + beta). With neither alpha nor beta there is no background, and nothing is read.
template <typename T>
struct Background {
  double alpha = 0;
  const T* probabilities = nullptr;  // q [C]; null: 0
  double beta = 0;
  const T* weights = nullptr;  // w [C]; null: 1

  // t_j, whatever its size.
  double At(int64_t j) const {
    const bool dense = alpha != 0 && probabilities != nullptr;
    if (beta == 0 && !dense) return 0;
    const double q = dense ? alpha * static_cast<double>(LoadElement<T>(probabilities, j)) : 0;
    const double w = weights != nullptr ? static_cast<double>(LoadElement<T>(weights, j)) : 1;
    return w * (q + beta);
  }

  // The same of the classes from `first` on.
  Background From(int64_t first) const {
    const auto from = [&](const T* row) { return row == nullptr ? row : row + first; };
    return {alpha, from(probabilities), beta, from(weights)};
  }
};

// A number at a single class: mass of a target distribution, or an entry of a gradient.
struct Point {
  int64_t target = 0;
  double value = 0;
  double exp = 0;  // exp(x_target - m), where decide.h asks for it
};

// What one pass over a row leaves.
struct RowSums {
  double max = 0;         // m; -inf if nothing is larger
  double others = 0;      // sum over j != argmax of exp(x_j - m), finite or +inf; NaN exactly where the row has NaN
  int64_t argmax = 0;     // lowest j with x_j = m; unspecified where the row has NaN, or others >= 1/2 and nobody asked
  double background = 0;  // sum t_j
  double background_dot = 0;  // sum t_j (x_j - m), where 0 * inf is 0
};

// What is added to sum t (x - m), as m becomes another maximum: (old - new) sum t, where 0 * inf is 0.
inline double MoveOf(double background, double from, double to) {
  return background == 0 || from == to ? 0 : background * (from - to);
}

// t_j z_j, where 0 * inf is 0: of a class without mass, and of the largest.
inline double BackgroundTerm(double t, double z) { return t == 0 || z == 0 ? 0 : t * z; }

// Adds the sums of a part of a row, whose entries begin at `first`, to those of what is before it.
inline void Fold(const RowSums& part, int64_t first, RowSums& row) {
  constexpr double kLowest = -std::numeric_limits<double>::infinity();
  if (part.max > row.max) {
    // The former maximum becomes one of the others.
    if (row.max != kLowest) {
      row.others = (row.others + 1) * std::exp(row.max - part.max);
      row.background_dot += MoveOf(row.background, row.max, part.max);
    }
    row.max = part.max;
    row.argmax = first + part.argmax;
    row.others += part.others;
  } else if (part.max == kLowest) {  // nothing but -inf or NaN: nothing to scale
    row.others += part.others;
  } else {
    row.others += (part.others + 1) * (part.max == row.max ? 1 : std::exp(part.max - row.max));
    row.background_dot += MoveOf(part.background, part.max, row.max);
  }
  row.background += part.background;
  row.background_dot += part.background_dot;
}

// A sum of `terms` exponentials of T, none of which can be told from 0 next to the largest, is at most this.
template <typename T>
constexpr double DustOf(int64_t terms) {
  return sizeof(T) == 4 ? 0x1p-188 * static_cast<double>(terms) : 0;  // what double cannot hold is gone by itself
}
// Such a sum counts as 0.
template <typename T>
constexpr double WithoutDust(double sum, int64_t terms) {
  return sum <= DustOf<T>(terms) ? 0 : sum;
}

// Rows are reduced in blocks of so many elements.
template <typename T>
inline constexpr int64_t kRowBlock = 8192 / static_cast<int64_t>(sizeof(T));

// The exponentials of a row, which `reduce` has computed and `scatter` would have to compute again: to read them from
// the cache costs a third. exps [num_classes, and up to a cache line], aligned to 64; each block of kRowBlock has its
// scale.
struct BlockScale {
  double max;     // of the block or others with it
  double factor;  // exps * factor = exp(x - max)
};
template <typename T>
struct KeptRow {
  T* exps = nullptr;  // null: nothing is kept
  BlockScale* scales = nullptr;
};

// The cache line that one row ends in and the next begins in, of rows that are streamed. To write a part of a line
// costs the wait for the rest of it, which a processor may fetch together with neighbours that are just being streamed;
// so it is kept until it is whole.
struct SharedLine {
  alignas(64) std::byte bytes[64];
  std::byte* line = nullptr;  // where it belongs
  size_t size = 0;            // of `bytes`, so many are there

  bool EndsAt(const void* place) const { return size != 0 && line + size == place; }

  // Of the line at `place` so many bytes come next: returns where to write them.
  std::byte* Begin(void* place, size_t num_bytes) {
    Flush();
    line = static_cast<std::byte*>(place);
    size = num_bytes;
    return bytes;
  }
  // Writes what is there.
  void Flush() {
    if (size != 0) std::memcpy(line, bytes, size);
    size = 0;
  }
};

// dx_j = p_scale * exp(x_j - max) - t_scale * t_j, but for the points, where it is their value.
template <typename T>
struct Gradient {
  double max = 0;  // x_j <= max, or NaN
  double temperature = 1;
  double p_scale = 0;
  double t_scale = 0;
  Background<T> background;
  std::span<const Point> points;  // in the order of their targets, each target once
  KeptRow<T> kept;                // what `reduce` kept of the very row
  bool stream = false;            // write past the caches; the caller fences (FlushStreams())
  SharedLine* shared = nullptr;   // of a stream, with the rows before and after; the caller flushes it at the end
};

// Where rows of S are: one after the other, or in pieces.
template <typename S>
struct RowSource {
  RowSource(const S* rows = nullptr) : data(rows) {}  // implicit: most are in one place
  RowSource(const PieceReader* reader, int64_t base) : pieces(reader), first(base) {}

  // The entries [begin, begin + size), in their place or copied to `room`.
  const S* Read(int64_t begin, int64_t size, S* room) const {
    if (pieces == nullptr) return data + begin;
    constexpr int64_t kBytes = sizeof(S);
    return static_cast<const S*>(pieces->read(pieces->context, (first + begin) * kBytes, size * kBytes, room));
  }
  double At(int64_t index) const {
    S room;
    return ToDouble(LoadElement<S>(Read(index, 1, &room), 0));
  }
  RowSource From(int64_t offset) const {
    return pieces == nullptr ? RowSource(data + offset) : RowSource(pieces, first + offset);
  }

  const S* data = nullptr;
  const PieceReader* pieces = nullptr;  // instead of `data`
  int64_t first = 0;                    // the entry of what is read through it that the rows begin with
};

// Rows x [count, num_classes], num_classes >= 1.
template <typename S>
struct RowRange {
  RowSource<S> x;
  int64_t num_classes;
  int64_t count = 1;
  const bool* skipped = nullptr;  // [count]: rows that are not read; null: none
  std::byte* kept = nullptr;      // where to keep exponentials, aligned to 64, KeptBytes() a row; null: nowhere
  bool finds_argmax = false;      // whether RowSums::argmax is asked for
  double temperature = 1;         // or one that CanTemper<S>()

  using T = ComputeType<S>;
  static constexpr int64_t ExpBytes(int64_t num_classes) {
    return (num_classes * static_cast<int64_t>(sizeof(T)) + 63) / 64 * 64;
  }
  static constexpr int64_t KeptBytes(int64_t num_classes) {
    const int64_t num_blocks = (num_classes + kRowBlock<T> - 1) / kRowBlock<T>;
    return ExpBytes(num_classes) + (num_blocks * static_cast<int64_t>(sizeof(BlockScale)) + 63) / 64 * 64;
  }
  KeptRow<T> Kept(int64_t row) const {
    if (kept == nullptr) return {};
    std::byte* const begin = kept + row * KeptBytes(num_classes);
    return {reinterpret_cast<T*>(begin), reinterpret_cast<BlockScale*>(begin + ExpBytes(num_classes))};
  }
  // The entries [first, first + size) of a row, of which nothing is kept.
  RowRange PartOf(int64_t row, int64_t first, int64_t size) const {
    return {.x = x.From(row * num_classes + first),
            .num_classes = size,
            .finds_argmax = finds_argmax,
            .temperature = temperature};
  }
};

// Rows that have been reduced, and whose gradient dx [count, num_classes] is to be written while the next ones are
// reduced: reading waits for memory, writing for room in its queues, and the two need little of each other.
template <typename S>
struct PendingRows {
  RowSource<S> x;                                       // [count, num_classes]
  const Gradient<ComputeType<S>>* gradients = nullptr;  // [count], of backgrounds of the same kind as the next rows'
  S* dx = nullptr;                                      // may be x
  int64_t count = 0;
};

// The kernels for rows stored as S, of the best SIMD target.
template <typename S>
struct RowKernels {
  using T = ComputeType<S>;

  // sums [count]. Those of skipped rows stay as they are. background.probabilities are the first row's, those of the
  // others follow. Sums of a few thousand terms are kept in T, everything above in double. One pass over memory:
  // Milakov & Gimelshein, arXiv:1805.02867, by blocks. Meanwhile the pending rows are written, each from what was kept
  // of it in the place of the row with its number. REQUIRES: rows.kept, if any row is pending that was kept.
  void (*reduce)(const RowRange<S>& rows, const Background<T>& background, const PendingRows<S>& pending,
                 RowSums* sums);

  // Writes the entries [first, first + size) of a row, where `first` is a multiple of kRowBlock. x and dx are the whole
  // row's, and may be the same.
  void (*scatter)(const RowSource<S>& x, int64_t first, int64_t size, const Gradient<T>& gradient, S* dx);
  void (*scatter_wide)(const RowSource<S>& x, int64_t first, int64_t size, const Gradient<T>& gradient, T* dx);

  // y_j = (x_j - max) - log_denominator. y [num_classes] may be x.
  void (*log_softmax)(const S* x, int64_t num_classes, double max, double log_denominator, double temperature, T* y);

  // sum_j exp(x_j - max) (max - x_j), where 0 * inf is 0: d (H(p) - ln d), for the entropy H.
  double (*entropy_sum)(const S* x, int64_t num_classes, double max, double temperature);

  // Copies, exact one way and rounded once the other. `stream`: as Gradient's.
  void (*widen)(const S* x, int64_t size, T* y);
  void (*narrow)(const T* x, int64_t size, bool stream, S* y);
};

// Instantiated for float, double, Float16, Bfloat16.
template <typename S>
RowKernels<S> RowKernelsOf();

// Makes what was streamed visible to other threads before anything written after.
void FlushStreams();

}  // namespace lossd

#endif  // LOSSD_LOSS_ROW_H_
