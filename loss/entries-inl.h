// Losses of entries in float: the short way of pointwise-inl.h's, for the entries that need no exceptions.

// Per-target include guard, as Highway's own -inl headers have.
#if defined(LOSSD_LOSS_ENTRIES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_ENTRIES_INL_H_
#undef LOSSD_LOSS_ENTRIES_INL_H_
#else
#define LOSSD_LOSS_ENTRIES_INL_H_
#endif

#include <hwy/highway.h>

#include <bit>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <type_traits>

#include "loss/element.h"
#include "loss/exp-inl.h"
#include "loss/lanes-inl.h"
#include "loss/log-inl.h"
#include "loss/pointwise.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if LOSSD_HAS_TABLES

using DF = hn::ScalableTag<float>;
using VF = hn::Vec<DF>;
using DU = hn::RebindToUnsigned<DF>;
using VU = hn::Vec<DU>;

// How far from ordinary an entry is: it is ordinary where each of these is at most its limit, and then its loss and
// slopes neither overflow nor lose digits. Bits of floats, so that one comparison tells signs and NaN too.
struct Oddness {
  VU logit, target;  // limits: the function's
  VU weight, upstream;
};

struct FloatResults {
  VF loss, logit, target;  // the loss, and its derivatives by logit and target
};

constexpr uint32_t BitsOf(float x) { return std::bit_cast<uint32_t>(x); }
HWY_INLINE VU BitsOf(DF, VF v) { return hn::BitCast(DU(), v); }
HWY_INLINE VU MagnitudeBits(DF d, VF v) { return BitsOf(d, hn::Abs(v)); }

HWY_INLINE hn::Mask<DU> AtMost(VU bits, uint32_t limit) {
  const VU limits = hn::Set(DU(), limit);
  return hn::Eq(hn::Max(bits, limits), limits);
}

// At most BitsOf(most) - BitsOf(least) where v is 0, or from least to most.
HWY_INLINE VU BitsAbove(DF d, VF v, float least) {
  const auto none = hn::RebindMask(DU(), hn::Eq(v, hn::Zero(d)));
  return hn::IfThenZeroElse(none, hn::Sub(BitsOf(d, v), hn::Set(DU(), BitsOf(least))));
}

inline constexpr uint32_t kWeightLimit = BitsOf(kMostWeight) - BitsOf(kLeastWeight);
inline constexpr uint32_t kUpstreamLimit = BitsOf(kMostUpstream) - BitsOf(kLeastUpstream);

// t (ln t - x), 0 at t = 0, where the slope of the target is -inf.
template <bool kTargetSlope>
struct FloatKl {
  static constexpr float kLeastTarget = 0x1p-60f, kMost = 0x1p40f;
  static constexpr uint32_t kLogitLimit = BitsOf(kMost), kTargetLimit = BitsOf(kMost) - BitsOf(kLeastTarget);
  static constexpr bool kWeights = false;

  HWY_INLINE VU OddnessOfTarget(DF d, VF t) const { return BitsAbove(d, t, kLeastTarget); }
  HWY_INLINE FloatResults operator()(DF d, VF x, VF t, VF) const {
    // In this order: if x is next to ln t, the first difference is exact, or what it lost is.
    const FloatLog<VF> log = LogOfFloat(d, t);
    const VF most = hn::Sub(log.high, x), rest = hn::Add(hn::Sub(hn::Sub(log.high, most), x), log.tail);
    const VF gap = hn::Add(hn::Add(most, log.f), rest);
    const auto none = hn::Eq(t, hn::Zero(d));
    VF target = hn::Zero(d);
    if constexpr (kTargetSlope) {
      target = hn::Add(hn::Add(hn::Add(most, hn::Set(d, 1.0f)), log.f), rest);
      target = hn::IfThenElse(none, hn::Set(d, -std::numeric_limits<float>::infinity()), target);
    }
    return {hn::IfThenZeroElse(none, hn::Mul(t, gap)), hn::Neg(t), target};
  }
};

// exp(t) (t - x).
struct FloatLogTargetKl {
  static constexpr uint32_t kLogitLimit = BitsOf(0x1p14f), kTargetLimit = BitsOf(64.0f);
  static constexpr bool kWeights = false;

  HWY_INLINE VU OddnessOfTarget(DF d, VF t) const { return MagnitudeBits(d, t); }
  HWY_INLINE FloatResults operator()(DF d, VF x, VF t, VF) const {
    const VF p = ExpInTwoParts(d, t).high, gap = hn::Sub(t, x);
    return {hn::Mul(p, gap), hn::Neg(p), hn::Mul(p, hn::Add(gap, hn::Set(d, 1.0f)))};
  }
};

// With e = exp(-|x|), s = e / (1 + e), the sigmoid of -|x|; a the mass of the class that |x| speaks against (1 - t', or
// w t' where x is negative) and m the sum of both masses, 1 without weights: the loss is a |x| + m ln(1 + e), of which
// no term is a difference, and its slope is m s - a against the sign of x. Where a is the target itself, s and 1 - t
// are known to more than a float: near its minimum the slope is the difference of nearly equal numbers.
template <bool kHasWeights, bool kSmooth>
struct FloatBinaryCrossEntropy {
  static constexpr uint32_t kLogitLimit = BitsOf(64.0f), kTargetLimit = BitsOf(1.0f);
  static constexpr bool kWeights = kHasWeights;

  float keep, half;  // of a target that is smoothed: t keep + half

  HWY_INLINE VU OddnessOfTarget(DF d, VF t) const { return BitsOf(d, t); }
  HWY_INLINE FloatResults operator()(DF d, VF x, VF t, VF w) const {
    const VF one = hn::Set(d, 1.0f), magnitude = hn::Abs(x);
    const TwoParts<VF> e = ExpInTwoParts(d, hn::Neg(magnitude));
    const VF reciprocal = hn::Div(one, hn::Add(e.high, one));
    const VF s = hn::Mul(e.high, reciprocal), log1p = Log1pToOne(d, e.high);
    VF yes = t, no = hn::Sub(one, t), loss, slope;
    if constexpr (kWeights || kSmooth) {
      VF mass = one;
      if constexpr (kSmooth) {
        const VF keeps = hn::Set(d, keep), halves = hn::Set(d, half);
        yes = hn::MulAdd(yes, keeps, halves);
        no = hn::MulAdd(no, keeps, halves);
      }
      if constexpr (kWeights) {
        yes = hn::Mul(yes, w);
        mass = hn::Add(yes, no);
      }
      const VF against = hn::IfNegativeThenElse(x, yes, no);
      loss = hn::MulAdd(against, magnitude, hn::Mul(mass, log1p));
      slope = hn::MulSub(mass, s, against);
    } else {
      const VF against = hn::IfNegativeThenElse(x, yes, no);
      const VF lost = hn::IfNegativeThenElse(x, hn::Zero(d), hn::Sub(hn::Sub(one, no), t));  // of 1 - t
      // What s lacks, times 1 + e: e - s (1 + e), whose first difference is exact.
      const VF lacking = hn::Add(hn::NegMulAdd(s, e.high, hn::Sub(e.high, s)), hn::NegMulAdd(s, e.low, e.low));
      loss = hn::MulAdd(against, magnitude, log1p);
      slope = hn::Add(hn::Sub(s, against), hn::MulSub(lacking, reciprocal, lost));
    }
    // The slope of the target is softplus(-x) - softplus(x), without weights.
    const VF zero = hn::Zero(d), logit = hn::IfNegativeThenElse(x, slope, hn::Sub(zero, slope)),
             target = hn::Sub(zero, x);
    return {loss, logit, kSmooth ? hn::Mul(target, hn::Set(d, keep)) : target};
  }
};

// Whole vectors of floats, added up in double: to 1e-12 it does not matter how a batch was cut.
HWY_INLINE double SumOf(const float* values, size_t n) {
  const hn::Repartition<double, DF> d;
  const hn::Rebind<float, decltype(d)> df;
  auto even = hn::Zero(d), odd = hn::Zero(d);
  for (size_t i = 0; i < n; i += 2 * hn::Lanes(d)) {
    even = hn::Add(even, hn::PromoteTo(d, hn::Load(df, values + i)));
    odd = hn::Add(odd, hn::PromoteTo(d, hn::Load(df, values + i + hn::Lanes(d))));
  }
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(even, odd)));
}

template <class Function>
HWY_INLINE hn::Mask<DU> IsOrdinary(const Oddness& odd) {
  return hn::And(hn::And(AtMost(odd.logit, Function::kLogitLimit), AtMost(odd.target, Function::kTargetLimit)),
                 hn::And(AtMost(odd.weight, kWeightLimit), AtMost(odd.upstream, kUpstreamLimit)));
}

// Asks for what comes two chunks after: chunks are short, and a processor on its own does not fetch so far ahead.
// Addresses past the end of a tensor do no harm. Not a lambda: GCC takes one that only fetches for one that does
// nothing.
HWY_INLINE void FetchAfter(const float* from) {
  FetchToL1(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from) + 2 * kChunkEntries * sizeof(float)));
}

// Evaluates the entries. kPlain: a whole chunk of them, taken for ordinary; returns whether it was. Otherwise each
// entry is looked at, and the answer is of no use.
template <bool kPlain, bool kFactors, bool kSlopes, class Function>
HWY_INLINE bool EvaluateFloatChunkAs(const FloatChunk& chunk, const Function& function) {
  const DF d;
  const DU du;
  const VF unit = hn::Set(d, chunk.unit_scale), scale = hn::Set(d, chunk.gradient_scale), one = hn::Set(d, 1.0f);
  const VU none = hn::Zero(du);
  Oddness largest{none, none, none, none};
  const size_t n = kPlain ? kChunkEntries : static_cast<size_t>(chunk.n);
  for (size_t i = 0; i < n; i += hn::Lanes(d)) {
    const auto load = [i](const float* from) HWY_ATTR { return hn::LoadU(DF(), from + i); };
    const auto store = [i](VF value, float* to) HWY_ATTR { hn::Store(value, DF(), to + i); };
    if constexpr (kPlain) {
      FetchAfter(chunk.logits + i);
      FetchAfter(chunk.targets + i);
    }
    const VF x = load(chunk.logits), t = load(chunk.targets);
    VF w = one, s = one, g = one;
    if constexpr (Function::kWeights) w = load(chunk.pos_weights);
    if constexpr (kFactors) {
      if (chunk.sample_weights != nullptr) s = load(chunk.sample_weights);
      if (kSlopes && chunk.upstream != nullptr) g = load(chunk.upstream);
    }
    Oddness odd{MagnitudeBits(d, x), function.OddnessOfTarget(d, t), none, none};
    if constexpr (Function::kWeights) odd.weight = BitsAbove(d, w, kLeastWeight);
    if constexpr (kFactors) {
      // Of an entry of weight 0 all results are 0, whatever it holds.
      const auto dead = hn::RebindMask(du, hn::Eq(s, hn::Zero(d)));
      odd.logit = hn::IfThenZeroElse(dead, odd.logit);
      odd.target = hn::IfThenZeroElse(dead, odd.target);
      odd.weight = hn::IfThenZeroElse(dead, hn::Max(BitsAbove(d, hn::Abs(s), kLeastWeight), odd.weight));
      odd.upstream = hn::IfThenZeroElse(dead, BitsAbove(d, hn::Abs(g), kLeastUpstream));
    }
    if constexpr (kPlain) {
      largest.logit = hn::Max(odd.logit, largest.logit);
      largest.target = hn::Max(odd.target, largest.target);
      if constexpr (kFactors || Function::kWeights) largest.weight = hn::Max(odd.weight, largest.weight);
      if constexpr (kFactors) largest.upstream = hn::Max(odd.upstream, largest.upstream);
    }
    const FloatResults results = function(d, x, t, w);
    VF loss_factor = unit, gradient_factor = scale;
    if constexpr (kFactors) {
      loss_factor = hn::Mul(s, unit);
      gradient_factor = chunk.upstream != nullptr ? hn::Mul(loss_factor, g) : hn::Mul(s, scale);
    }
    const auto finish = [&](VF value)
                            HWY_ATTR { return kFactors ? hn::IfThenZeroElse(hn::Eq(s, hn::Zero(d)), value) : value; };
    VF loss = finish(hn::Mul(loss_factor, results.loss));
    if constexpr (!kPlain) {
      const auto ordinary = IsOrdinary<Function>(odd);
      const auto live = hn::FirstN(du, n - i);
      hn::StoreMaskBits(du, hn::AndNot(ordinary, live), reinterpret_cast<uint8_t*>(chunk.extraordinary->words) + i / 8);
      loss = hn::IfThenElseZero(hn::RebindMask(d, hn::And(ordinary, live)), loss);
    }
    store(loss, chunk.losses);
    if constexpr (!kSlopes) continue;
    if (chunk.logits_gradient != nullptr) {
      store(finish(hn::Mul(gradient_factor, results.logit)), chunk.logits_gradient);
    }
    if (chunk.targets_gradient != nullptr) {
      // 0 times an infinite slope is 0.
      const auto nothing = hn::Eq(gradient_factor, hn::Zero(d));
      store(finish(hn::IfThenZeroElse(nothing, hn::Mul(gradient_factor, results.target))), chunk.targets_gradient);
    }
  }
  return hn::AllTrue(du, IsOrdinary<Function>(largest));
}

template <class Function>
HWY_INLINE double EvaluateFloatChunk(const FloatChunk& chunk, const Function& function) {
  const bool factors = chunk.sample_weights != nullptr || chunk.upstream != nullptr;
  const bool slopes = chunk.logits_gradient != nullptr || chunk.targets_gradient != nullptr;
  const auto evaluate = [&](auto plain) HWY_ATTR {
    return WithBool(factors, [&](auto has_factors) HWY_ATTR {
      return WithBool(slopes, [&](auto has_slopes) HWY_ATTR {
        return EvaluateFloatChunkAs<plain, has_factors, has_slopes>(chunk, function);
      });
    });
  };
  *chunk.extraordinary = {};
  if (chunk.n != kChunkEntries || !evaluate(std::true_type())) evaluate(std::false_type());
  return SumOf(chunk.losses, static_cast<size_t>(chunk.n));
}

#endif  // LOSSD_HAS_TABLES

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_ENTRIES_INL_H_
