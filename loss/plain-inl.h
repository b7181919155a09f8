// The decide step of plain cross-entropy (plain.h) for one SIMD target.

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

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// So many vectors of doubles are decided together: each step is a chain of operations that wait for each other, and
// several vectors fill each other's gaps.
inline constexpr size_t kDecided = 4;
static_assert(kPlainStep % (kDecided * hn::MaxLanes(hn::ScalableTag<double>())) == 0 &&
              kMaxPlainRows % kPlainStep == 0);

// What a vector of rows is decided from. others: NaN where the maximum is infinite.
template <class V>
struct PlainSums {
  V others;
  V z;                           // x_y - max
  V background, background_dot;  // RowSums', if there is one
};

// p_scale is Gradient's, `point` the gradient at y.
template <class V>
struct PlainDecision {
  V loss, p_scale, point;
};

// NaN where a row's maximum is infinite.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V OthersBelow(D d, V max, V others) {
  const V infinity = hn::Set(d, std::numeric_limits<double>::infinity());
  return hn::IfThenElse(hn::Lt(hn::Abs(max), infinity), others, hn::Set(d, std::numeric_limits<double>::quiet_NaN()));
}

// Decide() and, if kGradient, the gradient's coefficients. Additions of 0 keep -0 out where those of decide.h do.
template <bool kGradient, bool kBackground, class D, class V = hn::Vec<D>>
HWY_INLINE PlainDecision<V> DecidePlain(D d, const PlainTargets& tile, const PlainSums<V>& sums, V log1p, V weight,
                                        hn::Mask<D> ignored) {
  const V one = hn::Set(d, 1.0), zero = hn::Zero(d), scale = hn::Set(d, tile.gradient_scale);
  const V infinity = hn::Set(d, std::numeric_limits<double>::infinity());
  const V mass = kBackground ? hn::Mul(hn::Set(d, tile.point_scale), weight) : weight;
  const V log_p = hn::Sub(sums.z, log1p);
  const auto free = hn::And(hn::Eq(mass, zero), hn::Eq(hn::Abs(log_p), infinity));
  const V cross = hn::IfThenZeroElse(free, hn::Mul(mass, hn::Neg(log_p)));
  const V smooth = kBackground ? hn::Sub(hn::Mul(sums.background, log1p), sums.background_dot) : zero;
  const V loss = hn::IfThenZeroElse(ignored, hn::Add(smooth, cross));
  if constexpr (!kGradient) return {loss, zero, zero};
  const V exp = hn::Mul(ScaledExp(d, sums.z, OriginOf(d, zero)), hn::Set(d, ExpConstants<double>::kUnscale));
  const V denominator = hn::Add(one, sums.others);
  const V rest = hn::IfThenElse(hn::Eq(exp, one), sums.others, hn::Sub(denominator, exp));
  const V total = hn::Add(kBackground ? sums.background : zero, hn::Add(zero, mass));
  const V p_scale = hn::Div(hn::Mul(scale, total), denominator);
  V push = zero;
  if constexpr (kBackground) {
    push = hn::Sub(hn::Mul(hn::Add(sums.background, zero), hn::Div(exp, denominator)),
                   hn::Mul(hn::Set(d, tile.background_scale), weight));
  }
  const V nan = hn::Set(d, std::numeric_limits<double>::quiet_NaN());  // whichever it came from
  return {loss, hn::IfThenZeroElse(ignored, hn::IfThenElse(hn::IsNaN(p_scale), nan, p_scale)),
          hn::Mul(scale, hn::Sub(push, hn::Mul(mass, hn::Div(rest, denominator))))};
}

// Decides the rows from `first` on, kDecided vectors of them: sums(k, r) makes PlainSums of the k-th, whose rows begin
// at r. Losses are stored here; with kGradient, store(k, r, decision) gets the rest.
template <bool kGradient, bool kBackground, class D, class Sums, class Store>
HWY_INLINE void DecideVectors(D d, const PlainTargets& tile, size_t first, const Sums& sums, const Store& store) {
  const hn::Rebind<int32_t, D> di32;
  using V = hn::Vec<D>;
  PlainSums<V> of[kDecided];
  LogParts<V> parts[kDecided];
  V log1p[kDecided];
  const auto each = [&](const auto& step) HWY_ATTR {
    for (size_t k = 0; k < kDecided; ++k) step(k, first + k * hn::Lanes(d));
  };
  each([&](size_t k, size_t r) HWY_ATTR { of[k] = sums(k, r); });
  each([&](size_t k, size_t) HWY_ATTR { parts[k] = Log1pParts(d, of[k].others); });
  each([&](size_t k, size_t) HWY_ATTR { log1p[k] = Log1pOfParts(d, of[k].others, parts[k]); });
  each([&](size_t k, size_t r) HWY_ATTR {
    const auto target = hn::PromoteTo(d, hn::LoadU(di32, tile.targets + r));
    const auto decision = DecidePlain<kGradient, kBackground>(d, tile, of[k], log1p[k], hn::LoadU(d, tile.weights + r),
                                                              hn::Lt(target, hn::Zero(d)));
    hn::StoreU(decision.loss, d, tile.losses + r);
    if constexpr (kGradient) store(k, r, decision);
  });
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_PLAIN_INL_H_
