// The background of the target distribution (row.h), a vector at a time: what it adds to a row's sums, and its part of
// the gradient. One template argument says which of its terms there are, so that what is absent costs nothing.

#if defined(LOSSD_LOSS_BACKGROUND_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_BACKGROUND_INL_H_
#undef LOSSD_LOSS_BACKGROUND_INL_H_
#else
#define LOSSD_LOSS_BACKGROUND_INL_H_
#endif

#include <hwy/highway.h>

#include <cmath>
#include <type_traits>

#include "loss/row.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

enum class BackgroundKind { kNone, kUniform, kWeights, kProbabilities, kWeightedProbabilities };

constexpr bool HasProbabilities(BackgroundKind kind) {
  return kind == BackgroundKind::kProbabilities || kind == BackgroundKind::kWeightedProbabilities;
}

template <typename T>
BackgroundKind KindOf(const Background<T>& b) {
  const bool probabilities = b.alpha != 0 && b.probabilities != nullptr;
  if (probabilities) {
    return b.weights != nullptr ? BackgroundKind::kWeightedProbabilities : BackgroundKind::kProbabilities;
  }
  if (b.beta == 0) return BackgroundKind::kNone;
  return b.weights != nullptr ? BackgroundKind::kWeights : BackgroundKind::kUniform;
}

// Calls function(std::integral_constant<BackgroundKind, kind>) for the kind found at run time. REQUIRES: without
// probabilities.
template <class Function>
HWY_INLINE void WithKindOfClasses(BackgroundKind kind, const Function& function) {
  HWY_DASSERT(!HasProbabilities(kind));
  switch (kind) {
    case BackgroundKind::kUniform:
      return function(std::integral_constant<BackgroundKind, BackgroundKind::kUniform>());
    case BackgroundKind::kWeights:
      return function(std::integral_constant<BackgroundKind, BackgroundKind::kWeights>());
    default:
      return function(std::integral_constant<BackgroundKind, BackgroundKind::kNone>());
  }
}

// The same of any kind.
template <class Function>
HWY_INLINE void WithKind(BackgroundKind kind, const Function& function) {
  switch (kind) {
    case BackgroundKind::kProbabilities:
      return function(std::integral_constant<BackgroundKind, BackgroundKind::kProbabilities>());
    case BackgroundKind::kWeightedProbabilities:
      return function(std::integral_constant<BackgroundKind, BackgroundKind::kWeightedProbabilities>());
    default:
      return WithKindOfClasses(kind, function);
  }
}

// What BackgroundAt() leaves out of every t_j.
constexpr bool LeavesOutScale(BackgroundKind kind) { return kind != BackgroundKind::kNone && !HasProbabilities(kind); }
template <typename T>
double BackgroundScale(const Background<T>& b) {
  return LeavesOutScale(KindOf(b)) ? b.beta : 1;
}

// sum t_j. REQUIRES: no probabilities.
template <typename T>
double BackgroundMass(const Background<T>& b, int64_t num_classes) {
  if (b.weights == nullptr) return b.beta * static_cast<double>(num_classes);
  double sums[4] = {};  // independent ones hide the latency of addition
  for (int64_t c = 0; c < num_classes; ++c) sums[c % 4] += b.At(c);
  return sums[0] + sums[1] + (sums[2] + sums[3]);
}

// Whether the sums are taken with the exponentials. Probabilities are large where the logits are: it would often be in
// vain.
template <BackgroundKind kKind>
inline constexpr bool kSummedWithExps = kKind != BackgroundKind::kNone && !HasProbabilities(kKind);

// t_j over BackgroundScale(). load(pointer) makes a vector of what a row has there.
template <BackgroundKind kKind, class D, class Load, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> BackgroundAt(D d, const Background<T>& b, const Load& load) {
  if constexpr (kKind == BackgroundKind::kNone) {
    return hn::Zero(d);
  } else if constexpr (kKind == BackgroundKind::kUniform) {
    return hn::Set(d, T{1});
  } else if constexpr (kKind == BackgroundKind::kWeights) {
    return load(b.weights);
  } else {
    const auto alpha = hn::Set(d, static_cast<T>(b.alpha)), beta = hn::Set(d, static_cast<T>(b.beta));
    const auto q = hn::MulAdd(load(b.probabilities), alpha, beta);
    if constexpr (kKind == BackgroundKind::kProbabilities) return q;
    return hn::Mul(load(b.weights), q);
  }
}

// p e_j - s t_j, an entry of the gradient; p has the factor of ScaledExp() in it, s has BackgroundScale().
template <BackgroundKind kKind, class D, class Load, class V = hn::Vec<D>>
HWY_INLINE V GradientEntry(D d, V p, V e, V s, const Background<hn::TFromD<D>>& b, const Load& load) {
  if constexpr (kKind == BackgroundKind::kNone) return hn::Mul(p, e);
  if constexpr (kKind == BackgroundKind::kUniform) return hn::MulSub(p, e, s);
  return hn::NegMulAdd(s, BackgroundAt<kKind>(d, b, load), hn::Mul(p, e));
}

// sum t_j and sum t_j z_j, by lane, where z_j is x_j less what the sums are relative to.
template <BackgroundKind kKind, class D>
class BackgroundSums {
 public:
  hn::Vec<D> mass, dot;

  HWY_INLINE explicit BackgroundSums(D d) : mass(hn::Zero(d)), dot(hn::Zero(d)), signs_(hn::Zero(d)) {}

  // Several vectors, added up among themselves first. kUniform leaves `mass` to be known.
  // REQUIRES: not kNone.
  template <size_t kSize>
  HWY_INLINE void Add(D d, const hn::Vec<D> (&z)[kSize], const hn::Vec<D> (&t)[kSize]) {
    hn::Vec<D> finite[kSize], counted[kSize];  // 0 * inf = 0: of a class without mass, and of the largest
    for (size_t k = 0; k < kSize; ++k) {
      finite[k] = hn::IfThenZeroElse(hn::Eq(t[k], hn::Zero(d)), z[k]);
      counted[k] = hn::IfThenZeroElse(hn::Eq(z[k], hn::Zero(d)), t[k]);
    }
    AddProducts(finite, counted);
    AddMass(t);
  }

  // The same as long as there is nothing infinite, nor, where BackgroundAt() leaves out a scale, a sum so large that it
  // needs that: `mass` or `dot` is not finite then.
  template <size_t kSize>
  HWY_INLINE void AddOrdinary(const hn::Vec<D> (&z)[kSize], const hn::Vec<D> (&t)[kSize]) {
    if constexpr (kKind == BackgroundKind::kUniform) {
      auto sum = z[0];
      for (size_t k = 1; k < kSize; ++k) sum = hn::Add(sum, z[k]);
      dot = hn::Add(dot, sum);
    } else {
      AddProducts(z, t);
      AddMass(t);
    }
  }

  template <size_t kSize>
  HWY_INLINE void NoteSigns(const hn::Vec<D> (&t)[kSize]) {
    if constexpr (kKind == BackgroundKind::kUniform) return;
    for (size_t k = 0; k + 1 < kSize; k += 2) signs_ = hn::Or3(t[k], t[k + 1], signs_);
    if constexpr (kSize % 2 != 0) signs_ = hn::Or(t[kSize - 1], signs_);
  }

  // Whether NoteSigns() met a negative t_j.
  HWY_INLINE bool AnyNegative() const {
    const hn::RebindToSigned<D> di;
    return !hn::AllFalse(di, hn::Lt(hn::BitCast(di, signs_), hn::Zero(di)));
  }

 private:
  template <size_t kSize>
  HWY_INLINE void AddProducts(const hn::Vec<D> (&z)[kSize], const hn::Vec<D> (&t)[kSize]) {
    auto products = hn::Mul(t[0], z[0]);
    for (size_t k = 1; k < kSize; ++k) products = hn::MulAdd(t[k], z[k], products);
    dot = hn::Add(dot, products);
  }
  template <size_t kSize>
  HWY_INLINE void AddMass(const hn::Vec<D> (&t)[kSize]) {
    if constexpr (kKind == BackgroundKind::kUniform) return;
    auto sum = t[0];
    for (size_t k = 1; k < kSize; ++k) sum = hn::Add(sum, t[k]);
    mass = hn::Add(mass, sum);
  }

  hn::Vec<D> signs_;  // negative in a lane where a t_j was
};

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_BACKGROUND_INL_H_
