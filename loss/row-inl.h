// Bodies of row.h for one SIMD target.
//
// A row is read in blocks that fit the L1 cache: first the block's max, then its sums relative to that max, then the
// block is folded into the row in double. Equal maxima are counted rather than summed, so that a confident row keeps
// the full precision of `others`.

#if defined(LOSSD_LOSS_ROW_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_ROW_INL_H_
#undef LOSSD_LOSS_ROW_INL_H_
#else
#define LOSSD_LOSS_ROW_INL_H_
#endif

#include <hwy/contrib/algo/find-inl.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "loss/exp-inl.h"
#include "loss/row.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr size_t kBlockBytes = 16384;
inline constexpr size_t kUnroll = 4;  // independent accumulators hide the latency of addition

enum class BackgroundKind { kNone, kUniform, kWeights, kProbabilities, kWeightedProbabilities };

template <typename T>
BackgroundKind KindOf(const Background<T>& b) {
  const bool probabilities = b.alpha != 0 && b.probabilities != nullptr;
  if (probabilities) {
    return b.weights != nullptr ? BackgroundKind::kWeightedProbabilities : BackgroundKind::kProbabilities;
  }
  if (b.beta == 0) return BackgroundKind::kNone;
  return b.weights != nullptr ? BackgroundKind::kWeights : BackgroundKind::kUniform;
}

// Calls function(std::integral_constant<BackgroundKind, kind>) for the kind found at run time.
template <class Function>
HWY_INLINE void WithKind(BackgroundKind kind, const Function& function) {
  switch (kind) {
    case BackgroundKind::kNone:
      return function(std::integral_constant<BackgroundKind, BackgroundKind::kNone>());
    case BackgroundKind::kUniform:
      return function(std::integral_constant<BackgroundKind, BackgroundKind::kUniform>());
    case BackgroundKind::kWeights:
      return function(std::integral_constant<BackgroundKind, BackgroundKind::kWeights>());
    case BackgroundKind::kProbabilities:
      return function(std::integral_constant<BackgroundKind, BackgroundKind::kProbabilities>());
    case BackgroundKind::kWeightedProbabilities:
      return function(std::integral_constant<BackgroundKind, BackgroundKind::kWeightedProbabilities>());
  }
}

// The first n < Lanes(d) elements at p, then `fill`.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadTail(D d, const T* p, size_t n, T fill) {
  HWY_ALIGN T buffer[hn::MaxLanes(d)];
  hn::Store(hn::Set(d, fill), d, buffer);
  std::memcpy(buffer, p, n * sizeof(T));
  return hn::Load(d, buffer);
}

template <class D, typename T = hn::TFromD<D>>
HWY_INLINE void StoreTail(hn::Vec<D> v, D d, T* p, size_t n) {
  HWY_ALIGN T buffer[hn::MaxLanes(d)];
  hn::Store(v, d, buffer);
  std::memcpy(p, buffer, n * sizeof(T));
}

// t_j for the Lanes(d) elements that `load` reads.
template <BackgroundKind kKind, class D, class Load, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> BackgroundAt(D d, const Background<T>& b, const Load& load) {
  const auto beta = hn::Set(d, static_cast<T>(b.beta));
  if constexpr (kKind == BackgroundKind::kNone) {
    return hn::Zero(d);
  } else if constexpr (kKind == BackgroundKind::kUniform) {
    return beta;
  } else if constexpr (kKind == BackgroundKind::kWeights) {
    return hn::Mul(load(b.weights), beta);
  } else {
    const auto q = hn::MulAdd(load(b.probabilities), hn::Set(d, static_cast<T>(b.alpha)), beta);
    if constexpr (kKind == BackgroundKind::kProbabilities) return q;
    return hn::Mul(load(b.weights), q);
  }
}

// Sums of one block relative to its own max.
struct BlockSums {
  double others = 0, background = 0, background_dot = 0;
  int64_t ties = 0;
};

template <class D>
struct Accumulator {
  hn::Vec<D> others, background, background_dot;
  size_t ties = 0;
};

template <class D, typename T = hn::TFromD<D>>
HWY_INLINE T MaxOf(D d, const T* x, size_t n) {
  const size_t lanes = hn::Lanes(d);
  // Max(v, accumulator): where v is NaN, x86 keeps the accumulator. Wherever NaN ends up, the sums catch it.
  auto m0 = hn::Set(d, -std::numeric_limits<T>::infinity());
  auto m1 = m0, m2 = m0, m3 = m0;
  size_t i = 0;
  for (; i + kUnroll * lanes <= n; i += kUnroll * lanes) {
    m0 = hn::Max(hn::LoadU(d, x + i), m0);
    m1 = hn::Max(hn::LoadU(d, x + i + lanes), m1);
    m2 = hn::Max(hn::LoadU(d, x + i + 2 * lanes), m2);
    m3 = hn::Max(hn::LoadU(d, x + i + 3 * lanes), m3);
  }
  for (; i + lanes <= n; i += lanes) m0 = hn::Max(hn::LoadU(d, x + i), m0);
  if (i < n) m0 = hn::Max(LoadTail(d, x + i, n - i, -std::numeric_limits<T>::infinity()), m0);
  // Not MaxOfLanes(): emulated, it starts from the lowest finite number, and -inf is lower.
  HWY_ALIGN T lane[hn::MaxLanes(d)];
  hn::Store(hn::Max(hn::Max(m0, m1), hn::Max(m2, m3)), d, lane);
  return *std::max_element(lane, lane + lanes);
}

// Adds the lanes of x in `valid` to the sums.
template <BackgroundKind kKind, class D, class V, class M>
HWY_INLINE void AddLanes(D d, V x, V t, V max, M valid, Accumulator<D>& sums) {
  const M tie = hn::And(hn::Eq(x, max), valid);
  sums.others = hn::Add(sums.others, hn::IfThenZeroElse(hn::Or(tie, hn::Not(valid)), ScaledExp(d, x, max)));
  sums.ties += hn::CountTrue(d, tie);
  if constexpr (kKind != BackgroundKind::kNone) {
    const M live = hn::And(valid, hn::Ne(t, hn::Zero(d)));  // 0 * ln 0 = 0
    sums.background = hn::Add(sums.background, hn::IfThenElseZero(valid, t));
    sums.background_dot = hn::Add(sums.background_dot, hn::IfThenElseZero(live, hn::Mul(t, hn::Sub(x, max))));
  }
}

template <BackgroundKind kKind, class D, typename T = hn::TFromD<D>>
HWY_NOINLINE BlockSums SumBlock(D d, const T* x, size_t offset, size_t n, const Background<T>& b, T block_max) {
  const size_t lanes = hn::Lanes(d);
  const auto max = hn::Set(d, block_max);
  const auto all = hn::FirstN(d, lanes);
  Accumulator<D> sums[kUnroll];
  for (auto& s : sums) s.others = s.background = s.background_dot = hn::Zero(d);

  size_t i = 0;
  const auto step = [&](size_t at, Accumulator<D>& into) HWY_ATTR {
    const auto load = [&](const T* p) HWY_ATTR { return hn::LoadU(d, p + offset + at); };
    AddLanes<kKind>(d, load(x), BackgroundAt<kKind>(d, b, load), max, all, into);
  };
  for (; i + kUnroll * lanes <= n; i += kUnroll * lanes) {
    step(i, sums[0]);
    step(i + lanes, sums[1]);
    step(i + 2 * lanes, sums[2]);
    step(i + 3 * lanes, sums[3]);
  }
  for (; i + lanes <= n; i += lanes) step(i, sums[0]);
  if (i < n) {
    const auto load = [&](const T* p) HWY_ATTR { return LoadTail(d, p + offset + i, n - i, T{0}); };
    AddLanes<kKind>(d, load(x), BackgroundAt<kKind>(d, b, load), max, hn::FirstN(d, n - i), sums[0]);
  }

  BlockSums block;
  for (const auto& s : sums) {
    block.others += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, s.others)));
    block.background += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, s.background)));
    block.background_dot += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, s.background_dot)));
    block.ties += static_cast<int64_t>(s.ties);
  }
  block.others = std::ldexp(block.others, -ExpConstants<T>::kScaleLog2);
  return block;
}

// Folds a block, whose sums are relative to block_max, into the row.
// sum t (x - m) moves from one maximum to another by (old - new) sum t.
inline void Fold(const BlockSums& block, double block_max, int64_t first, RowSums& row) {
  constexpr double kLowest = -std::numeric_limits<double>::infinity();
  if (block_max > row.max) {
    if (row.max != kLowest) row.background_dot += row.background * (row.max - block_max);
    row.others = (row.others + static_cast<double>(row.ties)) * std::exp(row.max - block_max);
    row.ties = 0;
    row.max = block_max;
    row.argmax = first;
  }
  const bool tie = block_max == row.max;
  if (tie || block_max == kLowest) {  // a block of nothing but -inf (or NaN) has no ties, and its sums need no scaling
    row.others += block.others;
    row.ties += block.ties;
  } else {
    row.others += (block.others + static_cast<double>(block.ties)) * std::exp(block_max - row.max);
    row.background_dot += block.background * (block_max - row.max);
  }
  row.background += block.background;
  row.background_dot += block.background_dot;
}

template <typename T>
RowSums ReduceRowAny(const T* x, int64_t num_classes, const Background<T>& background) {
  const hn::ScalableTag<T> d;
  constexpr size_t kBlock = kBlockBytes / sizeof(T);
  const size_t size = static_cast<size_t>(num_classes);
  RowSums row;
  row.max = -std::numeric_limits<double>::infinity();
  WithKind(KindOf(background), [&](auto kind) HWY_ATTR {
    for (size_t first = 0; first < size; first += kBlock) {
      const size_t n = std::min(kBlock, size - first);
      const T max = MaxOf(d, x + first, n);
      const T reference = max == -std::numeric_limits<T>::infinity() ? T{0} : max;
      const BlockSums block = SumBlock<decltype(kind)::value>(d, x, first, n, background, reference);
      Fold(block, max, static_cast<int64_t>(first), row);
    }
  });
  // argmax is the block that brought the maximum; now the place in it.
  const size_t first = static_cast<size_t>(row.argmax);
  const size_t n = std::min(kBlock, size - first);
  row.argmax += static_cast<int64_t>(hn::Find(d, static_cast<T>(row.max), x + first, n));
  return row;
}

// out_j = map(j), where map(load) makes a vector of what load(pointer) reads of each row.
template <class D, class Map, typename T = hn::TFromD<D>>
HWY_INLINE void MapRow(D d, size_t size, const Map& map, T* out) {
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    hn::StoreU(map([&](const T* row) HWY_ATTR { return hn::LoadU(d, row + i); }), d, out + i);
  }
  if (i == size) return;
  const auto tail = map([&](const T* row) HWY_ATTR { return LoadTail(d, row + i, size - i, T{0}); });
  StoreTail(tail, d, out + i, size - i);
}

// For coefficients beyond what T holds: one value at a time, in double.
template <typename T>
void ScatterRowInDouble(const T* x, size_t size, double max, double p_scale, double t_scale, const Background<T>& b,
                        T* dx) {
  const bool has_background = KindOf(b) != BackgroundKind::kNone;
  for (size_t j = 0; j < size; ++j) {
    const double e = std::exp(static_cast<double>(x[j]) - max);
    const double q = b.alpha != 0 && b.probabilities != nullptr ? b.alpha * static_cast<double>(b.probabilities[j]) : 0;
    const double w = b.weights != nullptr ? static_cast<double>(b.weights[j]) : 1;
    const double t = has_background ? w * (q + b.beta) : 0;
    const bool nothing = e == 0 && !std::isnan(p_scale);  // also of an infinite factor
    dx[j] = static_cast<T>((nothing ? 0 : p_scale * e) - (t == 0 ? 0 : t_scale * t));
  }
}

template <typename T>
void ScatterRowAny(const T* x, int64_t num_classes, double max, double p_scale, double t_scale,
                   const Background<T>& background, T* dx) {
  using C = ExpConstants<T>;
  const size_t size = static_cast<size_t>(num_classes);
  const double magnitude = std::fabs(p_scale);
  if (p_scale != 0 && !(magnitude >= C::kLeastFactor && magnitude <= C::kMostFactor)) {
    return ScatterRowInDouble(x, size, max, p_scale, t_scale, background, dx);
  }
  const hn::ScalableTag<T> d;
  const auto m = hn::Set(d, static_cast<T>(max));
  const auto p = hn::Set(d, static_cast<T>(std::ldexp(p_scale, -C::kScaleLog2)));
  const auto s = hn::Set(d, static_cast<T>(t_scale));
  WithKind(KindOf(background), [&](auto kind) HWY_ATTR {
    constexpr BackgroundKind kKind = decltype(kind)::value;
    const auto gradient = [&](const auto& load) HWY_ATTR {
      const auto e = hn::Mul(p, ScaledExp(d, load(x), m));
      if constexpr (kKind == BackgroundKind::kNone) return e;
      return hn::NegMulAdd(s, BackgroundAt<kKind>(d, background, load), e);
    };
    MapRow(d, size, gradient, dx);
  });
}

template <typename T>
void LogSoftmaxRowAny(const T* x, int64_t num_classes, double max, double log_denominator, T* y) {
  const hn::ScalableTag<T> d;
  const auto m = hn::Set(d, static_cast<T>(max));
  const auto log_d = hn::Set(d, static_cast<T>(log_denominator));
  const auto log_p = [&](const auto& load) HWY_ATTR { return hn::Sub(hn::Sub(load(x), m), log_d); };
  MapRow(d, static_cast<size_t>(num_classes), log_p, y);
}

template <typename T>
double EntropySumAny(const T* x, int64_t num_classes, double max) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  const size_t size = static_cast<size_t>(num_classes);
  constexpr size_t kBlock = 256;  // terms of one sum in T
  const auto m = hn::Set(d, static_cast<T>(max));
  const auto term = [&](const auto v) HWY_ATTR {
    const auto e = ScaledExp(d, v, m);
    return hn::IfThenElseZero(hn::Ne(e, hn::Zero(d)), hn::Mul(e, hn::Sub(m, v)));
  };
  double total = 0;
  for (size_t first = 0; first < size; first += kBlock) {
    const size_t end = std::min(size, first + kBlock);
    auto sum = hn::Zero(d);
    size_t i = first;
    for (; i + lanes <= end; i += lanes) sum = hn::Add(sum, term(hn::LoadU(d, x + i)));
    if (i < end) sum = hn::Add(sum, term(LoadTail(d, x + i, end - i, -std::numeric_limits<T>::infinity())));
    total += static_cast<double>(hn::GetLane(hn::SumOfLanes(d, sum)));
  }
  return std::ldexp(total, -ExpConstants<T>::kScaleLog2);
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_ROW_INL_H_
