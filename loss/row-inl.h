// Bodies of row.h for one SIMD target.
//
// A row is read in blocks that fit the L1 cache: first the block's max, then its sums relative to that max, then the
// block is folded into the row in double. While a block is summed, the next one is fetched: the hardware's own prefetch
// stops where the first pass does. The largest term is left out of the sum, so that a confident row keeps the full
// precision of `others`.

#if defined(LOSSD_LOSS_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_ROW_INL_H_
#undef LOSSD_LOSS_ROW_INL_H_
#else
#define LOSSD_LOSS_ROW_INL_H_
#endif

#include <hwy/cache_control.h>
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

// How far ahead of the second pass over a block memory is fetched: far enough to hide its latency, near enough to stay
// in the L1 cache beside the block.
inline constexpr size_t kAheadBytes = 8192;
inline constexpr size_t kFetchOne = 4;  // of so many lines ahead, while a gradient is written
inline constexpr size_t kUnroll = 4;    // independent accumulators hide the latency of addition
inline constexpr size_t kTerms = 32;    // of one sum in the type computed in
inline constexpr size_t kCacheLine = 64;

template <typename T>
inline constexpr size_t kBlock = static_cast<size_t>(kRowBlock<T>);

template <class D, typename T = hn::TFromD<D>>
HWY_INLINE T LargestLane(D d, hn::Vec<D> v) {
#if HWY_TARGET == HWY_EMU128  // its MaxOfLanes() starts from the lowest finite number, and -inf is lower
  HWY_ALIGN T lane[hn::MaxLanes(d)];
  hn::Store(v, d, lane);
  return *std::max_element(lane, lane + hn::Lanes(d));
#else
  return hn::GetLane(hn::MaxOfLanes(d, v));
#endif
}

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
  // The block is x [size], left in `copy` as T where it is stored as something else.
  HWY_INLINE MaxScan(D d, const S* x, size_t size, T* copy)
      : d_(d), x_(x), copy_(copy), size_(size), max_(hn::Set(d, -std::numeric_limits<T>::infinity())) {}

  // A step, if there are so many elements left.
  // Max(v, m): where v is NaN, x86 keeps m. Wherever NaN ends up, the sums catch it.
  HWY_INLINE void Step() {
    const size_t lanes = hn::Lanes(d_);
    if (HWY_UNLIKELY(next_ + kUnroll * lanes > size_)) return;
    for (size_t byte = 0; byte < kUnroll * hn::MaxLanes(d_) * sizeof(S); byte += kCacheLine) {
      FetchToL2(reinterpret_cast<const char*>(x_ + next_) + kAheadBytes + byte);
    }
    const V lowest = hn::Set(d_, -std::numeric_limits<T>::infinity());
    const V a = hn::Max(Load(next_ + lanes), hn::Max(Load(next_), lowest));
    const V b = hn::Max(Load(next_ + 3 * lanes), hn::Max(Load(next_ + 2 * lanes), lowest));
    Keep(hn::Max(a, b));
  }

  // Does what is left.
  HWY_INLINE BlockMax<T> Finish() {
    const size_t lanes = hn::Lanes(d_);
    while (next_ + kUnroll * lanes <= size_) Step();
    const V lowest = hn::Set(d_, -std::numeric_limits<T>::infinity());
    V last = lowest;
    size_t i = next_;
    for (; i + lanes <= size_; i += lanes) last = hn::Max(Load(i), last);
    if (i < size_) {
      const V v = LoadTail(d_, x_ + i, size_ - i);
      if constexpr (!std::is_same_v<S, T>) StoreTail(v, d_, copy_ + i, size_ - i);
      last = hn::Max(hn::IfThenElse(hn::FirstN(d_, size_ - i), v, lowest), last);
    }
    if (next_ < size_) Keep(last);
    const T max = LargestLane(d_, max_);
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

  HWY_INLINE void Keep(V max) {
    hn::Store(max, d_, maxima_ + next_ / kUnroll);
    max_ = hn::Max(max, max_);
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
  size_t size_;
  size_t next_ = 0;
  V max_;
  HWY_ALIGN_MAX T maxima_[kBlock<T> / kUnroll];  // of each step, by lane
};

// Sums of one block relative to its own max.
struct BlockSums {
  double others = 0, background = 0, background_dot = 0;
  double factor = 0;  // FactorOf() the block
};

// One lane; none if there is no such lane.
template <class D>
HWY_INLINE hn::Mask<D> LaneMask(D d, size_t lane) {
  const hn::RebindToSigned<D> di;
  const auto wanted = hn::Set(di, static_cast<hn::TFromD<decltype(di)>>(lane));
  return hn::RebindMask(d, hn::Eq(hn::Iota(di, 0), wanted));
}

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

// A sum of `terms` of ScaledExp(), none of which is above exp(kZeroBelow), is at most this, and counts as 0.
template <typename T>
double DustOf(int64_t terms) {
  return sizeof(T) == 4 ? 0x1p-188 * static_cast<double>(terms) : 0;  // what double cannot hold is gone by itself
}
template <typename T>
double WithoutDust(double sum, int64_t terms) {
  return sum <= DustOf<T>(terms) ? 0 : sum;
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

  // In accumulator k: e = exp(x - m), and t_j.
  HWY_INLINE void Add(size_t k, V x, V e, V t) {
    others_[k] = hn::Add(others_[k], e);
    background_[k].Add(d_, hn::Sub(x, max_), t);
  }

  // To double, before a sum of T has too many terms.
  HWY_INLINE void Flush() {
    sums_.others += SumOf(d_, hn::Add(hn::Add(others_[0], others_[1]), hn::Add(others_[2], others_[3])));
    for (size_t k = 0; kKind != BackgroundKind::kNone && k < kUnroll; ++k) {
      sums_.background += SumOf(d_, background_[k].mass);
      sums_.background_dot += SumOf(d_, background_[k].dot);
    }
    Clear();
  }

  HWY_INLINE BlockSums Finish() {
    Flush();
    return sums_;
  }

 private:
  HWY_INLINE void Clear() {
    for (size_t k = 0; k < kUnroll; ++k) {
      others_[k] = hn::Zero(d_);
      background_[k].Clear(d_);
    }
  }

  D d_;
  V max_;
  V others_[kUnroll];
  BackgroundSums<kKind, D> background_[kUnroll];
  BlockSums sums_;
};

// Meanwhile, the maximum of the next block is looked for. REQUIRES: |block.max.max| <= kOffsetAbove.
template <BackgroundKind kKind, typename S, class D, typename T = hn::TFromD<D>>
HWY_NOINLINE BlockSums SumBlock(D d, const RowBlock<T>& block, const Background<T>& b, T* kept, MaxScan<D, S>& next) {
  using V = hn::Vec<D>;
  const size_t lanes = hn::Lanes(d), step = kUnroll * lanes;
  const V max = hn::Set(d, block.max.max);
  const auto origin = OriginOf(d, max);
  const double factor = FactorOf(d, block.max.max, origin);
  BlockAdder<kKind, D> adder(d, max);
  const auto background_at = [&](size_t i) HWY_ATTR {
    return BackgroundAt<kKind>(d, b, [&](const T* p) HWY_ATTR { return hn::LoadU(d, p + block.offset + i); });
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
    V v[kUnroll], e[kUnroll];
    for (size_t k = 0; k < kUnroll; ++k) v[k] = hn::LoadU(d, x + i + k * lanes);
    for (size_t k = 0; k < kUnroll; ++k) e[k] = ScaledExp(d, v[k], origin);
    for (size_t k = 0; kept != nullptr && k < kUnroll; ++k) hn::Store(e[k], d, kept + i + k * lanes);
    if (HWY_UNLIKELY(place - i < step)) {
      for (size_t k = 0; k < kUnroll; ++k) e[k] = WithoutLane(d, e[k], place - i - k * lanes);
    }
    for (size_t k = 0; k < kUnroll; ++k) adder.Add(k, v[k], e[k], background_at(i + k * lanes));
  }
  for (; i + lanes <= n; i += lanes) {
    const V v = hn::LoadU(d, x + i), e = ScaledExp(d, v, origin);
    if (kept != nullptr) hn::Store(e, d, kept + i);
    adder.Add(0, v, WithoutLane(d, e, place - i), background_at(i));
  }
  if (i < n) {
    const auto tail = [&](const T* p) HWY_ATTR { return LoadTail(d, p + block.offset + i, n - i, T{0}); };
    const V v = LoadTail(d, x + i, n - i, block.max.max);
    const auto valid = hn::FirstN(d, n - i);
    const V e = hn::IfThenElseZero(valid, ScaledExp(d, v, origin));
    if (kept != nullptr) hn::Store(e, d, kept + i);
    adder.Add(0, v, WithoutLane(d, e, place - i), hn::IfThenElseZero(valid, BackgroundAt<kKind>(d, b, tail)));
  }

  BlockSums sums = adder.Finish();
  sums.others *= factor;
  sums.factor = factor;
  if constexpr (kKind == BackgroundKind::kUniform) sums.background = b.beta * static_cast<double>(n);
  return sums;
}

// Folds a block, whose sums are relative to its own max, into the row.
// sum t (x - m) moves from one maximum to another by (old - new) sum t.
template <typename T>
void Fold(const BlockSums& block, const RowBlock<T>& place, RowSums& row) {
  constexpr double kLowest = -std::numeric_limits<double>::infinity();
  const double max = static_cast<double>(place.max.max);
  if (max > row.max) {
    // The former maximum becomes one of the others.
    if (row.max != kLowest) {
      row.others = (row.others + 1) * std::exp(row.max - max);
      row.background_dot += row.background * (row.max - max);
    }
    row.max = max;
    row.argmax = static_cast<int64_t>(place.offset + place.max.place);
    row.others += block.others;
  } else if (max == kLowest) {  // nothing but -inf or NaN: nothing to scale
    row.others += block.others;
  } else {
    row.others += (block.others + 1) * (max == row.max ? 1 : std::exp(max - row.max));
    if (max != row.max) row.background_dot += block.background * (max - row.max);
  }
  row.background += block.background;
  row.background_dot += block.background_dot;
}

// How a row is written.
struct Writing {
  std::span<const Point> points;  // these entries are their values
  bool stream = false;
  size_t first = 0;             // the place in the row of what is written first
  const char* ahead = nullptr;  // Gradient::ahead, for what is written first
};

// out_j = map(j), where map(load) makes a vector of what load(pointer) reads of each row.
template <bool kStream, class D, class Map, typename G>
HWY_INLINE void MapRowBy(D d, size_t size, const Map& map, const Writing& writing, G* out) {
  using T = hn::TFromD<D>;
  const size_t lanes = hn::Lanes(d);
  const Point* const end = writing.points.data() + writing.points.size();
  const auto before = [&](const Point& p) { return static_cast<size_t>(p.target) < writing.first; };
  const Point* point = std::partition_point(writing.points.data(), end, before);
  constexpr size_t kNowhere = ~size_t{0} / 2;
  const auto place = [&] { return point == end ? kNowhere : static_cast<size_t>(point->target) - writing.first; };
  size_t next = place();
  const auto with_points = [&](hn::Vec<D> v, size_t i, size_t n) HWY_ATTR {
    while (HWY_UNLIKELY(next - i < n)) {
      v = hn::IfThenElse(LaneMask(d, next - i), hn::Set(d, static_cast<T>(point->value)), v);
      ++point;
      next = place();
    }
    return v;
  };
  const char* const ahead = writing.ahead;
  const auto part = [&](size_t i, size_t n) HWY_ATTR {  // n < lanes
    const auto load = [&](const auto* row) HWY_ATTR { return LoadTail(d, row + i, n); };
    StoreTail(with_points(map(load), i, n), d, out + i, n);
  };

  size_t i = 0;
  if constexpr (kStream) {
    const size_t bytes = lanes * sizeof(G);
    // The line that two rows share is no stream; by the time it is written it should be there.
    if (reinterpret_cast<uintptr_t>(out + size) % bytes != 0) hwy::Prefetch(out + size);
    const size_t head = (bytes - reinterpret_cast<uintptr_t>(out) % bytes) % bytes / sizeof(G);
    i = std::min(head, size);
    if (i > 0) part(0, i);
  }
  for (; i + lanes <= size; i += lanes) {
    const auto v = with_points(map([&](const auto* row) HWY_ATTR { return LoadLanes(d, row + i); }), i, lanes);
    if constexpr (kStream) {
      if (ahead != nullptr && i % (kFetchOne * lanes) == 0) FetchToL2(ahead + i * sizeof(G));
      StreamLanes(v, d, out + i);
    } else {
      StoreLanes(v, d, out + i);
    }
  }
  if (i < size) part(i, size - i);
}

template <class D, class Map, typename G>
HWY_INLINE void MapRow(D d, size_t size, const Map& map, const Writing& writing, G* out) {
  if constexpr (hn::MaxLanes(d) * sizeof(G) >= 16) {
    if (writing.stream) return MapRowBy<true>(d, size, map, writing, out);
  }
  MapRowBy<false>(d, size, map, writing, out);
}

// Whether the vector code holds the coefficient, or needs none: rows of NaN and rows that count nowhere.
template <typename T>
bool FitsIn(double p_scale) {
  using C = ExpConstants<T>;
  const double p = std::fabs(p_scale);
  return p == 0 || std::isnan(p) || (p >= C::kLeastFactor && p <= C::kMostFactor);
}
template <typename T>
bool FitsIn(const Gradient<T>& gradient) {
  return FitsIn<T>(gradient.p_scale);
}

// For coefficients beyond: one value at a time, in double. Entry j of the row is x[j * stride].
template <typename S, typename T, typename G>
void ScatterInDouble(const S* x, int64_t stride, int64_t num_classes, const Gradient<T>& gradient, G* dx) {
  const Background<T>& b = gradient.background;
  const bool has_background = KindOf(b) != BackgroundKind::kNone;
  const Point* point = gradient.points.data();
  const Point* const end = point + gradient.points.size();
  for (int64_t j = 0; j < num_classes; ++j) {
    const double e = std::exp(ToDouble(LoadElement<S>(x, j * stride)) - gradient.max);
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
HWY_INLINE void MoveBlock(D d, const T* x, size_t n, T offset, T* y) {
  const auto shift = hn::Set(d, offset);
  MapRow(
      d, n, [&](const auto& load) HWY_ATTR { return hn::Sub(load(x), shift); }, {}, y);
}

// `copy` is room for a block; it may be the block.
template <BackgroundKind kKind, typename S, class D, typename T = hn::TFromD<D>>
HWY_INLINE void ReduceBlock(D d, const RowBlock<T>& block, const Background<T>& background, T* copy,
                            const KeptRow<T>& kept, MaxScan<D, S>& next, RowSums& row) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  if (block.max.max == kInfinity) {  // the loss will be NaN; what is left to say is whether the row has NaN
    return Fold({NanOf(block.x, block.size)}, block, row);
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
  const BlockSums sums = SumBlock<kKind, S>(d, summed, background, exps, next);
  if (exps != nullptr) kept.scales[block.offset / kBlock<T>] = {static_cast<double>(block.max.max), sums.factor};
  Fold(sums, block, row);
}

// Where in rows [count, num_classes] a block begins.
struct BlockPlace {
  size_t row, first;
};

template <BackgroundKind kKind, typename S>
HWY_INLINE void ReduceRowsOf(const RowRange<S>& rows, Background<ComputeType<S>> background, RowSums* sums) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  const size_t count = static_cast<size_t>(rows.count), size = static_cast<size_t>(rows.num_classes);
  HWY_ALIGN_MAX T copies[2][kBlock<T>];
  const auto live = [&](size_t row) {
    while (row < count && rows.skipped != nullptr && rows.skipped[row]) ++row;
    return row;
  };
  const auto scan = [&](BlockPlace at, T* copy) HWY_ATTR {
    return MaxScan<hn::ScalableTag<T>, S>(d, rows.x + at.row * size + at.first,
                                          at.row < count ? std::min(kBlock<T>, size - at.first) : 0, copy);
  };
  BlockPlace at{live(0), 0};
  size_t turn = 0;
  auto current = scan(at, copies[turn]);
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
    auto next = scan(after, copies[1 - turn]);
    ReduceBlock<kKind>(d, block, background, copies[turn], rows.Kept(at.row), next, row);
    if (after.row != at.row) row.others = WithoutDust<T>(row.others, rows.num_classes);
    max = next.Finish();
    x = next.values();
    at = after;
    turn = 1 - turn;
  }
}

template <typename S>
void ReduceRows(const RowRange<S>& rows, const Background<ComputeType<S>>& background, RowSums* sums) {
  WithKind(KindOf(background),
           [&](auto kind) HWY_ATTR { ReduceRowsOf<decltype(kind)::value>(rows, background, sums); });
}

// b, of the classes from `first` on.
template <typename T>
Background<T> From(const Background<T>& b, size_t first) {
  const auto from = [&](const T* row) { return row == nullptr ? row : row + first; };
  return {b.alpha, from(b.probabilities), b.beta, from(b.weights)};
}

// dx_j = p e_j - t_scale t_j for [first, first + size); exp_at(load) makes e_j.
template <class D, typename T, class ExpAt, typename G>
HWY_INLINE void WriteEntries(D d, size_t first, size_t size, double p, const ExpAt& exp_at, const Gradient<T>& gradient,
                             G* dx) {
  const Background<T> b = From(gradient.background, first);
  const auto scale = hn::Set(d, static_cast<T>(p)), s = hn::Set(d, static_cast<T>(gradient.t_scale));
  WithKind(KindOf(b), [&](auto kind) HWY_ATTR {
    const auto entry = [&](const auto& load) HWY_ATTR {
      return GradientEntry<decltype(kind)::value>(d, scale, exp_at(load), s, b, load);
    };
    const auto* const ahead = static_cast<const char*>(gradient.ahead);
    const Writing writing{gradient.points, gradient.stream, first,
                          ahead == nullptr ? ahead : ahead + first * sizeof(G)};
    MapRow(d, size, entry, writing, dx + first);
  });
}

template <typename S, typename G>
HWY_INLINE void ScatterFrom(const S* x, size_t first, size_t size, const Gradient<ComputeType<S>>& gradient, G* dx) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  const T max = static_cast<T>(gradient.max);
  const auto origin = OriginOf(d, hn::Set(d, max));
  const auto exp_at = [&](const auto& load)
                          HWY_ATTR { return ScaledExp(d, hn::Sub(load(x + first), origin.offset), origin); };
  WriteEntries(d, first, size, gradient.p_scale * FactorOf(d, max, origin), exp_at, gradient, dx);
}

// exp(a - b), where the rounding of the difference is made good: Knuth's TwoSum. b is finite, a is not larger.
inline double ExpOfDifference(double a, double b) {
  if (a == b) return 1;
  const double difference = a - b, moved = difference - a;
  const double lost = (a - (difference - moved)) - (b + moved);
  const double e = std::exp(difference);
  return e == 0 ? 0 : e + e * lost;
}

// From the exponentials that were kept, which are relative to the maximum of their block.
template <typename S, typename G>
HWY_INLINE void ScatterKept(const S* x, size_t num_classes, const Gradient<ComputeType<S>>& gradient, G* dx) {
  using T = ComputeType<S>;
  const hn::ScalableTag<T> d;
  for (size_t first = 0; first < num_classes; first += kBlock<T>) {
    const size_t size = std::min(kBlock<T>, num_classes - first);
    const BlockScale& scale = gradient.kept.scales[first / kBlock<T>];
    const double p = gradient.p_scale * ExpOfDifference(scale.max, gradient.max);
    if (!FitsIn<T>(p)) {
      ScatterFrom(x, first, size, gradient, dx);
      continue;
    }
    const T* const exps = gradient.kept.exps + first;
    const auto exp_at = [&](const auto& load) HWY_ATTR { return load(exps); };
    WriteEntries(d, first, size, p * scale.factor, exp_at, gradient, dx);
  }
}

template <typename S, typename G>
void ScatterRow(const S* x, int64_t num_classes, const Gradient<ComputeType<S>>& gradient, G* dx) {
  const size_t size = static_cast<size_t>(num_classes);
  if (gradient.p_scale == 0 && gradient.t_scale == 0) return std::fill_n(dx, size, G{}), void();
  if (std::isnan(gradient.p_scale)) return std::fill_n(dx, size, FromDouble<G>(gradient.p_scale)), void();
  if (!FitsIn(gradient)) return ScatterInDouble(x, 1, num_classes, gradient, dx);
  if (gradient.kept.exps != nullptr) return ScatterKept(x, size, gradient, dx);
  ScatterFrom(x, 0, size, gradient, dx);
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
