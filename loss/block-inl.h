// One block of a row (row-inl.h): its maximum, and its sums relative to that.

#if defined(LOSSD_LOSS_BLOCK_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_BLOCK_INL_H_
#undef LOSSD_LOSS_BLOCK_INL_H_
#else
#define LOSSD_LOSS_BLOCK_INL_H_
#endif

#include <hwy/contrib/algo/find-inl.h>
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

// Memory is fetched ahead of what is read, into the L2 cache: beside the blocks that are worked on L1 has no room for
// as much as hides the latency of memory. While a window of memory of so many bytes is read the next one is fetched, as
// streams of which each gets a line in turn: a processor fetches ahead on its own in each page that it sees read in
// order, and gets further in several at once. A step that reads fewer lines than that feeds fewer streams.
inline constexpr size_t kAheadBytes = 16384;
inline constexpr size_t kAheadStreams = 4;  // at most
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
}

template <typename T>
inline constexpr size_t kBlock = static_cast<size_t>(kRowBlock<T>);

// The largest number of a block, NaN left out, and the first place that has it.
template <typename T>
struct BlockMax {
  T max;
  size_t place;
};

// Finds the largest number of a block, a step of vectors at a time, so that it can be done while another block is
// summed: memory is then read all the time, and at an even pace. REQUIRES: size <= kBlock<T>.
template <class D, typename S>
class MaxScan {
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;

 public:
  static constexpr size_t kMaxima = kBlock<T> / kUnroll;
  static constexpr size_t kStepBytes = kUnroll * hn::MaxLanes(D()) * sizeof(S);

  // The block is x [size], left in `copy` as T where it is stored as something else. `maxima` [kMaxima]: room, aligned.
  HWY_INLINE MaxScan(D d, const S* x, size_t size, T* copy, T* maxima)
      : d_(d), x_(x), copy_(copy), maxima_(maxima), size_(size), max_(Lowest()) {}

  // A step, if there are so many elements left.
  HWY_INLINE void Step() {
    const size_t lanes = hn::Lanes(d_);
    if (HWY_UNLIKELY(next_ + kUnroll * lanes > size_)) return;
    FetchAhead<kStepBytes>(x_ + next_);
    for (size_t k = 0; k < kUnroll; ++k) Raise(Load(next_ + k * lanes));
    EndStep();
  }

  // Does what is left.
  HWY_INLINE BlockMax<T> Finish() {
    const size_t lanes = hn::Lanes(d_);
    while (next_ + kUnroll * lanes <= size_) Step();
    if (next_ < size_) FetchAhead<kStepBytes>(x_ + next_);
    size_t i = next_;
    for (; i + lanes <= size_; i += lanes) Raise(Load(i));
    if (i < size_) {
      const V v = LoadTail(d_, x_ + i, size_ - i);
      if constexpr (!std::is_same_v<S, T>) StoreTail(v, d_, copy_ + i, size_ - i);
      Raise(hn::IfThenElse(hn::FirstN(d_, size_ - i), v, Lowest()));
    }
    if (next_ < size_) EndStep();
    const T max = hn::GetLane(hn::MaxOfLanes(d_, max_));
    return {max, size_ == 0 ? 0 : PlaceOf(max)};
  }

  const T* values() const {
    if constexpr (std::is_same_v<S, T>) return x_;
    return copy_;
  }

 private:
  HWY_INLINE V Load(size_t i) {
    const V v = LoadLanes(d_, x_ + i);
    if constexpr (!std::is_same_v<S, T>) hn::Store(v, d_, copy_ + i);
    return v;
  }

  HWY_INLINE V Lowest() const { return hn::Set(d_, -std::numeric_limits<T>::infinity()); }

  // Where v is NaN, x86 keeps the other. Wherever NaN ends up, the sums catch it.
  HWY_INLINE void Raise(V v) { max_ = hn::Max(v, max_); }

  HWY_INLINE void EndStep() {
    hn::Store(max_, d_, maxima_ + next_ / kUnroll);
    next_ += kUnroll * hn::Lanes(d_);
  }

  HWY_INLINE size_t PlaceOf(T max) const {
    const size_t lanes = hn::Lanes(d_), step = kUnroll * lanes;
    const V wanted = hn::Set(d_, max);
    size_t first = 0;
    while (first + step < size_ && hn::AllFalse(d_, hn::Eq(hn::Load(d_, maxima_ + first / kUnroll), wanted)))
      first += step;
    return first + hn::Find(d_, max, values() + first, std::min(step, size_ - first));
  }

  D d_;
  const S* x_;
  T* copy_;
  T* maxima_;  // so far, by lane, after each step
  size_t size_;
  size_t next_ = 0;
  V max_;
};

// Sums of one block relative to its own max.
struct BlockSums {
  double others = 0, background = 0, background_dot = 0;
  double factor = 0;  // FactorOf() the block
};

// v, but 0 in one lane.
template <class D>
HWY_INLINE hn::Vec<D> WithoutLane(D d, hn::Vec<D> v, size_t lane) {
  return hn::IfThenZeroElse(LaneMask(d, lane), v);
}

// A block of a row: x [size], at `offset` of the row.
template <typename T>
struct RowBlock {
  const T* x;
  size_t size, offset;
  BlockMax<T> max;  // left out of the sum; max.max, the reference of all of them, is finite
};

template <class D>
HWY_INLINE double SumOf(D d, hn::Vec<D> v) {
  return static_cast<double>(hn::GetLane(hn::SumOfLanes(d, v)));
}

// OriginFactor() of a whole row, the scale of ScaledExp() undone.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE double FactorOf(D, T max, const ExpOrigin<hn::Vec<D>>& origin) {
  const hn::CappedTag<double, 1> dd;
  const double offset = static_cast<double>(hn::GetLane(origin.offset));
  const auto shift = hn::Set(dd, static_cast<double>(hn::GetLane(origin.shift)));
  return hn::GetLane(OriginFactor<T>(dd, hn::Set(dd, static_cast<double>(max) - offset), shift)) *
         ExpConstants<T>::kUnscale;
}

// Adds a block up.
template <BackgroundKind kKind, class D>
class BlockAdder {
  using V = hn::Vec<D>;

 public:
  HWY_INLINE BlockAdder(D d, V max) : d_(d), max_(max) { Clear(); }

  // In accumulator k: e = exp(x - m).
  HWY_INLINE void Add(size_t k, const ExpParts<V>& e) { others_[k] = hn::MulAdd(e.fraction, e.power, others_[k]); }
  // x_j and t_j of several vectors.
  template <size_t kSize>
  HWY_INLINE void AddBackground(const V (&x)[kSize], const V (&t)[kSize]) {
    V z[kSize];
    for (size_t k = 0; k < kSize; ++k) z[k] = hn::Sub(x[k], max_);
    if constexpr (LeavesOutScale(kKind)) {
      background_.AddOrdinary(z, t);
    } else if constexpr (kKind != BackgroundKind::kNone) {
      background_.Add(d_, z, t);
    }
  }

  // To double, before a sum of T has too many terms.
  HWY_INLINE void Flush() {
    sums_.others += SumOf(d_, hn::Add(hn::Add(others_[0], others_[1]), hn::Add(others_[2], others_[3])));
    if constexpr (kKind != BackgroundKind::kNone) {
      sums_.background += SumOf(d_, background_.mass);
      sums_.background_dot += SumOf(d_, background_.dot);
    }
    Clear();
  }

  HWY_INLINE BlockSums Finish() {
    Flush();
    return sums_;
  }

 private:
  HWY_INLINE void Clear() {
    for (size_t k = 0; k < kUnroll; ++k) others_[k] = hn::Zero(d_);
    background_.Clear(d_);
  }

  D d_;
  V max_;
  V others_[kUnroll];
  BackgroundSums<kKind, D> background_;
  BlockSums sums_;
};

// The sums of the background alone, with its scale from the beginning, and 0 * ln 0 = 0.
template <BackgroundKind kKind, class D, typename T = hn::TFromD<D>>
HWY_NOINLINE void SumBackground(D d, const RowBlock<T>& block, const Background<T>& b, BlockSums& sums) {
  const size_t lanes = hn::Lanes(d), n = block.size;
  const auto max = hn::Set(d, block.max.max), scale = hn::Set(d, static_cast<T>(BackgroundScale(b)));
  sums.background = sums.background_dot = 0;
  BackgroundSums<kKind, D> part;
  part.Clear(d);
  for (size_t i = 0, terms = 1; i < n; i += lanes, ++terms) {
    const bool whole = i + lanes <= n;
    const auto load = [&](const T* row) HWY_ATTR { return whole ? hn::LoadU(d, row) : LoadTail(d, row, n - i, T{0}); };
    const auto t_at = [&](const T* row) HWY_ATTR { return load(row + block.offset + i); };
    const auto t = hn::Mul(scale, BackgroundAt<kKind>(d, b, t_at));
    const hn::Vec<D> z[] = {hn::Sub(load(block.x + i), max)};
    const hn::Vec<D> valid[] = {whole ? t : hn::IfThenElseZero(hn::FirstN(d, n - i), t)};
    part.Add(d, z, valid);
    if (terms % kTerms != 0 && i + lanes < n) continue;
    sums.background += SumOf(d, part.mass);
    sums.background_dot += SumOf(d, part.dot);
    part.Clear(d);
  }
}

// Meanwhile, the maximum of the next block is looked for, and what `meanwhile` writes is written. It may read `kept`:
// of each place, before anything new is kept there. REQUIRES: |block.max.max| <= kOffsetAbove.
template <BackgroundKind kKind, typename S, class Writer, class D, typename T = hn::TFromD<D>>
HWY_NOINLINE BlockSums SumBlock(D d, const RowBlock<T>& block, const Background<T>& b, T* kept,
                                MaxScan<D, S>& next_block, const Writer& meanwhile) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d), step = kUnroll * lanes;
  const V max = hn::Set(d, block.max.max);
  const auto origin = OriginOf(d, max);
  const double factor = FactorOf(d, block.max.max, origin);
  BlockAdder<kKind, D> adder(d, max);
  MaxScan<D, S> next = next_block;  // both in registers
  Writer writer = meanwhile;
  const auto background_at = [&](size_t i) HWY_ATTR {
    return BackgroundAt<kKind>(d, b, [&](const T* p) HWY_ATTR { return hn::LoadU(d, p + block.offset + i); });
  };
  const auto keep = [&](const ExpParts<V>& e, size_t i) HWY_ATTR {
    if (kept != nullptr) hn::Store(e.value, d, kept + i);
  };

  const T* const x = block.x;
  const size_t n = block.size, place = block.max.place;
  size_t i = 0, terms = 0;
  for (; i + step <= n; i += step) {
    if (HWY_UNLIKELY(terms == kTerms)) {
      adder.Flush();
      terms = 0;
    }
    ++terms;
    next.Step();
    writer.Step();
    V v[kUnroll], t[kUnroll];
    ExpParts<V> e[kUnroll];
    for (size_t k = 0; k < kUnroll; ++k) v[k] = hn::LoadU(d, x + i + k * lanes);
    for (size_t k = 0; k < kUnroll; ++k) t[k] = background_at(i + k * lanes);
    adder.AddBackground(v, t);
    for (size_t k = 0; k < kUnroll; ++k) e[k] = ScaledExpParts(d, v[k], origin);
    for (size_t k = 0; k < kUnroll; ++k) keep(e[k], i + k * lanes);
    if (HWY_UNLIKELY(place - i < step)) {
      for (size_t k = 0; k < kUnroll; ++k) e[k].power = WithoutLane(d, e[k].power, place - i - k * lanes);
    }
    for (size_t k = 0; k < kUnroll; ++k) adder.Add(k, e[k]);
  }
  writer.Finish();
  for (; i + lanes <= n; i += lanes) {
    const V v[] = {hn::LoadU(d, x + i)}, t[] = {background_at(i)};
    adder.AddBackground(v, t);
    ExpParts<V> e = ScaledExpParts(d, v[0], origin);
    keep(e, i);
    e.power = WithoutLane(d, e.power, place - i);
    adder.Add(0, e);
  }
  if (i < n) {
    const auto tail = [&](const T* p) HWY_ATTR { return LoadTail(d, p + block.offset + i, n - i, T{0}); };
    const auto valid = hn::FirstN(d, n - i);
    const V v[] = {LoadTail(d, x + i, n - i, block.max.max)};
    const V t[] = {hn::IfThenElseZero(valid, BackgroundAt<kKind>(d, b, tail))};
    adder.AddBackground(v, t);
    ExpParts<V> e = ScaledExpParts(d, v[0], origin);
    e.power = hn::IfThenElseZero(valid, e.power);
    e.value = hn::IfThenElseZero(valid, e.value);
    keep(e, i);
    e.power = WithoutLane(d, e.power, place - i);
    adder.Add(0, e);
  }
  next_block = next;

  BlockSums sums = adder.Finish();
  sums.others = WithoutDrift<T>(sums.others * factor, static_cast<int64_t>(n));
  sums.factor = factor;
  if constexpr (LeavesOutScale(kKind)) {
    const double scale = BackgroundScale(b);
    sums.background *= scale;
    sums.background_dot *= scale;
    const bool ordinary = std::isfinite(sums.background) && std::isfinite(sums.background_dot);
    if (HWY_UNLIKELY(!ordinary)) SumBackground<kKind>(d, block, b, sums);
    if constexpr (kKind == BackgroundKind::kUniform) sums.background = scale * static_cast<double>(n);
  }
  return sums;
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_BLOCK_INL_H_
