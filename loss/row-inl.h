// Bodies of row.h for one SIMD target.
//
// A row is read once, in blocks: exponentials are added up relative to a number that is known before, the largest logit
// of the row's first step, while the row's maximum is looked for. As long as the one is not far below the other no
// digit is lost, since a floating-point number has an exponent; where it is, the block is summed again relative to its
// own maximum. Blocks relative to one number make a segment, nearly always the whole row, and segments are folded in
// double.
//
// Only where one term is most of its segment is it left out of the sum, so that a confident row keeps the full
// precision of `others`: its block is added up again without it.

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

// Of the background; it may be tiny where weights are huge, and must not lose digits.
template <typename T>
bool BackgroundFitsIn(double coefficient) {
  const double t = std::fabs(coefficient);
  return t == 0 || std::isnan(t) || (t >= std::numeric_limits<T>::min() && t <= std::numeric_limits<T>::max());
}
// The same of each lane.
template <typename T, class DD>
HWY_INLINE hn::Mask<DD> BackgroundFitsIn(DD dd, hn::Vec<DD> coefficient) {
  const auto t = hn::Abs(coefficient);
  const auto in_range = hn::And(hn::Ge(t, hn::Set(dd, double{std::numeric_limits<T>::min()})),
                                hn::Le(t, hn::Set(dd, double{std::numeric_limits<T>::max()})));
  return hn::Or(hn::Or(in_range, hn::Eq(t, hn::Zero(dd))), hn::IsNaN(t));
}
// Both coefficients.
template <typename T>
bool FitsIn(const Gradient<T>& gradient) {
  const bool background = KindOf(gradient.background) != BackgroundKind::kNone;
  return (!background || BackgroundFitsIn<T>(BackgroundCoefficient(gradient))) && FitsIn<T>(gradient.p_scale);
}

// For coefficients beyond: one value at a time, in double. Entry j goes to dx[j * stride]; the first one's logit is *x.
template <typename S, typename T, typename G>
void ScatterInDouble(const S* x, int64_t stride, int64_t first, int64_t size, const Gradient<T>& gradient, G* dx) {
  auto point = std::ranges::lower_bound(gradient.points, first, {}, &Point::target);
  const auto end = gradient.points.end();
  for (int64_t j = first; j < first + size; ++j) {
    const double e = std::exp(ToDouble(LoadElement<S>(x, (j - first) * stride)) / gradient.temperature - gradient.max);
    const double t = gradient.background.At(j);
    const double p = e == 0 ? 0 : gradient.p_scale * e;  // also of an infinite factor
    const double entry =
        point != end && point->target == j ? (point++)->value : p - (t == 0 ? 0 : gradient.t_scale * t);
    StoreElement(dx, j * stride, FromDouble<G>(static_cast<double>(FromDouble<T>(entry))));  // as the vector code
  }
}

// NaN if there is one, else 0.
template <typename S>
double NanOf(const S* x, size_t n) {
  bool nan = false;
  for (size_t i = 0; i < n; ++i) nan |= std::isnan(ToDouble(LoadElement<S>(x, static_cast<int64_t>(i))));
  return nan ? std::numeric_limits<double>::quiet_NaN() : 0;
}

// y_j = x_j - offset.
template <class D, typename S, typename T = hn::TFromD<D>>
HWY_NOINLINE void MoveBlock(D d, const S* x, size_t n, T offset, T* y) {
  const auto shift = hn::Set(d, offset);
  MapRow(
      d, n, [&](const auto& load) HWY_ATTR { return hn::Sub(load(x), shift); }, {}, y);
}

// Reduces rows, block by block. What ends them is done for several at a time, whose long chains of dependent operations
// then overlap.
template <BackgroundKind kKind, typename S, class Temper>
class RowReducer {
  using T = ComputeType<S>;
  using D = hn::ScalableTag<T>;

 public:
  RowReducer(const RowRange<S>& rows, RowSums* sums, const Temper& temper)
      : rows_(rows), sums_(sums), size_(static_cast<size_t>(rows.num_classes)), reference_(D(), T{0}, temper) {}

  // A row, of which `guess` is the first reference.
  HWY_INLINE void Begin(size_t row, T guess) {
    sums_[row] = {.max = kLowest};
    kept_ = rows_.Kept(static_cast<int64_t>(row));
    BeginSegment(row, 0);
    reference_.Set(D(), guess);
  }

  // Its next block. Meanwhile `writer` writes.
  template <class Writer>
  HWY_INLINE void Add(const RowBlock<S>& block, const Background<T>& background, const Writer& writer) {
    BlockSums<T> sums = Sum(block, background, writer);
    const T max = std::max(sums.max, segment().max);
    const bool in_reach = sums.max <= reference_.value + temper().Times(ExpConstants<T>::kReach);
    if (HWY_UNLIKELY(!in_reach || max < reference_.value)) {
      if (sums.max == -kLowest) return AddInfinite(block);
      if (sums.max == kLowest) {
        sums.exps = std::isnan(sums.exps) ? sums.exps : 0;
      } else {
        const size_t row = segment().row;
        if (segment().first != block.offset) EndSegment(block.offset, false);
        BeginSegment(row, block.offset);
        reference_.Set(D(), sums.max);
        sums = Sum(block, background, NoWriter());
      }
    }
    if constexpr (kHasBackground) FinishBackground<kKind>(D(), block, reference_.value, background, temper(), sums);
    segment().Add(sums, block.offset, temper());
  }

  // Ends the row.
  HWY_INLINE void End() { EndSegment(size_, true); }

  // Completes the sums of all rows that have ended.
  HWY_NOINLINE void Finish() {
    const D d;
    HWY_ALIGN_MAX T references[kMaxEnded] = {}, maxima[kMaxEnded] = {};
    HWY_ALIGN_MAX T fractions[kMaxEnded], powers[kMaxEnded];  // of the exponentials of the maxima
    for (size_t i = 0; i < num_ended_; ++i) {
      references[i] = segments_[i].reference;
      maxima[i] = segments_[i].max;
    }
    for (size_t i = 0; i < num_ended_; i += hn::Lanes(d)) {
      const auto origin = OriginOf(d, hn::Load(d, references + i), temper());
      const auto e = ScaledExpParts(d, hn::Sub(hn::Load(d, maxima + i), origin.offset), origin, temper());
      hn::Store(e.fraction, d, fractions + i);
      hn::Store(e.power, d, powers + i);
    }
    for (size_t i = 0; i < num_ended_; ++i) {
      FoldSegment(segments_[i], 1 / (static_cast<double>(fractions[i]) * static_cast<double>(powers[i])));
    }
    num_ended_ = 0;
  }

 private:
  static constexpr T kLowest = -std::numeric_limits<T>::infinity();
  static constexpr bool kHasBackground = kKind != BackgroundKind::kNone;
  static constexpr size_t kMaxEnded = 16;
  static_assert(kMaxEnded % hn::MaxLanes(D()) == 0);

  // The blocks that are relative to one reference.
  struct Segment {
    HWY_INLINE void Add(const BlockSums<T>& sums, size_t offset, const Temper& temper) {
      if (sums.max > max) {
        rest += best;
        best = sums.exps;
        best_offset = offset;
        if (kHasBackground && max != kLowest)
          background_dot += MoveOf(background, temper.Over(max), temper.Over(sums.max));
        max = sums.max;
      } else {
        rest += sums.exps;
        if (kHasBackground && sums.max != kLowest)
          background_dot += MoveOf(sums.background, temper.Over(sums.max), temper.Over(max));
      }
      if constexpr (kHasBackground) {
        background += sums.background;
        background_dot += sums.background_dot;
      }
    }

    size_t row = 0, first = 0, end = 0;  // its place
    bool is_last = false;                // of its row
    T reference = 0, max = kLowest;
    double best = 0;  // the exponentials of the block that has the maximum
    size_t best_offset = 0;
    double rest = 0;                            // those of the others
    double background = 0, background_dot = 0;  // relative to the maximum
  };

  template <class Writer>
  HWY_INLINE BlockSums<T> Sum(const RowBlock<S>& block, const Background<T>& background, const Writer& writer) {
    if (HWY_LIKELY(reference_.offset() == 0)) return SumUnmoved(block, background, writer);
    Writer(writer).Finish();
    return SumMoved(block, background);
  }
  template <typename X, class Writer>
  HWY_INLINE BlockSums<T> SumUnmoved(const RowBlock<X>& block, const Background<T>& background, const Writer& writer) {
    const D d;
    if constexpr (std::is_same_v<Writer, NoWriter>) {  // what is written was kept, and so is what is read meanwhile
      if (kept_.exps == nullptr) return SumBlock<kKind, false>(d, block, reference_, background, kept_.exps, writer);
    }
    return SumBlock<kKind, true>(d, block, reference_, background, kept_.exps + block.offset, writer);
  }
  HWY_NOINLINE BlockSums<T> SumMoved(const RowBlock<S>& block, const Background<T>& background) {
    const D d;
    HWY_ALIGN_MAX T moved[kBlock<T>];
    MoveBlock(d, block.x, block.size, reference_.value, moved);
    BlockSums<T> sums = SumUnmoved(RowBlock<T>{moved, block.size, block.offset}, background, NoWriter());
    sums.max = MaxOf(d, block.x, block.size);  // which may have been rounded
    return sums;
  }

  // The loss will be NaN; what is left to say is whether the row has NaN.
  HWY_NOINLINE void AddInfinite(const RowBlock<S>& block) {
    const size_t row = segment().row;
    EndSegment(block.offset, false);
    Finish();
    const size_t place = block.offset + PlaceOf(D(), -kLowest, block.x, block.size);
    Fold({-kLowest, NanOf(block.x, block.size), static_cast<int64_t>(place)}, 0, sums_[row]);
    BeginSegment(row, block.offset + block.size);
  }

  const Temper& temper() const { return reference_.temper; }

  // The present one.
  HWY_INLINE Segment& segment() { return segments_[num_ended_]; }

  HWY_INLINE void BeginSegment(size_t row, size_t first) { segment() = {.row = row, .first = first}; }

  HWY_INLINE void EndSegment(size_t end, bool last) {
    Segment& ended = segment();
    ended.end = end;
    ended.is_last = last;
    ended.reference = reference_.value;
    if (++num_ended_ == kMaxEnded) Finish();
  }

  // `factor`: by which the exponentials of the segment are multiplied, to be relative to its maximum; of which the own
  // is then 1, whatever its error.
  HWY_INLINE void FoldSegment(const Segment& segment, double factor) {
    RowSums& row = sums_[segment.row];
    double others = segment.rest;
    int64_t argmax = 0;
    if (segment.max == kLowest) {  // or no block at all
      factor = 0;
    } else {
      others = (segment.rest + segment.best) * factor - 1;
      const bool confident = others < 1;
      if (confident || rows_.finds_argmax) {
        const D d;
        HWY_ALIGN_MAX S room[kBlock<T>];
        const RowBlock<S> block = BlockAt(rows_, segment.row, segment.best_offset, room);
        const size_t place = PlaceOf(d, segment.max, block.x, block.size);
        argmax = static_cast<int64_t>(segment.best_offset + place);
        if (confident) {
          others = (segment.rest + SumWithout(d, block, Reference<D, Temper>(d, segment.reference, temper()), place)) *
                   factor;
        }
      }
      if (Temper::kDrift != 0) others = WithoutDrift<T>(others, static_cast<int64_t>(segment.end - segment.first));
    }
    const double max = temper().Over(static_cast<double>(segment.max));
    const KeptRow<T> kept = rows_.Kept(static_cast<int64_t>(segment.row));
    if (kept.exps != nullptr) {
      const size_t begin = segment.first / kBlock<T>, end = (segment.end + kBlock<T> - 1) / kBlock<T>;
      std::fill(kept.scales + begin, kept.scales + end, BlockScale{max, factor});
    }
    Fold({max, others, argmax, segment.background, segment.background_dot}, 0, row);
    if (segment.is_last) row.others = WithoutDust<T>(row.others, rows_.num_classes);
  }

  const RowRange<S>& rows_;
  RowSums* sums_;
  size_t size_;
  KeptRow<T> kept_;
  Reference<D, Temper> reference_;
  Segment segments_[kMaxEnded];
  size_t num_ended_ = 0;
};

// Calls function(what exponentials need to know of the temperature). REQUIRES: that is 1, or CanTemper<S>() says so.
template <typename S, class Function>
HWY_INLINE void WithTemper(double temperature, const Function& function) {
  if constexpr (kTempers<S>) {
    if (temperature != 1) return function(Tempered<S>(temperature));
  }
  HWY_DASSERT(temperature == 1);
  function(Untempered<ComputeType<S>>());
}

// The entries [first, first + size), from their logits x [size].
template <typename S, typename G, class Temper>
HWY_NOINLINE void ScatterFrom(const S* x, size_t first, size_t size, const Gradient<ComputeType<S>>& gradient, G* dx,
                              const Temper& t) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  const T max = static_cast<T>(gradient.max * gradient.temperature);
  const Temper temper = t;
  const auto origin = OriginOf(d, hn::Set(d, max), temper);
  const Background<T> b = gradient.background.From(static_cast<int64_t>(first));
  const auto p = hn::Set(d, static_cast<T>(gradient.p_scale * FactorOf(d, max, origin, temper)));
  const auto s = hn::Set(d, static_cast<T>(BackgroundCoefficient(gradient)));
  WithKind(KindOf(b), [&](auto kind) HWY_ATTR {
    const auto entry = [&](const auto& load) HWY_ATTR {
      const auto e = ScaledExp(d, hn::Sub(load(x), origin.offset), origin, temper);
      return GradientEntry<decltype(kind)::value>(d, p, e, s, b, load);
    };
    using Writer = RowWriter<hn::ScalableTag<T>, decltype(entry), G>;
    constexpr size_t kStep = Writer::kSteps * hn::MaxLanes(hn::ScalableTag<T>());
    const auto make_entry = [&]() HWY_ATTR { return entry; };
    const Writer original(d, size, make_entry, {gradient.points, gradient.stream, first, gradient.shared}, dx + first);
    Writer writer = original;
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
  if (FitsIn(gradient)) {
    return WithTemper<S>(gradient.temperature,
                         [&](const auto& temper) { ScatterFrom(x, first, size, gradient, dx, temper); });
  }
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

// Calls function(writer) for the block at `first` of such a row's gradient. A block that was kept relative to a number
// too far below the row's maximum is written at once, and the answer is false.
template <BackgroundKind kKind, typename S, typename G, class Function>
HWY_INLINE bool WithKeptWriter(const RowSource<S>& x, size_t first, size_t size,
                               const Gradient<ComputeType<S>>& gradient, G* dx, const Function& function) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  using Entry = KeptEntry<kKind, decltype(d)>;
  const BlockScale& scale = gradient.kept.scales[first / kBlock<T>];
  constexpr double kUnscale = ExpConstants<T>::kUnscale;
  const double largest = gradient.p_scale * ExpOfDifference(scale.max, gradient.max);
  const double p = largest * (scale.factor / kUnscale);
  if (!FitsIn<T>(p) || (p == 0 && largest != 0)) return ScatterBlock(x, first, size, gradient, dx), false;
  const auto make_entry = [&]() HWY_ATTR {
    return Entry{d, static_cast<T>(p * kUnscale), static_cast<T>(BackgroundCoefficient(gradient)),
                 gradient.background.From(static_cast<int64_t>(first)), gradient.kept.exps + first};
  };
  function(RowWriter<decltype(d), Entry, G>(d, size, make_entry,
                                            {gradient.points, gradient.stream, first, gradient.shared}, dx + first));
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

template <BackgroundKind kKind, typename S, class Temper>
HWY_INLINE void ReduceRowsOf(const RowRange<S>& rows, Background<ComputeType<S>> background,
                             const PendingRows<S>& pending, RowSums* sums, const Temper& temper) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  const size_t count = static_cast<size_t>(rows.count), size = static_cast<size_t>(rows.num_classes);
  HWY_ALIGN_MAX S rooms[2][kBlock<T>];  // for blocks that are not in one piece
  const auto live = [&](size_t row) {
    while (row < count && rows.skipped != nullptr && rows.skipped[row]) ++row;
    return row;
  };
  const auto block_at = [&](BlockPlace at, size_t turn) {
    return at.row < count ? BlockAt(rows, at.row, at.first, rooms[turn]) : RowBlock<S>{};
  };
  // The first reference of the row that begins with the block: 0 where it begins with what masks classes.
  const auto guess = [&](const RowBlock<S>& block) HWY_ATTR {
    const T max = MaxOf(d, block.x, std::min(block.size, kUnroll * hn::Lanes(d)));
    return max >= -temper.Times(ExpConstants<T>::kOffsetAbove) && max <= std::numeric_limits<T>::max() ? max : T{0};
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
  const T* const probabilities = background.probabilities;
  BlockPlace at{live(0), 0};
  size_t turn = 0;
  RowBlock<S> block = block_at(at, turn);
  T reference = guess(block);
  RowReducer<kKind, S, Temper> reducer(rows, sums, temper);
  while (at.row < count) {
    const size_t offset = at.row * size, row = at.row;
    if (probabilities != nullptr) background.probabilities = probabilities + offset;
    reducer.Begin(row, reference);
    while (at.row == row) {
      at = {row, at.first + block.size};
      if (at.first == size) at = {live(row + 1), 0};
      turn = 1 - turn;
      const RowBlock<S> next = block_at(at, turn);
      if (at.row != row) reference = guess(next);
      const auto reduce = [&](const auto& writer) HWY_ATTR { reducer.Add(block, background, writer); };
      if (!is_written_meanwhile(row) ||
          !WithKeptWriter<kKind>(pending.x.From(static_cast<int64_t>(offset)), block.offset, block.size,
                                 pending.gradients[row], pending.dx + offset, reduce)) {
        reduce(NoWriter());
      }
      block = next;
    }
    reducer.End();
  }
  reducer.Finish();
}

template <typename S>
void ReduceRows(const RowRange<S>& rows, const Background<ComputeType<S>>& background, const PendingRows<S>& pending,
                RowSums* sums) {
  WithKind(KindOf(background), [&](auto kind) HWY_ATTR {
    WithTemper<S>(rows.temperature, [&](const auto& temper) HWY_ATTR {
      ReduceRowsOf<decltype(kind)::value>(rows, background, pending, sums, temper);
    });
  });
}

template <typename S>
void LogSoftmaxRow(const S* x, int64_t num_classes, double max, double log_denominator, double temperature,
                   ComputeType<S>* y) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  const auto m = hn::Set(d, static_cast<T>(max * temperature)), inverse = hn::Set(d, static_cast<T>(1 / temperature));
  const auto log_d = hn::Set(d, static_cast<T>(log_denominator));
  const auto log_p = [&](const auto& load) HWY_ATTR { return hn::Sub(hn::Mul(hn::Sub(load(x), m), inverse), log_d); };
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

// EntropySum(), of the largest logit itself.
template <typename S, class Temper>
double EntropySumOf(const S* x, int64_t num_classes, ComputeType<S> max, const Temper& temper) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const size_t size = static_cast<size_t>(num_classes);
  const size_t most = kTerms * lanes;
  const auto m = hn::Set(d, max);
  const auto origin = OriginOf(d, m, temper);
  const auto zero_above = hn::Set(d, -ExpConstants<T>::kZeroBelow);
  const auto term = [&](const auto v) HWY_ATTR {
    const auto cost = temper.Over(d, hn::Sub(m, v));
    const auto e = ScaledExp(d, hn::Sub(v, origin.offset), origin, temper);
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
  return total * FactorOf(d, max, origin, temper);
}
template <typename S>
double EntropySum(const S* x, int64_t num_classes, double max, double temperature) {
  double sum = 0;
  WithTemper<S>(temperature, [&](const auto& temper) {
    sum = EntropySumOf(x, num_classes, static_cast<ComputeType<S>>(max * temperature), temper);
  });
  return sum;
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
