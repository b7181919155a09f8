// One block of a row (row-inl.h): its maximum, and its sums relative to a number that is known before.

#if defined(LOSSD_LOSS_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_BLOCK_INL_H_
#undef LOSSD_LOSS_BLOCK_INL_H_
#else
#define LOSSD_LOSS_BLOCK_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "loss/background-inl.h"
#include "loss/exp-inl.h"
#include "loss/lanes-inl.h"
#include "loss/row.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Memory is fetched ahead of what is read, into the L2 cache: L1 has no room for as much as hides the latency of
// memory, and gets it from there. While a window of memory of so many bytes is read the next one is fetched, as streams
// of which each gets a line in turn: a processor fetches ahead on its own in each page that it sees read in order, and
// gets further in several at once. A step that reads fewer lines than that feeds fewer streams.
inline constexpr size_t kAheadBytes = 32768;
inline constexpr size_t kAheadStreams = 4;  // at most
inline constexpr size_t kNearBytes = 2048;  // what L1 gets is so far ahead
inline constexpr size_t kUnroll = 4;        // independent accumulators hide the latency of addition
inline constexpr size_t kTerms = 32;        // of one sum in the type computed in
inline constexpr size_t kCacheLine = 64;

// Asks for as much as a step of kStep bytes, a power of 2, reads at `next`.
template <size_t kStep>
HWY_INLINE void FetchAhead(const void* next) {
  constexpr uintptr_t kBytes = std::max(kStep, kCacheLine), kStreams = std::min(kAheadStreams, kBytes / kCacheLine);
  const uintptr_t ahead = reinterpret_cast<uintptr_t>(next) + kAheadBytes, window = ahead / kAheadBytes;
  const uintptr_t first = window * kAheadBytes + ahead % kAheadBytes / kBytes * (kBytes / kStreams);
  for (uintptr_t line = first; line < first + kBytes / kStreams; line += kCacheLine) {
    for (uintptr_t stream = 0; stream < kStreams; ++stream) {
      FetchToL2(reinterpret_cast<const void*>(line + stream * (kAheadBytes / kStreams)));
    }
  }
  const auto near = reinterpret_cast<uintptr_t>(next) + kNearBytes;
  for (uintptr_t line = near; line < near + kBytes; line += kCacheLine) FetchToL1(reinterpret_cast<const void*>(line));
}

template <typename T>
inline constexpr size_t kBlock = static_cast<size_t>(kRowBlock<T>);

// A block of a row: x [size], at `offset` of the row.
template <typename S>
struct RowBlock {
  const S* x;
  size_t size, offset;
};

// The block at `first` of a row; `room`: for one that is not in one piece.
template <typename S>
RowBlock<S> BlockAt(const RowRange<S>& rows, size_t row, size_t first, S* room) {
  const size_t size = static_cast<size_t>(rows.num_classes), n = std::min(kBlock<ComputeType<S>>, size - first);
  return {rows.x.Read(static_cast<int64_t>(row * size + first), static_cast<int64_t>(n), room), n, first};
}

// The largest of x [size] where it is not NaN; -inf if there is none.
template <class D, typename S>
HWY_INLINE hn::TFromD<D> MaxOf(D d, const S* x, size_t size) {
  const size_t lanes = hn::Lanes(d);
  const auto lowest = hn::Set(d, -std::numeric_limits<hn::TFromD<D>>::infinity());
  auto max = lowest;
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) max = hn::Max(LoadLanes(d, x + i), max);  // of NaN and another, x86 keeps that
  if (i < size) max = hn::Max(hn::IfThenElse(hn::FirstN(d, size - i), LoadTail(d, x + i, size - i), lowest), max);
  return hn::GetLane(hn::MaxOfLanes(d, max));
}

// The first place of x [size] that has `value`, which is there.
template <class D, typename S>
HWY_INLINE size_t PlaceOf(D d, hn::TFromD<D> value, const S* x, size_t size) {
  const size_t lanes = hn::Lanes(d);
  const auto wanted = hn::Set(d, value);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const intptr_t lane = hn::FindFirstTrue(d, hn::Eq(LoadLanes(d, x + i), wanted));
    if (lane >= 0) return i + static_cast<size_t>(lane);
  }
  return i + static_cast<size_t>(hn::FindFirstTrue(d, hn::Eq(LoadTail(d, x + i, size - i), wanted)));
}

// What the exponentials of a block are relative to: a finite number.
template <class D, class Temper>
struct Reference {
  using T = hn::TFromD<D>;
  T value;
  ExpOrigin<hn::Vec<D>> origin;
  const Temper temper;

  HWY_INLINE Reference(D d, T number, const Temper& t) : temper(t) { Set(d, number); }

  // Field by field: a whole that was just put together of parts is slow to read.
  HWY_INLINE void Set(D d, T number) {
    const auto of = OriginOf(d, hn::Set(d, number), temper);
    value = number;
    origin.offset = of.offset;
    origin.shift = of.shift;
    origin.lowest = of.lowest;
  }

  // What is subtracted from logits before anything else.
  T offset() const { return std::fabs(value) > temper.Times(ExpConstants<T>::kOffsetAbove) ? value : 0; }
};

// Sums of one block.
template <typename T>
struct BlockSums {
  T max = -std::numeric_limits<T>::infinity();  // where it is not NaN
  double exps = 0;                              // of all, as ScaledExp() of the reference
  double background = 0, background_dot = 0;    // relative to the maximum, or 0 where that is -inf (FinishBackground())
};

// v, but 0 in one lane.
template <class D>
HWY_INLINE hn::Vec<D> WithoutLane(D d, hn::Vec<D> v, size_t lane) {
  return hn::IfThenZeroElse(LaneMask(d, lane), v);
}

template <class D>
HWY_INLINE double SumOf(D d, hn::Vec<D> v) {
  return static_cast<double>(hn::GetLane(hn::SumOfLanes(d, v)));
}

// OriginFactor() of a whole row, the scale of ScaledExp() undone.
template <class D, class Temper, typename T = hn::TFromD<D>>
HWY_INLINE double FactorOf(D, T max, const ExpOrigin<hn::Vec<D>>& origin, const Temper& temper) {
  const hn::CappedTag<double, 1> dd;
  const double offset = static_cast<double>(hn::GetLane(origin.offset));
  const auto shift = hn::Set(dd, static_cast<double>(hn::GetLane(origin.shift)));
  return hn::GetLane(OriginFactor<T>(dd, hn::Set(dd, static_cast<double>(max) - offset), shift, temper)) *
         ExpConstants<T>::kUnscale;
}

// Adds up what is relative to one number: in T, and before a sum of that has too many terms in double. Terms of the
// background may be twice as large as those that its accuracy is relative to, so fewer are added up.
template <BackgroundKind kKind, class D>
class BlockAdder {
  using V = hn::Vec<D>;
  using T = hn::TFromD<D>;

 public:
  HWY_INLINE explicit BlockAdder(D d) : d_(d), background_(d) {
    for (size_t k = 0; k < kUnroll; ++k) exps_[k] = hn::Zero(d);
  }

  // A step of vectors comes next.
  HWY_INLINE void Step() {
    if (HWY_UNLIKELY(terms_ == kMostTerms)) Flush();
    ++terms_;
  }

  // An exponential, in accumulator k.
  HWY_INLINE void Add(size_t k, const ExpParts<V>& e) { exps_[k] = hn::MulAdd(e.fraction, e.power, exps_[k]); }

  // For the background.
  HWY_INLINE BackgroundSums<kKind, D>& background() { return background_; }

  // All sums but the maximum. Where NoteSigns() met what is negative, the background's `dot` is NaN.
  HWY_INLINE BlockSums<T> Finish() {
    Flush();
    if constexpr (kKind != BackgroundKind::kNone) {
      if (background_.AnyNegative()) total_.background_dot = std::numeric_limits<double>::quiet_NaN();
    }
    return total_;
  }

 private:
  static constexpr size_t kMostTerms = kSummedWithExps<kKind> ? kTerms / 2 : kTerms;

  HWY_INLINE void Flush() {
    const V zero = hn::Zero(d_);
    total_.exps += SumOf(d_, hn::Add(hn::Add(exps_[0], exps_[1]), hn::Add(exps_[2], exps_[3])));
    for (size_t k = 0; k < kUnroll; ++k) exps_[k] = zero;
    if constexpr (kKind != BackgroundKind::kNone) {
      total_.background += SumOf(d_, background_.mass);
      total_.background_dot += SumOf(d_, background_.dot);
      background_.mass = background_.dot = zero;
    }
    terms_ = 0;
  }

  D d_;
  V exps_[kUnroll];
  BackgroundSums<kKind, D> background_;
  size_t terms_ = 0;
  BlockSums<T> total_;
};

// The background of a block's classes [i, i + n).
template <BackgroundKind kKind, class D, typename S, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> BackgroundOf(D d, const RowBlock<S>& block, const Background<T>& b, size_t i, size_t n) {
  return BackgroundAt<kKind>(d, b, [&](const T* row) HWY_ATTR { return LoadUpTo(d, row + block.offset + i, n); });
}

// A block, of which the offset of the reference has been subtracted. kKeep: exponentials are left in `kept`. Meanwhile,
// what `meanwhile` writes is written. It may read `kept`: of each place, before anything new is kept there. The sums of
// the background, if kSummedWithExps, are AddOrdinary()'s, without the scale that BackgroundAt() leaves out, relative
// to the reference.
template <BackgroundKind kKind, bool kKeep, typename S, class Writer, class D, class Temper, typename T = hn::TFromD<D>>
HWY_NOINLINE BlockSums<T> SumBlock(D d, const RowBlock<S>& block, const Reference<D, Temper>& reference,
                                   const Background<T>& background, T* kept, const Writer& meanwhile) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d), step = kUnroll * lanes;
  constexpr size_t kStepBytes = kUnroll * hn::MaxLanes(D()) * sizeof(S);
  const auto origin = reference.origin;
  const Temper temper = reference.temper;
  const V lowest = hn::Set(d, -std::numeric_limits<T>::infinity());
  const V background_reference = hn::Set(d, reference.value - reference.offset());
  const Background<T> b = background;  // which no store changes
  V max = lowest;
  BlockAdder<kKind, D> adder(d);
  Writer writer = meanwhile;  // in registers
  // Where v is NaN, x86 keeps the other. Wherever NaN ends up, the sum catches it.
  const auto raise = [&](V v) HWY_ATTR { max = hn::Max(v, max); };
  const auto keep = [&](const ExpParts<V>& e, size_t i) HWY_ATTR {
    if constexpr (kKeep) hn::Store(e.value, d, kept + i);
  };

  const S* const x = block.x;
  const size_t n = block.size;
  size_t i = 0;
  for (; i + step <= n; i += step) {
    adder.Step();
    FetchAhead<kStepBytes>(x + i);
    writer.Step();
    V v[kUnroll];
    for (size_t k = 0; k < kUnroll; ++k) v[k] = LoadLanes(d, x + i + k * lanes);
    for (size_t k = 0; k < kUnroll; ++k) raise(v[k]);
    if constexpr (kSummedWithExps<kKind>) {
      V z[kUnroll], t[kUnroll];
      for (size_t k = 0; k < kUnroll; ++k) {
        z[k] = temper.Over(d, hn::Sub(v[k], background_reference));
        t[k] = BackgroundOf<kKind>(d, block, b, i + k * lanes, lanes);
      }
      adder.background().AddOrdinary(z, t);
      adder.background().NoteSigns(t);
    }
    for (size_t k = 0; k < kUnroll; ++k) {
      const ExpParts<V> e = ScaledExpParts(d, v[k], origin, temper);
      keep(e, i + k * lanes);
      adder.Add(k, e);
    }
  }
  if (i < n) FetchAhead<kStepBytes>(x + i);
  writer.Finish();
  for (; i < n; i += lanes) {
    const size_t size = std::min(lanes, n - i);
    const auto valid = hn::FirstN(d, size);
    const V v = LoadUpTo(d, x + i, size);
    raise(hn::IfThenElse(valid, v, lowest));
    if constexpr (kSummedWithExps<kKind>) {
      const V z[] = {hn::IfThenElseZero(valid, temper.Over(d, hn::Sub(v, background_reference)))};
      const V t[] = {hn::IfThenElseZero(valid, BackgroundOf<kKind>(d, block, b, i, size))};
      adder.background().AddOrdinary(z, t);
      adder.background().NoteSigns(t);
    }
    ExpParts<V> e = ScaledExpParts(d, hn::IfThenElse(valid, v, origin.lowest), origin, temper);
    e.power = hn::IfThenElseZero(valid, e.power);
    e.value = hn::IfThenElseZero(valid, e.value);
    keep(e, i);
    adder.Add(0, e);
  }
  BlockSums<T> sums = adder.Finish();
  sums.max = hn::GetLane(hn::MaxOfLanes(d, max));
  return sums;
}

// The sums of a background relative to `max`, a finite number; kOrdinary: as AddOrdinary() does, else with infinite
// logits of classes without mass.
template <BackgroundKind kKind, bool kOrdinary, class D, typename S, class Temper, typename T = hn::TFromD<D>>
HWY_NOINLINE BlockSums<T> SumBackground(D d, const RowBlock<S>& block, T max, const Background<T>& b,
                                        const Temper& shared) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d), step = kUnroll * lanes, n = block.size;
  const V reference = hn::Set(d, max);
  const Temper temper = shared;
  BlockAdder<kKind, D> adder(d);
  const auto background_at = [&](size_t i, size_t size) HWY_ATTR { return BackgroundOf<kKind>(d, block, b, i, size); };
  const auto add = [&](const auto& z, const auto& t) HWY_ATTR {
    if constexpr (kOrdinary) {
      adder.background().AddOrdinary(z, t);
    } else {
      adder.background().Add(d, z, t);
    }
  };
  size_t i = 0;
  for (; i + step <= n; i += step) {
    adder.Step();
    if constexpr (HasProbabilities(kKind)) {
      FetchAhead<kUnroll * hn::MaxLanes(D()) * sizeof(T)>(b.probabilities + block.offset + i);
    }
    V z[kUnroll], t[kUnroll];
    for (size_t k = 0; k < kUnroll; ++k) {
      z[k] = temper.Over(d, hn::Sub(LoadLanes(d, block.x + i + k * lanes), reference));
      t[k] = background_at(i + k * lanes, lanes);
    }
    add(z, t);
  }
  for (; i < n; i += lanes) {
    const size_t size = std::min(lanes, n - i);
    const auto valid = hn::FirstN(d, size);
    const V v = LoadUpTo(d, block.x + i, size);
    const V z[] = {hn::IfThenElseZero(valid, temper.Over(d, hn::Sub(v, reference)))};
    const V t[] = {hn::IfThenElseZero(valid, background_at(i, size))};
    add(z, t);
  }
  return adder.Finish();
}

// The same one term at a time, where nothing is too large nor too small: of classes [first, first + size), whose logits
// are `stride` apart, the first at x.
template <typename S, typename T, class Temper>
BlockSums<T> SumBackgroundSlowly(const S* x, int64_t stride, int64_t first, int64_t size, double reference,
                                 const Background<T>& b, const Temper& temper) {
  long double mass = 0, dot = 0;
  for (int64_t i = 0; i < size; ++i) {
    const double t = b.At(first + i);
    mass += t;
    dot += BackgroundTerm(t, temper.Over(ToDouble(LoadElement<S>(x, i * stride))) - temper.Over(reference));
  }
  return {.background = static_cast<double>(mass), .background_dot = static_cast<double>(dot)};
}

// Makes SumBlock()'s sums of the background those of the block, or adds up anew. They are accurate if nothing is
// negative, and the average is not above the reference: the sum of all magnitudes is at most twice that of the row's
// then, whose maximum is not below the reference. Those of a block with NaN do not matter.
template <BackgroundKind kKind, class D, typename S, class Temper, typename T = hn::TFromD<D>>
HWY_INLINE void FinishBackground(D d, const RowBlock<S>& block, T reference, const Background<T>& b,
                                 const Temper& temper, BlockSums<T>& sums) {
  const double scale = BackgroundScale(b);
  const auto take = [&](const BlockSums<T>& of, double factor) {
    const bool uniform = kKind == BackgroundKind::kUniform;
    sums.background = uniform ? scale * static_cast<double>(block.size) : factor * of.background;
    sums.background_dot = factor * of.background_dot;
    return std::isfinite(sums.background) && std::isfinite(sums.background_dot);
  };
  if (kSummedWithExps<kKind> && HWY_LIKELY(sums.background_dot <= 0 && take(sums, scale))) {
    sums.background_dot += MoveOf(sums.background, temper.Over(reference), temper.Over(sums.max));
    return;
  }
  if (std::isnan(sums.exps)) return;
  const T max = sums.max == -std::numeric_limits<T>::infinity() ? T{0} : sums.max;
  take(SumBackground<kKind, true>(d, block, max, b, temper), scale) ||
      take(SumBackground<kKind, false>(d, block, max, b, temper), scale) ||
      take(SumBackgroundSlowly(block.x, 1, static_cast<int64_t>(block.offset), static_cast<int64_t>(block.size),
                               static_cast<double>(max), b, temper),
           1);
}

// The exponentials of a block but the one at `place`, added up.
template <typename S, class D, class Temper, typename T = hn::TFromD<D>>
HWY_NOINLINE double SumWithout(D d, const RowBlock<S>& block, const Reference<D, Temper>& reference, size_t place) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d), step = kUnroll * lanes, n = block.size;
  const V offset = hn::Set(d, reference.offset());
  const auto origin = reference.origin;
  const Temper temper = reference.temper;
  BlockAdder<BackgroundKind::kNone, D> adder(d);
  const auto exp = [&](V v) HWY_ATTR { return ScaledExpParts(d, hn::Sub(v, offset), origin, temper); };
  size_t i = 0;
  for (; i + step <= n; i += step) {
    adder.Step();
    ExpParts<V> e[kUnroll];
    for (size_t k = 0; k < kUnroll; ++k) e[k] = exp(LoadLanes(d, block.x + i + k * lanes));
    if (HWY_UNLIKELY(place - i < step)) {
      for (size_t k = 0; k < kUnroll; ++k) e[k].power = WithoutLane(d, e[k].power, place - i - k * lanes);
    }
    for (size_t k = 0; k < kUnroll; ++k) adder.Add(k, e[k]);
  }
  for (; i < n; i += lanes) {
    const size_t size = std::min(lanes, n - i);
    const auto valid = hn::FirstN(d, size);
    const V v = LoadUpTo(d, block.x + i, size);
    ExpParts<V> e = exp(hn::IfThenElse(valid, v, hn::Set(d, reference.value)));
    e.power = WithoutLane(d, hn::IfThenElseZero(valid, e.power), place - i);
    adder.Add(0, e);
  }
  return adder.Finish().exps;
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_BLOCK_INL_H_
