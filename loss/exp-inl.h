// exp for vectors: the only one of lossd. It takes a difference, because that is what a softmax needs, and never rounds
// it: at x - m = -40 the rounding of a float difference alone would be a relative error of 2e-6.
//
// With m = offset + I ln 2 - rest, exp(x - m) = exp(rest) * 2^(n - I) * exp(r), where x - offset = n ln 2 + r and
// |r| <= ln(2)/2. The offset is 0, or a large m itself: either way x - offset is exact wherever exp(x - m) is not 0.
// exp(rest) is one factor for the whole row, left to the caller, and I is an integer in the exponent. exp(r) is a
// minimax polynomial (Remez, relative error 3.1e-9 in float, 7.8e-18 in double). The idea of carrying n and r apart is
// Dukhan & Ablavatski's (arXiv:2001.04438).

// Per-target include guard, as Highway's own -inl headers have.
#if defined(LOSSD_LOSS_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_EXP_INL_H_
#undef LOSSD_LOSS_EXP_INL_H_
#else
#define LOSSD_LOSS_EXP_INL_H_
#endif

#include <hwy/highway.h>

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 127;
  static constexpr int kScaleLog2 = 64;  // 2^24 terms of 2^64 do not overflow
  static constexpr double kUnscale = 0x1p-64;
  static constexpr float kZeroBelow = -131;  // the least n is then -189, and 2^(n + 64) is normal
  // Factors that may follow: scaled back they are normal, and what is 0 above stays below the least float.
  static constexpr double kLeastFactor = 0x1p-60, kMostFactor = 0x1p40;
  static constexpr float kShift = 12582912.0f;     // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  static constexpr float kOffsetAbove = 512;       // x >= 512 - 131 is within a factor of 2: x - 512 is exact
  static constexpr float kLn2High = 0.693359375f;  // nine bits: n * kLn2High is exact without fused multiply-add too
  static constexpr float kLn2Low = -2.12194440e-4f;
  static constexpr float kCoefficients[] = {0.0013814540579915047f, 0.00836874544620514f, 0.04166838899254799f,
                                            0.1666652113199234f, 0.4999999403953552f};
};

template <>
struct ExpConstants<double> {
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr int kScaleLog2 = 512;
  static constexpr double kUnscale = 0x1p-512;
  static constexpr double kZeroBelow = -1063;
  static constexpr double kLeastFactor = 0x1p-500, kMostFactor = 0x1p440;
  static constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kOffsetAbove = 4096;
  static constexpr double kLn2High = 0.693145751953125;
  static constexpr double kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kCoefficients[] = {
      2.511009630403348889e-8,  2.7632716110097872761e-7, 2.7557242213510690926e-6, 2.480148716583870928e-5,
      1.9841269886699926183e-4, 1.3888888947962542784e-3, 8.3333333333221716312e-3, 4.1666666666521526949e-2,
      0.16666666666666674561,   0.50000000000000102655};
};

template <typename T>
inline constexpr T kLog2E = static_cast<T>(1.4426950408889634);

// Where the exponentials of a row are counted from; what depends on m alone. One row: the same in every lane.
template <class V>
struct ExpOrigin {
  V offset;
  V shift;   // kShift - I + kScaleLog2 + kBias
  V lowest;  // x - offset below it counts as 0
};

// The origin for m, a finite number.
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE ExpOrigin<V> OriginOf(D d, V m) {
  using C = ExpConstants<T>;
  const V shift = hn::Set(d, C::kShift);
  const V offset = hn::IfThenElseZero(hn::Gt(hn::Abs(m), hn::Set(d, C::kOffsetAbove)), m);
  const V base = hn::Sub(m, offset);
  const V integer = hn::Sub(hn::MulAdd(base, hn::Set(d, kLog2E<T>), shift), shift);
  return {offset, hn::Sub(hn::Set(d, C::kShift + C::kScaleLog2 + C::kBias), integer),
          hn::Add(base, hn::Set(d, C::kZeroBelow))};
}

// exp(r) for |r| <= ln(2)/2.
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE V ExpOfRemainder(D d, V r) {
  using C = ExpConstants<T>;
  V q = hn::Set(d, C::kCoefficients[0]);
  for (size_t i = 1; i < sizeof(C::kCoefficients) / sizeof(T); ++i) {
    q = hn::MulAdd(q, r, hn::Set(d, C::kCoefficients[i]));
  }
#if HWY_NATIVE_FMA
  return hn::MulAdd(hn::MulAdd(q, r, hn::Set(d, T{1})), r, hn::Set(d, T{1}));
#else  // one operation more keeps the roundings of the products away from the 1
  return hn::Add(hn::MulAdd(hn::Mul(r, r), q, r), hn::Set(d, T{1}));
#endif
}

// exp(x - m) * 2^kScaleLog2 / OriginFactor(), and 0 below exp(kZeroBelow). The scale keeps the digits of tiny terms, in
// a sum or before a factor. Valid for x <= m, x = -inf and NaN (the result is then NaN).
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE V ScaledExp(D d, V x, const ExpOrigin<V>& origin) {
  using C = ExpConstants<T>;
  const hn::RebindToSigned<D> di;
  const V z = hn::Sub(x, origin.offset);
  const V shifted = hn::MulAdd(z, hn::Set(d, kLog2E<T>), origin.shift);
  const V n = hn::Sub(shifted, origin.shift);
  const V r = hn::NegMulAdd(n, hn::Set(d, C::kLn2Low), hn::NegMulAdd(n, hn::Set(d, C::kLn2High), z));
  const V power = hn::BitCast(d, hn::ShiftLeft<C::kMantissaBits>(hn::BitCast(di, shifted)));  // of 2, n - I + scale
  return hn::IfThenZeroElse(hn::Lt(z, origin.lowest), hn::Mul(ExpOfRemainder(d, r), power));
}

// exp(offset + I ln 2 - m), which ScaledExp() leaves out: between 2^-0.5 and 2^0.5. `base` is m - offset, `shift` the
// origin's; both of T, in double.
template <typename T, class DD, class V = hn::Vec<DD>>
HWY_INLINE V OriginFactor(DD dd, V base, V shift) {
  using C = ExpConstants<T>;
  using C64 = ExpConstants<double>;
  const V integer = hn::Sub(hn::Set(dd, double{C::kShift} + C::kScaleLog2 + C::kBias), shift);
  const V remainder =
      hn::Sub(hn::NegMulAdd(integer, hn::Set(dd, C64::kLn2High), base), hn::Mul(integer, hn::Set(dd, C64::kLn2Low)));
  return ExpOfRemainder(dd, hn::Neg(remainder));
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_EXP_INL_H_
