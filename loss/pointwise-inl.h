// Bodies of pointwise.h for one SIMD target.

#if defined(LOSSD_LOSS_POINTWISE_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_POINTWISE_INL_H_
#undef LOSSD_LOSS_POINTWISE_INL_H_
#else
#define LOSSD_LOSS_POINTWISE_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <type_traits>

#include "loss/exp-inl.h"
#include "loss/lanes-inl.h"
#include "loss/log-inl.h"
#include "loss/pointwise.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using DD = hn::ScalableTag<double>;
using VD = hn::Vec<DD>;
using MD = hn::Mask<DD>;

// ---- doubles from and to other types ----

// `load` makes a vector of the storage's type, or of float.
template <typename S, class Load>
HWY_INLINE VD WidenLanes(DD d, const Load& load) {
  if constexpr (std::is_same_v<S, double>) {
    return load(d);
  } else {
    return hn::PromoteTo(d, load(hn::Rebind<float, DD>()));
  }
}

template <typename S>
HWY_INLINE VD LoadDoubles(DD d, const S* from) {
  return WidenLanes<S>(d, [&](auto ds) HWY_ATTR { return LoadLanes(ds, from); });
}
template <typename S>
HWY_INLINE VD LoadDoublesTail(DD d, const S* from, size_t n) {  // the first of them past the end
  return WidenLanes<S>(d, [&](auto ds) HWY_ATTR { return LoadTail(ds, from, n, LoadElement<S>(from, 0)); });
}

// The 16-bit types: digits of a number, and 1.5 * 2^52 times the last place of the least.
template <typename S>
struct Narrow16;
template <>
struct Narrow16<Float16> {
  static constexpr uint64_t kDigits = 11;
  static constexpr double kLeastShift = 1.5 * 0x1p28;
};
template <>
struct Narrow16<Bfloat16> {
  static constexpr uint64_t kDigits = 8;
  static constexpr double kLeastShift = 1.5 * 0x1p-81;
};

// v rounded to what S can hold, ties to even, so that no rounding is left to do; overflow apart. Adding 1.5 * 2^52
// times the last place that is to stay moves it to the end of the double.
template <typename S>
HWY_INLINE VD RoundFor(DD d, VD v) {
  const hn::RebindToUnsigned<DD> du;
  const VD magnitude = hn::Min(hn::Abs(v), hn::Set(d, 0x1p200));  // NaN: whatever is added, it stays
  const auto exponent = hn::And(hn::BitCast(du, magnitude), hn::Set(du, 0x7ff0000000000000u));
  const auto moved = hn::Add(exponent, hn::Set(du, ((53 - Narrow16<S>::kDigits) << 52) | 0x0008000000000000u));
  const VD shift = hn::Max(hn::BitCast(d, moved), hn::Set(d, Narrow16<S>::kLeastShift));
  return hn::CopySign(hn::Sub(hn::Add(v, shift), shift), v);
}

// The nearest floats; too large becomes infinity.
HWY_INLINE hn::Vec<hn::Rebind<float, DD>> NearestFloats(DD d, VD v) {
  const hn::Rebind<float, DD> df;
#if HWY_TARGET == HWY_SCALAR  // whose DemoteTo() stops at the largest finite number
  HWY_ALIGN double from[hn::MaxLanes(d)];
  HWY_ALIGN float to[hn::MaxLanes(d)];
  hn::Store(v, d, from);
  for (size_t i = 0; i < hn::Lanes(d); ++i) to[i] = static_cast<float>(from[i]);
  return hn::Load(df, to);
#else
  return hn::DemoteTo(df, v);
#endif
}

// Stores the nearest values; `store` takes a vector of the storage's type, or of float.
template <typename S, class Store>
HWY_INLINE void NarrowLanesTo(DD d, VD v, const Store& store) {
  const hn::Rebind<float, DD> df;
  if constexpr (std::is_same_v<S, double>) {
    store(d, v);
  } else if constexpr (sizeof(S) == 2) {
    store(df, NearestFloats(d, RoundFor<S>(d, v)));
  } else {
    store(df, NearestFloats(d, v));
  }
}

// The next chunk, while this one is evaluated. Addresses past the end of a tensor do no harm.
HWY_INLINE void PrefetchAfter(const void* data, size_t bytes) {
  const auto end = reinterpret_cast<uintptr_t>(data) + bytes;
  for (size_t i = 0; i < bytes; i += 64) hwy::Prefetch(reinterpret_cast<const char*>(end + i));
}

// To double, or to float.
template <typename S, typename T>
HWY_INLINE void WidenFrom(const S* from, size_t n, T* out) {
  const hn::ScalableTag<T> d;
  const size_t lanes = hn::Lanes(d);
  PrefetchAfter(from, n * sizeof(S));
  size_t i = 0;
  if constexpr (std::is_same_v<T, double>) {
    for (; i + lanes <= n; i += lanes) hn::Store(LoadDoubles(d, from + i), d, out + i);
    if (i < n) hn::Store(LoadDoublesTail(d, from + i, n - i), d, out + i);
  } else {
    for (; i + lanes <= n; i += lanes) hn::Store(LoadLanes(d, from + i), d, out + i);
    if (i < n) hn::Store(LoadTail(d, from + i, n - i), d, out + i);
  }
}

template <typename S>
HWY_INLINE void NarrowTo(const double* in, size_t n, S* to) {
  const DD d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) {
    NarrowLanesTo<S>(d, hn::Load(d, in + i), [&](auto ds, auto v) HWY_ATTR { StoreLanes(v, ds, to + i); });
  }
  if (i == n) return;
  NarrowLanesTo<S>(d, hn::Load(d, in + i), [&](auto ds, auto v) HWY_ATTR { StoreTail(v, ds, to + i, n - i); });
}
template <typename S>
HWY_INLINE void NarrowTo(const float* in, size_t n, S* to) {
  const hn::ScalableTag<float> d;
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= n; i += lanes) StoreLanes(hn::Load(d, in + i), d, to + i);
  if (i < n) StoreTail(hn::Load(d, in + i), d, to + i, n - i);
}

// Writes bytes past the caches: vectors that load(position) makes, where they are aligned; the ends by
// copy(position, bytes).
template <class Load, class Copy>
HWY_INLINE void StreamBytes(char* to, size_t bytes, const Load& load, const Copy& copy) {
  const hn::ScalableTag<uint64_t> d;
  const size_t step = hn::Lanes(d) * sizeof(uint64_t);
  size_t i = std::min((step - reinterpret_cast<uintptr_t>(to) % step) % step, bytes);
  copy(0, i);
  for (; i + step <= bytes; i += step) hn::Stream(load(d, i), d, reinterpret_cast<uint64_t*>(to + i));
  copy(i, bytes - i);
}

HWY_INLINE void StreamCopy(const char* from, size_t bytes, char* to) {
  StreamBytes(
      to, bytes, [&](auto d, size_t i) HWY_ATTR { return hn::LoadU(d, reinterpret_cast<const uint64_t*>(from + i)); },
      [&](size_t i, size_t n) { std::memcpy(to + i, from + i, n); });
}

// ---- the largest of many ----

// Calls visit(i, vector) for a row, the last vector filled up, until it returns false.
template <typename S, class Visit>
HWY_INLINE void ForEachVector(DD d, const S* row, size_t size, const Visit& visit) {
  const size_t lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    if (!visit(i, LoadDoubles(d, row + i))) return;
  }
  if (i < size) visit(i, LoadDoublesTail(d, row + i, size - i));
}

template <typename S>
HWY_INLINE int64_t ArgMaxOf(const S* row, size_t size) {
  const DD d;
  VD max = hn::Set(d, -std::numeric_limits<double>::infinity());
  VD trace = hn::Zero(d);  // NaN where the row has it
  ForEachVector(d, row, size, [&](size_t, VD v) HWY_ATTR {
    max = hn::Max(v, max);
    trace = hn::IfThenElse(hn::IsNaN(v), v, trace);
    return true;
  });
  if (!hn::AllTrue(d, hn::Eq(trace, hn::Zero(d)))) return -1;
  HWY_ALIGN double lanes[hn::MaxLanes(d)];
  hn::Store(max, d, lanes);
  const VD largest = hn::Set(d, *std::max_element(lanes, lanes + hn::Lanes(d)));
  int64_t place = 0;
  ForEachVector(d, row, size, [&](size_t i, VD v) HWY_ATTR {
    const intptr_t lane = hn::FindFirstTrue(d, hn::Eq(v, largest));
    place = static_cast<int64_t>(i) + lane;
    return lane < 0;
  });
  return place;
}

// One row in each lane. A NaN counts as +inf of class -1: nothing is larger.
template <typename S>
HWY_INLINE void ArgMaxOfColumns(const S* from, int64_t num_classes, int64_t stride, size_t count, int64_t* classes) {
  const DD d;
  const VD infinity = hn::Set(d, std::numeric_limits<double>::infinity());
  ChunkBuffer max, place;
  std::fill_n(max.values, kChunkEntries, -std::numeric_limits<double>::infinity());
  std::fill_n(place.values, kChunkEntries, 0.0);
  for (int64_t c = 0; c < num_classes; ++c) {
    const S* const row = from + c * stride;
    ForEachVector(d, row, count, [&](size_t i, VD v) HWY_ATTR {
      const VD old = hn::Load(d, max.values + i);
      const MD nan = hn::IsNaN(v), better = hn::Gt(v, old);
      const VD at = hn::IfThenElse(better, hn::Set(d, static_cast<double>(c)), hn::Load(d, place.values + i));
      hn::Store(hn::IfThenElse(nan, hn::Set(d, -1.0), at), d, place.values + i);
      hn::Store(hn::IfThenElse(nan, infinity, hn::IfThenElse(better, v, old)), d, max.values + i);
      return true;
    });
  }
  for (size_t i = 0; i < count; ++i) classes[i] = static_cast<int64_t>(place.values[i]);
}

// ---- one loss of an entry each ----

struct Entry {
  VD x, t, weight;
  VD exponential;  // exp(Function::Exponent(x, t)), where the function has one
};

// What one entry contributes: its loss, and its derivatives by logit and target.
struct Slopes {
  VD loss, logit, target;
};

// Entries are evaluated twice where need be: first as if all of a chunk were ordinary numbers, whose formulas need no
// exceptions (kPlain), and if they were not, again with all care. Ordinary numbers have the same bits both ways. This
// tells, of one chunk:
struct Census {
  VD largest;  // of what must stay below Function::kLimit; NaN may be lost
  VD trace;    // 0, or NaN if an infinity or a NaN was found
};

// mass * cost, where nothing of what is impossible costs nothing: 0 * inf = 0. cost is not NaN, or mass is 0.
HWY_INLINE VD MassTimesCost(DD d, VD mass, VD cost) {
  return hn::IfThenZeroElse(hn::Eq(mass, hn::Zero(d)), hn::Mul(mass, cost));
}

// factor * value; 0 where that is 0 * inf. kPlain: it is nowhere.
template <bool kPlain>
HWY_INLINE VD FactorTimes(DD d, VD factor, VD value) {
  if constexpr (kPlain) return hn::Mul(factor, value);
  const MD infinite = hn::Eq(hn::Abs(value), hn::Set(d, std::numeric_limits<double>::infinity()));
  return hn::IfThenZeroElse(hn::And(hn::Eq(factor, hn::Zero(d)), infinite), hn::Mul(factor, value));
}

// t (ln t - x), 0 at t = 0. Ordinary: t = 0, or positive and normal.
struct KlFunction {
  static constexpr bool kHasExponential = false;
  static constexpr double kLimit =
      std::numeric_limits<double>::denorm_min() - std::numeric_limits<double>::min();  // of -t

  template <bool kPlain>
  HWY_INLINE Slopes Evaluate(DD d, const Entry& entry, Census& census) const {
    const VD x = entry.x, t = entry.t;
    VD log;
    if constexpr (kPlain) {
      const MD none = hn::Eq(t, hn::Zero(d));
      census.largest = hn::Max(hn::IfThenElse(none, hn::Set(d, -1.0), hn::Neg(t)), census.largest);
      census.trace = hn::MulAdd(hn::Add(x, t), hn::Zero(d), census.trace);
      log = hn::IfThenElse(none, hn::Set(d, -std::numeric_limits<double>::infinity()), LogOfNormal(d, t));
    } else {
      log = Log(d, t);
    }
    const VD gap = hn::Sub(log, x);
    return {MassTimesCost(d, t, gap), hn::Neg(t), hn::Add(gap, hn::Set(d, 1.0))};
  }
};

// exp(t) (t - x), 0 at t = -inf. Ordinary: |t| < 700.
struct LogTargetKlFunction {
  static constexpr bool kHasExponential = true;
  static constexpr double kLimit = 700;

  HWY_INLINE VD Exponent(VD, VD t) const { return t; }

  template <bool kPlain>
  HWY_INLINE Slopes Evaluate(DD d, const Entry& entry, Census& census) const {
    const VD p = entry.exponential;
    const VD gap = hn::Sub(entry.t, entry.x), next = hn::Add(gap, hn::Set(d, 1.0));
    if constexpr (kPlain) {
      census.trace = hn::MulAdd(gap, hn::Zero(d), census.trace);
      return {hn::Mul(p, gap), hn::Neg(p), hn::Mul(p, next)};
    } else {
      return {MassTimesCost(d, p, gap), hn::Neg(p), MassTimesCost(d, p, next)};
    }
  }
};

// w t' softplus(-x) + (1 - t') softplus(x), t' = t (1 - e) + e/2: no term is a difference, so neither end loses
// precision. softplus(x) = max(x, 0) + ln(1 + exp(-|x|)). Ordinary: |x| < 700, w t' finite.
struct BinaryCrossEntropyFunction {
  static constexpr bool kHasExponential = true;
  static constexpr double kLimit = 700;
  double smoothing;

  HWY_INLINE VD Exponent(VD x, VD) const { return hn::Neg(hn::Abs(x)); }

  template <bool kPlain>
  HWY_INLINE Slopes Evaluate(DD d, const Entry& entry, Census& census) const {
    const VD x = entry.x, t = entry.t;
    const VD zero = hn::Zero(d), one = hn::Set(d, 1.0);
    const VD keep = hn::Set(d, 1 - smoothing), half = hn::Set(d, smoothing / 2);
    const VD yes = hn::Mul(entry.weight, hn::MulAdd(t, keep, half)), no = hn::MulAdd(hn::Sub(one, t), keep, half);
    if constexpr (kPlain) census.trace = hn::MulAdd(hn::Add(x, yes), zero, census.trace);
    const auto times = [&](VD mass, VD cost)
                           HWY_ATTR { return kPlain ? hn::Mul(mass, cost) : MassTimesCost(d, mass, cost); };
    const Logistic<VD> logistic = LogisticOf(d, entry.exponential);
    const VD larger = logistic.reciprocal, smaller = hn::Mul(entry.exponential, larger);  // sigmoids of |x| and -|x|
    const MD positive = hn::Ge(x, zero);
    const VD p = hn::IfThenElse(positive, larger, smaller), q = hn::IfThenElse(positive, smaller, larger);
    const VD cost_of_yes = hn::Add(hn::Max(hn::Neg(x), zero), logistic.log1p);
    const VD cost_of_no = hn::Add(hn::Max(x, zero), logistic.log1p);
    // w softplus(-x) - softplus(x), and the same as (w - 1) softplus(-x) - x: which is -x where w is 1.
    const VD lowered = hn::Sub(times(entry.weight, cost_of_yes), cost_of_no),
             raised = hn::Sub(times(hn::Sub(entry.weight, one), cost_of_yes), x);
    return {hn::Add(times(yes, cost_of_yes), times(no, cost_of_no)), hn::NegMulAdd(yes, q, hn::Mul(no, p)),
            FactorTimes<kPlain>(d, keep, hn::IfThenElse(hn::Ge(entry.weight, one), raised, lowered))};
  }
};

// ---- and what is the same for all ----

// What an entry's loss and slopes are multiplied by.
struct Factors {
  MD live;
  VD loss, gradient;
};

template <bool kPlain>
HWY_INLINE Factors FactorsAt(DD d, const EntryChunk& chunk, size_t i) {
  Factors factors{hn::FirstN(d, static_cast<size_t>(chunk.n) - i), hn::Set(d, chunk.unit_scale),
                  hn::Set(d, chunk.gradient_scale)};
  if constexpr (kPlain) return factors;
  if (chunk.sample_weights != nullptr) {
    const VD s = hn::Load(d, chunk.sample_weights->values + i);
    factors.live = hn::AndNot(hn::Eq(s, hn::Zero(d)), factors.live);
    factors.loss = hn::Mul(s, factors.loss);
    factors.gradient = hn::Mul(s, factors.gradient);
  }
  if (chunk.upstream != nullptr) {
    factors.gradient = hn::Mul(factors.loss, hn::Load(d, chunk.upstream->values + i));
  }
  return factors;
}

// ScaledExp() counted from K ln 2 is exp(x) * 2^(kScaleLog2 - K).
static_assert(ExpConstants<double>::kScaleLog2 == 512);
inline constexpr double kLn2Times512 = 354.89135644669199;

// exp(x) for |x| < 700: K is 512.
HWY_INLINE VD ExpOfOrdinary(DD d, VD x) { return ScaledExp(d, x, OriginOf(d, hn::Set(d, kLn2Times512))); }

// exp(x) for any x: K is 1024 above 0, and 0 below, so that the power of two is in range.
HWY_INLINE VD ExpOfAny(DD d, VD x) {
  const MD positive = hn::Gt(x, hn::Zero(d));
  const auto origin = OriginOf(d, hn::IfThenElseZero(positive, hn::Set(d, 2 * kLn2Times512)));
  const VD scaled = ScaledExp(d, hn::Min(x, hn::Set(d, 1050.0)), origin);
  return hn::Mul(scaled, hn::IfThenElse(positive, hn::Set(d, 0x1p512), hn::Set(d, 0x1p-512)));
}

// The exponentials of a chunk, in a loop of their own: one long chain of operations an entry leaves the processor half
// idle (binary cross-entropy takes 1.4 times as long in one loop).
template <bool kPlain, class Function>
HWY_INLINE void FillExponentials(DD d, const EntryChunk& chunk, const Function& function, Census& census,
                                 ChunkBuffer& exponentials) {
  for (size_t i = 0; i < static_cast<size_t>(chunk.n); i += hn::Lanes(d)) {
    const VD x = hn::Load(d, chunk.logits->values + i), t = hn::Load(d, chunk.targets->values + i);
    const VD exponent = function.Exponent(x, t);
    if constexpr (kPlain) census.largest = hn::Max(hn::Abs(exponent), census.largest);
    hn::Store(kPlain ? ExpOfOrdinary(d, exponent) : ExpOfAny(d, exponent), d, exponentials.values + i);
  }
}

struct ChunkOutcome {
  ChunkSums sums;
  bool valid;
};

template <bool kPlain, class Function>
HWY_INLINE ChunkOutcome EvaluateChunkAs(const EntryChunk& chunk, const Function& function) {
  const DD d;
  const VD limit = hn::Set(d, chunk.finite_below), one = hn::Set(d, 1.0);
  VD loss_sum = hn::Zero(d), nonfinite = hn::Zero(d), largest_loss = hn::Zero(d);
  Census census{hn::Set(d, -std::numeric_limits<double>::infinity()), hn::Zero(d)};
  ChunkBuffer exponentials;
  if constexpr (Function::kHasExponential) FillExponentials<kPlain>(d, chunk, function, census, exponentials);
  for (size_t i = 0; i < static_cast<size_t>(chunk.n); i += hn::Lanes(d)) {
    const auto load = [&](const ChunkBuffer* buffer) HWY_ATTR { return hn::Load(d, buffer->values + i); };
    Entry entry{load(chunk.logits), load(chunk.targets), one, one};
    if (chunk.pos_weights != nullptr) entry.weight = load(chunk.pos_weights);
    if constexpr (Function::kHasExponential) entry.exponential = load(&exponentials);
    const Slopes slopes = function.template Evaluate<kPlain>(d, entry, census);
    const Factors factors = FactorsAt<kPlain>(d, chunk, i);
    // A NaN makes its own entry NaN, also where it would be multiplied by 0.
    const MD bad = hn::Or(hn::IsNaN(entry.x), hn::IsNaN(entry.t));
    const auto finish = [&](VD value) HWY_ATTR {
      if constexpr (kPlain) return value;
      const VD nan = hn::Set(d, std::numeric_limits<double>::quiet_NaN());
      return hn::IfThenElseZero(factors.live, hn::IfThenElse(bad, nan, value));
    };
    const auto store = [&](VD value, ChunkBuffer* buffer) HWY_ATTR { hn::Store(value, d, buffer->values + i); };
    const VD loss = finish(hn::Mul(factors.loss, slopes.loss)), magnitude = hn::Abs(loss);
    loss_sum = hn::Add(loss_sum, loss);
    largest_loss = hn::Max(magnitude, largest_loss);
    if constexpr (!kPlain) nonfinite = hn::Add(nonfinite, hn::IfThenZeroElse(hn::Lt(magnitude, limit), one));
    if (chunk.losses != nullptr) store(loss, chunk.losses);
    const auto gradient = [&](VD slope) HWY_ATTR { return finish(FactorTimes<kPlain>(d, factors.gradient, slope)); };
    if (chunk.logits_gradient != nullptr) store(gradient(slopes.logit), chunk.logits_gradient);
    if (chunk.targets_gradient != nullptr) store(gradient(slopes.target), chunk.targets_gradient);
  }
  const ChunkSums sums{hn::GetLane(hn::SumOfLanes(d, loss_sum)),
                       static_cast<int64_t>(hn::GetLane(hn::SumOfLanes(d, nonfinite)))};
  const MD small = hn::And(hn::Lt(census.largest, hn::Set(d, Function::kLimit)), hn::Lt(largest_loss, limit));
  const bool ordinary = hn::AllTrue(d, hn::And(small, hn::Eq(census.trace, hn::Zero(d))));
  return {sums, ordinary && std::isfinite(sums.loss_sum)};
}

template <class Function>
HWY_INLINE ChunkSums EvaluateChunk(const EntryChunk& chunk, const Function& function) {
  const bool whole = static_cast<size_t>(chunk.n) % hn::Lanes(DD()) == 0;
  if (whole && chunk.sample_weights == nullptr && chunk.upstream == nullptr && std::isnormal(chunk.gradient_scale)) {
    const ChunkOutcome outcome = EvaluateChunkAs<true>(chunk, function);
    if (outcome.valid) return outcome.sums;
  }
  return EvaluateChunkAs<false>(chunk, function).sums;
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_POINTWISE_INL_H_
