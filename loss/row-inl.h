// Bodies of row.h for one SIMD target.
//
// A row is read in blocks that fit the L1 cache: first the block's max, then its sums relative to that max, then the
// block is folded into the row in double. While a block is summed, the max of the next one is looked for, be it of the
// same row or another: so memory is read all the time, and what ends a row is hidden. The largest term is left out of
// the sum, so that a confident row keeps the full precision of `others`.

#if defined(LOSSD_LOSS_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_ROW_INL_H_
#undef LOSSD_LOSS_ROW_INL_H_
#else
#define LOSSD_LOSS_ROW_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "loss/background-inl.h"
#include "loss/block-inl.h"
#include "loss/exp-inl.h"
#include "loss/lanes-inl.h"
#include "loss/row.h"
#include "loss/writer-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Whether the vector code holds the coefficient, or needs none: rows of NaN and rows that count nowhere.
template <typename T>
bool FitsIn(double p_scale) {
  using C = ExpConstants<T>;
  const double p = std::fabs(p_scale);
  return p == 0 || std::isnan(p) || (p >= C::kLeastFactor && p <= C::kMostFactor);
}
// Whether a vector of them does, and none is NaN.
template <typename T, class DD>
HWY_INLINE bool AllFitIn(DD dd, hn::Vec<DD> p_scale) {
  using C = ExpConstants<T>;
  const auto p = hn::Abs(p_scale);
  const auto not_less = hn::Or(hn::Ge(p, hn::Set(dd, C::kLeastFactor)), hn::Eq(p, hn::Zero(dd)));
  const auto not_more = hn::Le(p, hn::Set(dd, C::kMostFactor));
  return hn::AllTrue(dd, hn::And(not_less, not_more));
}
// What BackgroundAt() is multiplied by.
template <typename T>
double BackgroundCoefficient(const Gradient<T>& gradient) {
  return gradient.t_scale * BackgroundScale(gradient.background);
}

// Both coefficients. That of the background may be tiny where weights are huge, and must not lose digits.
template <typename T>
bool FitsIn(const Gradient<T>& gradient) {
  const double t = std::fabs(BackgroundCoefficient(gradient));
  const bool t_fits = KindOf(gradient.background) == BackgroundKind::kNone || t == 0 || std::isnan(t) ||
                      (t >= std::numeric_limits<T>::min() && t <= std::numeric_limits<T>::max());
  return t_fits && FitsIn<T>(gradient.p_scale);
}

// For coefficients beyond: one value at a time, in double. Entry j goes to dx[j * stride]; the first one's logit is *x.
template <typename S, typename T, typename G>
void ScatterInDouble(const S* x, int64_t stride, int64_t first, int64_t size, const Gradient<T>& gradient, G* dx) {
  const Background<T>& b = gradient.background;
  const bool has_background = KindOf(b) != BackgroundKind::kNone;
  auto point = std::ranges::lower_bound(gradient.points, first, {}, &Point::target);
  const auto end = gradient.points.end();
  for (int64_t j = first; j < first + size; ++j) {
    const double e = std::exp(ToDouble(LoadElement<S>(x, (j - first) * stride)) - gradient.max);
    const double q = b.alpha != 0 && b.probabilities != nullptr
                         ? b.alpha * static_cast<double>(LoadElement<T>(b.probabilities, j))
                         : 0;
    const double w = b.weights != nullptr ? static_cast<double>(LoadElement<T>(b.weights, j)) : 1;
    const double t = has_background ? w * (q + b.beta) : 0;
    const double p = e == 0 ? 0 : gradient.p_scale * e;  // also of an infinite factor
    const double entry =
        point != end && point->target == j ? (point++)->value : p - (t == 0 ? 0 : gradient.t_scale * t);
    StoreElement(dx, j * stride, FromDouble<G>(entry));
  }
}

// NaN if there is one, else 0.
template <typename T>
double NanOf(const T* x, size_t n) {
  bool nan = false;
  for (size_t i = 0; i < n; ++i) nan |= std::isnan(LoadElement<T>(x, static_cast<int64_t>(i)));
  return nan ? std::numeric_limits<double>::quiet_NaN() : 0;
}

// y_j = x_j - offset.
template <class D, typename T = hn::TFromD<D>>
HWY_NOINLINE void MoveBlock(D d, const T* x, size_t n, T offset, T* y) {
  const auto shift = hn::Set(d, offset);
  MapRow(
      d, n, [&](const auto& load) HWY_ATTR { return hn::Sub(load(x), shift); }, {}, y);
}

template <typename T>
void FoldBlock(const BlockSums& sums, const RowBlock<T>& block, RowSums& row) {
  Fold({static_cast<double>(block.max.max), sums.others, static_cast<int64_t>(block.max.place), sums.background,
        sums.background_dot},
       static_cast<int64_t>(block.offset), row);
}

// `copy` is room for a block; it may be the block. Meanwhile `writer` writes.
template <BackgroundKind kKind, typename S, class Writer, class D, typename T = hn::TFromD<D>>
HWY_INLINE void ReduceBlock(D d, const RowBlock<T>& block, const Background<T>& background, T* copy,
                            const KeptRow<T>& kept, MaxScan<D, S>& next, Writer writer, RowSums& row) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  if (block.max.max == kInfinity) {  // the loss will be NaN; what is left to say is whether the row has NaN
    writer.Finish();
    return FoldBlock({NanOf(block.x, block.size)}, block, row);
  }
  RowBlock<T> summed = block;
  if (block.max.max == -kInfinity) {
    summed.max = {0, ~size_t{0} / 2};
  } else if (std::fabs(block.max.max) > ExpConstants<T>::kOffsetAbove) {
    MoveBlock(d, block.x, block.size, block.max.max, copy);
    summed.x = copy;
    summed.max.max = 0;
  }
  T* const exps = kept.exps == nullptr ? nullptr : kept.exps + block.offset;
  const BlockSums sums = SumBlock<kKind, S>(d, summed, background, exps, next, writer);
  if (exps != nullptr) kept.scales[block.offset / kBlock<T>] = {static_cast<double>(block.max.max), sums.factor};
  FoldBlock(sums, block, row);
}

// The entries [first, first + size), from their logits x [size].
template <typename S, typename G>
HWY_NOINLINE void ScatterFrom(const S* x, size_t first, size_t size, const Gradient<ComputeType<S>>& gradient, G* dx) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  const T max = static_cast<T>(gradient.max);
  const auto origin = OriginOf(d, hn::Set(d, max));
  const Background<T> b = gradient.background.From(static_cast<int64_t>(first));
  const auto p = hn::Set(d, static_cast<T>(gradient.p_scale * FactorOf(d, max, origin)));
  const auto t = hn::Set(d, static_cast<T>(BackgroundCoefficient(gradient)));
  WithKind(KindOf(b), [&](auto kind) HWY_ATTR {
    const auto entry = [&](const auto& load) HWY_ATTR {
      const auto e = ScaledExp(d, hn::Sub(load(x), origin.offset), origin);
      return GradientEntry<decltype(kind)::value>(d, p, e, t, b, load);
    };
    using Writer = RowWriter<hn::ScalableTag<T>, decltype(entry), G>;
    constexpr size_t kStep = Writer::kSteps * hn::MaxLanes(hn::ScalableTag<T>());
    Writer writer(d, size, entry, {gradient.points, gradient.stream, first, gradient.shared}, dx + first);
    for (size_t i = 0; i < size; i += kStep) {
      FetchAhead<kStep * sizeof(S)>(x + i);
      if (i + kStep <= size) writer.Step();
    }
    writer.Finish();
  });
}

// The same with any coefficients.
template <typename S, typename G>
void ScatterEntries(const S* x, size_t first, size_t size, const Gradient<ComputeType<S>>& gradient, G* dx) {
  if (FitsIn(gradient)) return ScatterFrom(x, first, size, gradient, dx);
  ScatterInDouble(x, 1, static_cast<int64_t>(first), static_cast<int64_t>(size), gradient, dx);
}
// The entries of a block, from rows that may be in pieces.
template <typename S, typename G>
HWY_NOINLINE void ScatterBlock(const RowSource<S>& x, size_t first, size_t size,
                               const Gradient<ComputeType<S>>& gradient, G* dx) {
  HWY_ALIGN_MAX S room[kBlock<ComputeType<S>>];
  ScatterEntries(x.Read(static_cast<int64_t>(first), static_cast<int64_t>(size), room), first, size, gradient, dx);
}

// exp(a - b), where the rounding of the difference is made good: Knuth's TwoSum. b is finite, a is not larger.
inline double ExpOfDifference(double a, double b) {
  if (a == b) return 1;
  const double difference = a - b, moved = difference - a;
  const double lost = (a - (difference - moved)) - (b + moved);
  const double e = std::exp(difference);
  return e == 0 ? 0 : e + e * lost;
}

// p e_j - t_scale t_j from the exponentials that were kept.
template <BackgroundKind kKind, class D>
struct KeptEntry {
  using T = hn::TFromD<D>;
  // A row with NaN is not written from what was kept, and what was kept is finite.
  static constexpr bool kNeverNan = kKind == BackgroundKind::kNone;
  D d;
  T p, t_scale;  // the latter BackgroundCoefficient(); no vectors, so that it is quickly passed on
  Background<T> background;
  const T* exps;

  template <class Load>
  HWY_INLINE hn::Vec<D> operator()(const Load& load) const {
    return GradientEntry<kKind>(d, hn::Set(d, p), load(exps), hn::Set(d, t_scale), background, load);
  }
};

// Whether what was kept of the row is all that its gradient needs.
template <typename T>
bool IsFromKept(const Gradient<T>& gradient) {
  return gradient.kept.exps != nullptr && (gradient.p_scale != 0 || gradient.t_scale != 0) &&
         !std::isnan(gradient.p_scale) && FitsIn(gradient);
}

// Calls function(writer) for the block at `first` of such a row's gradient. What was kept is relative to the maximum of
// the block; a block that is too far below the row's for that is written at once, and the answer is false.
template <BackgroundKind kKind, typename S, typename G, class Function>
HWY_INLINE bool WithKeptWriter(const RowSource<S>& x, size_t first, size_t size,
                               const Gradient<ComputeType<S>>& gradient, G* dx, const Function& function) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  using Entry = KeptEntry<kKind, decltype(d)>;
  const BlockScale& scale = gradient.kept.scales[first / kBlock<T>];
  const double p = gradient.p_scale * ExpOfDifference(scale.max, gradient.max);
  if (!FitsIn<T>(p)) return ScatterBlock(x, first, size, gradient, dx), false;
  const Entry entry{d, static_cast<T>(p * scale.factor), static_cast<T>(BackgroundCoefficient(gradient)),
                    gradient.background.From(static_cast<int64_t>(first)), gradient.kept.exps + first};
  function(RowWriter<decltype(d), Entry, G>(d, size, entry, {gradient.points, gradient.stream, first, gradient.shared},
                                            dx + first));
  return true;
}

template <typename S, typename G>
HWY_INLINE void ScatterKept(const RowSource<S>& x, size_t first, size_t size, const Gradient<ComputeType<S>>& gradient,
                            G* dx) {
  constexpr size_t kSize = kBlock<ComputeType<S>>;
  WithKind(KindOf(gradient.background), [&](auto kind) HWY_ATTR {
    for (size_t i = 0; i < size; i += kSize) {
      WithKeptWriter<decltype(kind)::value>(x, first + i, std::min(kSize, size - i), gradient, dx,
                                            [](auto writer) HWY_ATTR { writer.Finish(); });
    }
  });
}

template <typename S, typename G>
void ScatterRow(const RowSource<S>& x, int64_t first, int64_t size, const Gradient<ComputeType<S>>& gradient, G* dx) {
  const size_t begin = static_cast<size_t>(first), count = static_cast<size_t>(size);
  if (IsFromKept(gradient)) return ScatterKept(x, begin, count, gradient, dx);
  if (gradient.p_scale == 0 && gradient.t_scale == 0) return std::fill_n(dx + first, size, G{}), void();
  if (std::isnan(gradient.p_scale)) return std::fill_n(dx + first, size, FromDouble<G>(gradient.p_scale)), void();
  if (x.pieces == nullptr) return ScatterEntries(x.data + first, begin, count, gradient, dx);
  constexpr size_t kSize = kBlock<ComputeType<S>>;
  for (size_t i = 0; i < count; i += kSize) ScatterBlock(x, begin + i, std::min(kSize, count - i), gradient, dx);
}

// Where in rows [count, num_classes] a block begins.
struct BlockPlace {
  size_t row, first;
};

template <BackgroundKind kKind, typename S>
HWY_INLINE void ReduceRowsOf(const RowRange<S>& rows, Background<ComputeType<S>> background,
                             const PendingRows<S>& pending, RowSums* sums) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  const size_t count = static_cast<size_t>(rows.count), size = static_cast<size_t>(rows.num_classes);
  // Not a multiple of 4 KiB apart: what is loaded from one would then wait for what is just being stored to the other.
  constexpr size_t kApart = 2048 / sizeof(T);
  HWY_ALIGN_MAX T copies[2][kBlock<T> + kApart];
  HWY_ALIGN_MAX S rooms[2][kBlock<T> + kApart];  // for blocks that are not in one piece
  HWY_ALIGN_MAX T maxima[MaxScan<decltype(d), S>::kMaxima];
  const auto live = [&](size_t row) {
    while (row < count && rows.skipped != nullptr && rows.skipped[row]) ++row;
    return row;
  };
  const auto scan = [&](BlockPlace at, size_t turn) HWY_ATTR {
    const size_t n = at.row < count ? std::min(kBlock<T>, size - at.first) : 0;
    const S* const x =
        rows.x.Read(static_cast<int64_t>(at.row * size + at.first), static_cast<int64_t>(n), rooms[turn]);
    return MaxScan<hn::ScalableTag<T>, S>(d, x, n, copies[turn], maxima);
  };
  // Whether the gradient of the row that was in this one's place is written while this one is read.
  const auto is_written_meanwhile = [&](size_t row) {
    return row < static_cast<size_t>(pending.count) && IsFromKept(pending.gradients[row]);
  };
  for (size_t row = 0; row < static_cast<size_t>(pending.count); ++row) {
    if (row < count && live(row) == row && is_written_meanwhile(row)) continue;
    const RowSource<S> x = pending.x.From(static_cast<int64_t>(row * size));
    ScatterRow(x, 0, rows.num_classes, pending.gradients[row], pending.dx + row * size);
  }
  BlockPlace at{live(0), 0};
  size_t turn = 0;
  auto current = scan(at, turn);
  auto max = current.Finish();
  const T* const probabilities = background.probabilities;
  const T* x = current.values();
  while (at.row < count) {
    RowSums& row = sums[at.row];
    const RowBlock<T> block{x, std::min(kBlock<T>, size - at.first), at.first, max};
    if (probabilities != nullptr) background.probabilities = probabilities + at.row * size;
    if (at.first == 0) row = {.max = -std::numeric_limits<double>::infinity()};
    BlockPlace after{at.row, at.first + block.size};
    if (after.first == size) after = {live(at.row + 1), 0};
    auto next = scan(after, 1 - turn);
    const auto reduce = [&](auto writer) HWY_ATTR {
      ReduceBlock<kKind>(d, block, background, copies[turn], rows.Kept(at.row), next, writer, row);
    };
    if (!is_written_meanwhile(at.row) ||
        !WithKeptWriter<kKind>(pending.x.From(static_cast<int64_t>(at.row * size)), at.first, block.size,
                               pending.gradients[at.row], pending.dx + at.row * size, reduce)) {
      reduce(NoWriter());
    }
    if (after.row != at.row) row.others = WithoutDust<T>(row.others, rows.num_classes);
    max = next.Finish();
    x = next.values();
    at = after;
    turn = 1 - turn;
  }
}

template <typename S>
void ReduceRows(const RowRange<S>& rows, const Background<ComputeType<S>>& background, const PendingRows<S>& pending,
                RowSums* sums) {
  WithKind(KindOf(background),
           [&](auto kind) HWY_ATTR { ReduceRowsOf<decltype(kind)::value>(rows, background, pending, sums); });
}

template <typename S>
void LogSoftmaxRow(const S* x, int64_t num_classes, double max, double log_denominator, ComputeType<S>* y) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  const auto m = hn::Set(d, static_cast<T>(max));
  const auto log_d = hn::Set(d, static_cast<T>(log_denominator));
  const auto log_p = [&](const auto& load) HWY_ATTR { return hn::Sub(hn::Sub(load(x), m), log_d); };
  MapRow(d, static_cast<size_t>(num_classes), log_p, {}, y);
}

template <typename S, typename G>
HWY_INLINE void CopyRow(const S* x, int64_t size, const Writing& writing, G* y) {
  const hn::ScalableTag<ComputeType<S>> d;
  MapRow(
      d, static_cast<size_t>(size), [&](const auto& load) HWY_ATTR { return load(x); }, writing, y);
}
template <typename S>
void WidenRow(const S* x, int64_t size, ComputeType<S>* y) {
  CopyRow(x, size, {}, y);
}
template <typename S>
void NarrowRow(const ComputeType<S>* x, int64_t size, bool stream, S* y) {
  CopyRow(x, size, {.stream = stream}, y);
}

template <typename S>
double EntropySum(const S* x, int64_t num_classes, double max) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const size_t size = static_cast<size_t>(num_classes);
  const size_t most = kTerms * lanes;
  const auto m = hn::Set(d, static_cast<T>(max));
  const auto origin = OriginOf(d, m);
  const auto zero_above = hn::Set(d, -ExpConstants<T>::kZeroBelow);
  const auto term = [&](const auto v) HWY_ATTR {
    const auto cost = hn::Sub(m, v);
    const auto e = ScaledExp(d, hn::Sub(v, origin.offset), origin);
    return hn::IfThenZeroElse(hn::Ge(cost, zero_above), hn::Mul(e, cost));
  };
  double total = 0;
  for (size_t first = 0; first < size; first += most) {
    const size_t end = std::min(size, first + most);
    auto sum = hn::Zero(d);
    size_t i = first;
    for (; i + lanes <= end; i += lanes) sum = hn::Add(sum, term(LoadLanes(d, x + i)));
    if (i < end) {
      sum = hn::Add(sum, hn::IfThenElseZero(hn::FirstN(d, end - i), term(LoadTail(d, x + i, end - i))));
    }
    total += SumOf(d, sum);
  }
  return total * FactorOf(d, static_cast<T>(max), origin);
}

template <typename S>
RowKernels<S> MakeRowKernels() {
  using T = ComputeType<S>;
  return {ReduceRows<S>, ScatterRow<S, S>, ScatterRow<S, T>, LogSoftmaxRow<S>,
          EntropySum<S>, WidenRow<S>,      NarrowRow<S>};
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_ROW_INL_H_
