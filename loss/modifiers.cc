#include "loss/modifiers.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/modifiers.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#include <cmath>

#include "loss/exp-inl.h"
#include "loss/writer-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Divides by one number, again and again: the quotient is rounded as division rounds it. With a fused multiply-add that
// is a product and its correction (Markstein), a quarter of what the instruction takes.
class Divisor {
 public:
  explicit Divisor(double divisor) : divisor_(divisor), inverse_(1 / divisor) {
    multiplies_ = HWY_NATIVE_FMA != 0 && std::fabs(divisor) > 0x1p-100 && std::fabs(divisor) < 0x1p100;
  }

  template <class D, class V = hn::Vec<D>>
  HWY_INLINE V Divide(D d, V x) const {
    const V divisor = hn::Set(d, divisor_), inverse = hn::Set(d, inverse_);
    if (divisor_ == 1) return x;
    if (!multiplies_) return hn::Div(x, divisor);
    const V product = hn::Mul(x, inverse), rest = hn::NegMulAdd(product, divisor, x);
    const V quotient = hn::MulAdd(rest, inverse, product), size = hn::Abs(product);
    const auto fits = hn::And(hn::Gt(size, hn::Set(d, 0x1p-800)), hn::Lt(size, hn::Set(d, 0x1p800)));
    if (HWY_LIKELY(hn::AllTrue(d, fits))) return quotient;
    return hn::IfThenElse(fits, quotient, hn::Div(x, divisor));
  }

 private:
  double divisor_, inverse_;
  bool multiplies_;
};

// exp(-2 |y|) - 1, without loss of precision where that is little; NaN for NaN.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V DecayLessOne(D d, V y) {
  using C = ExpConstants<double>;
  const hn::RebindToSigned<D> di;
  const V one = hn::Set(d, 1.0), shift = hn::Set(d, C::kShift), lowest = hn::Set(d, -80.0);  // where it is -1
  const V z = hn::Mul(hn::Abs(y), hn::Set(d, -2.0));
  const V x = hn::IfThenElse(hn::Lt(z, lowest), lowest, z);
  const V shifted = hn::MulAdd(x, hn::Set(d, kLog2E), shift);
  const V n = hn::Sub(shifted, shift);
  V r = x;
  for (const double part : C::kLn2) r = hn::NegMulAdd(n, hn::Set(d, part), r);
  // exp(r) - 1, and 2^n.
  const V q = hn::Mul(Polynomial(d, C::kCoefficients, r), r);
  const V rest = hn::MulAdd(q, r, r);
  const auto exponent = hn::Add(hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, shift)), hn::Set(di, C::kBias));
  const V power = hn::BitCast(d, hn::ShiftLeft<C::kMantissaBits>(exponent));
  return hn::MulAdd(power, rest, hn::Sub(power, one));
}

// tanh |y| = (1 - e) / (1 + e), e = exp(-2 |y|).
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Tanh(D d, V y) {
  const V less_one = DecayLessOne(d, y);
  return hn::CopySign(hn::Div(hn::Neg(less_one), hn::Add(less_one, hn::Set(d, 2.0))), y);
}

// 1 / cosh^2 y = 4 e / (1 + e)^2.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V SquareOfSech(D d, V y) {
  const V e = ExpOfNegative(d, hn::Mul(hn::Abs(y), hn::Set(d, -2.0)));
  const V denominator = hn::Add(e, hn::Set(d, 1.0));
  return hn::Div(hn::Mul(e, hn::Set(d, 4.0)), hn::Mul(denominator, denominator));
}

void ModifyAll(const double* x, int64_t size, double temperature, double softcap, double* y) {
  const hn::ScalableTag<double> d;
  const Divisor by_temperature(temperature), by_softcap(softcap);
  const auto modified = [&](const auto& load) HWY_ATTR {
    const auto v = by_temperature.Divide(d, load(x));
    return softcap == 0 ? v : hn::Mul(hn::Set(d, softcap), Tanh(d, by_softcap.Divide(d, v)));
  };
  MapRow(d, static_cast<size_t>(size), modified, {}, y);
}

void ChainAll(const double* x, int64_t size, double temperature, double softcap, double* gradient) {
  const hn::ScalableTag<double> d;
  const Divisor by_temperature(temperature), by_softcap(softcap);
  const auto chained = [&](const auto& load) HWY_ATTR {
    const auto g = load(gradient), y = by_softcap.Divide(d, by_temperature.Divide(d, load(x)));
    return hn::IfThenElse(hn::Eq(g, hn::Zero(d)), g, hn::Mul(g, SquareOfSech(d, y)));
  };
  MapRow(d, static_cast<size_t>(size), chained, {}, gradient);
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd {

HWY_EXPORT(ModifyAll);
HWY_EXPORT(ChainAll);

void ModifyLogits(const double* x, int64_t size, double temperature, double softcap, double* y) {
  HWY_DYNAMIC_DISPATCH(ModifyAll)(x, size, temperature, softcap, y);
}
void ChainSoftcap(const double* x, int64_t size, double temperature, double softcap, double* gradient) {
  HWY_DYNAMIC_DISPATCH(ChainAll)(x, size, temperature, softcap, gradient);
}

}  // namespace lossd
#endif  // HWY_ONCE
