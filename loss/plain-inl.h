// The decide step of plain rows (plain.h) for one SIMD target.

#if defined(LOSSD_LOSS_PLAIN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_PLAIN_INL_H_
#undef LOSSD_LOSS_PLAIN_INL_H_
#else
#define LOSSD_LOSS_PLAIN_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <limits>

#include "loss/exp-inl.h"
#include "loss/log-inl.h"
#include "loss/plain.h"
#include "loss/power.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// So many vectors of doubles are decided together: each step is a chain of operations that wait for each other, and
// several vectors fill each other's gaps.
inline constexpr size_t kDecided = 4;
static_assert(kPlainStep % (kDecided * hn::MaxLanes(hn::ScalableTag<double>())) == 0 &&
              kMaxPlainRows % kPlainStep == 0);

// What a vector of rows is decided from.
template <class V>
struct PlainSums {
  V max, others;
  V z;                           // x_y - max
  V background, background_dot;  // RowSums', if there is one
};

// p_scale is Gradient's, `point` the gradient at y.
template <class V>
struct PlainDecision {
  V loss, p_scale, point;
};

template <class D>
HWY_INLINE hn::Mask<D> IsInfinite(D d, hn::Vec<D> v) {
  return hn::Eq(hn::Abs(v), hn::Set(d, std::numeric_limits<double>::infinity()));
}

// PowerOf() in each lane.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V PowersOf(D d, V x, double gamma) {
  int factors = FactorsOf(gamma);
  if (HWY_LIKELY(factors >= 0)) {
    V power = hn::Set(d, 1.0);
    for (; factors > 0; factors /= 2) {
      if (factors % 2 == 1) power = hn::Mul(power, x);
      x = hn::Mul(x, x);
    }
    return power;
  }
  HWY_ALIGN_MAX double lanes[hn::MaxLanes(D())];
  hn::Store(x, d, lanes);
  for (size_t i = 0; i < hn::Lanes(d); ++i) lanes[i] = PowerOf(lanes[i], gamma);
  return hn::Load(d, lanes);
}

// CrossTerm().
template <class D, class V = hn::Vec<D>>
HWY_INLINE V CrossTerms(D d, V mass, V log_p) {
  const auto free = hn::And(hn::Eq(mass, hn::Zero(d)), IsInfinite(d, log_p));
  return hn::IfThenZeroElse(free, hn::Mul(mass, hn::Neg(log_p)));
}

// Decide() and, if kGradient, the gradient's coefficients. sums.others is NaN where the maximum is infinite. Additions
// of 0 keep -0 out where those of decide.h do.
template <bool kGradient, bool kBackground, bool kModified, class D, class V = hn::Vec<D>>
HWY_INLINE PlainDecision<V> DecidePlain(D d, const PlainTargets& tile, const PlainSums<V>& sums, V log1p, V weight,
                                        V upstream, hn::Mask<D> ignored) {
  const V one = hn::Set(d, 1.0), zero = hn::Zero(d);
  const V log_p = hn::Sub(sums.z, log1p);
  V mass = kBackground ? hn::Mul(hn::Set(d, tile.point_scale), weight) : weight;
  V denominator = one, p = zero, complement = zero;
  if constexpr (kGradient || kModified) {
    const V exp = ExpOfNegative(d, sums.z);
    denominator = hn::Add(one, sums.others);
    complement = hn::Div(hn::IfThenElse(hn::Eq(exp, one), sums.others, hn::Sub(denominator, exp)), denominator);
    if constexpr (kBackground || kModified) p = hn::Div(exp, denominator);
  }

  V cross;
  if (kModified && tile.bends()) {
    const V epsilon = hn::Set(d, tile.poly_epsilon), gamma = hn::Set(d, tile.focal_gamma);
    const V ratio = hn::IfThenElse(hn::Eq(complement, zero), one, hn::Div(hn::Neg(log_p), complement));
    const V slope = hn::IfThenZeroElse(hn::Eq(p, zero), hn::Mul(hn::Mul(gamma, p), ratio));
    const V focused = hn::Mul(mass, PowersOf(d, complement, tile.focal_gamma));
    cross = hn::Add(CrossTerms(d, focused, log_p), hn::Mul(epsilon, complement));
    mass = hn::Add(hn::Mul(focused, hn::Add(one, slope)), hn::Mul(epsilon, p));
  } else {
    cross = CrossTerms(d, mass, log_p);
  }
  V loss = hn::Add(kBackground ? hn::Sub(hn::Mul(sums.background, log1p), sums.background_dot) : zero, cross);
  V p_factor = kBackground ? sums.background : zero;
  if (kModified && tile.z_loss != 0) {
    const V log_sum_exp = hn::Add(sums.max, log1p);
    loss = hn::Add(loss, hn::Mul(hn::Mul(hn::Set(d, tile.z_loss), log_sum_exp), log_sum_exp));
    p_factor = hn::Add(p_factor, hn::Mul(hn::Set(d, 2 * tile.z_loss), log_sum_exp));
  }
  loss = hn::IfThenZeroElse(ignored, loss);
  if constexpr (!kGradient) return {loss, zero, zero};

  const V total = hn::Add(p_factor, hn::Add(zero, mass));
  const V p_scale = hn::Div(hn::Mul(upstream, total), denominator);
  V push = kBackground || kModified ? hn::Mul(hn::Add(p_factor, zero), p) : zero;
  if constexpr (kBackground) push = hn::Sub(push, hn::Mul(hn::Set(d, tile.background_scale), weight));
  const V nan = hn::Set(d, std::numeric_limits<double>::quiet_NaN());  // whichever it came from
  return {loss, hn::IfThenZeroElse(ignored, hn::IfThenElse(hn::IsNaN(p_scale), nan, p_scale)),
          hn::Mul(upstream, hn::Sub(push, hn::Mul(mass, complement)))};
}

// Decides the rows from `first` on, kDecided vectors of them: sums(k, r) makes PlainSums of the k-th, whose rows begin
// at r. What PlainTargets has room for is stored here; with kGradient, store(k, r, decision) gets the rest.
template <bool kGradient, bool kBackground, bool kModified, class D, class Sums, class Store>
HWY_INLINE void DecideVectors(D d, const PlainTargets& tile, size_t first, const Sums& sums, const Store& store) {
  const hn::Rebind<int32_t, D> di32;
  using V = hn::Vec<D>;
  PlainSums<V> of[kDecided];
  LogParts<V> parts[kDecided];
  V log1p[kDecided];
  const auto each = [&](const auto& step) HWY_ATTR {
    for (size_t k = 0; k < kDecided; ++k) step(k, first + k * hn::Lanes(d));
  };
  each([&](size_t k, size_t r) HWY_ATTR {
    of[k] = sums(k, r);
    const V max = of[k].max, others = of[k].others, nan = hn::Set(d, std::numeric_limits<double>::quiet_NaN());
    const auto infinite = IsInfinite(d, max);
    of[k].others = hn::IfThenElse(infinite, nan, others);
    if (tile.log_sum_exps == nullptr) return;  // which is the maximum, where that is infinite and nothing NaN
    hn::StoreU(hn::IfThenElse(hn::IsNaN(others), nan, hn::IfThenElseZero(infinite, max)), d, tile.log_sum_exps + r);
  });
  each([&](size_t k, size_t) HWY_ATTR { parts[k] = Log1pParts(d, of[k].others); });
  each([&](size_t k, size_t) HWY_ATTR { log1p[k] = Log1pOfParts(d, of[k].others, parts[k]); });
  each([&](size_t k, size_t r) HWY_ATTR {
    const auto ignored = hn::Lt(hn::PromoteTo(d, hn::LoadU(di32, tile.targets + r)), hn::Zero(d));
    const V upstream = kGradient ? hn::LoadU(d, tile.upstream + r) : hn::Zero(d);
    const auto decision = DecidePlain<kGradient, kBackground, kModified>(
        d, tile, of[k], log1p[k], hn::LoadU(d, tile.weights + r), upstream, ignored);
    hn::StoreU(decision.loss, d, tile.losses + r);
    if (tile.log_sum_exps != nullptr) {
      const V known = hn::LoadU(d, tile.log_sum_exps + r);
      const V log_sum_exp = hn::Add(of[k].max, log1p[k]);
      hn::StoreU(hn::IfThenElse(hn::Eq(known, hn::Zero(d)), log_sum_exp, known), d, tile.log_sum_exps + r);
    }
    if (tile.target_log_probabilities != nullptr) {
      const V log_p = hn::Sub(of[k].z, log1p[k]), nan = hn::Set(d, std::numeric_limits<double>::quiet_NaN());
      const V clean = hn::IfThenElse(hn::IsNaN(log_p), nan, log_p);
      hn::StoreU(hn::IfThenZeroElse(ignored, clean), d, tile.target_log_probabilities + r);
    }
    if constexpr (kGradient) store(k, r, decision);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_PLAIN_INL_H_
