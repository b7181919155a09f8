// exp for vectors: the only one of lossd. It takes a difference, because that is what a softmax needs.
//
// exp(x - m) with x - m = z + error exactly (Knuth's TwoSum): at z = -40 the rounding of a float difference alone would
// be a relative error of 2e-6. z = n ln 2 + r with |r| <= ln(2)/2; exp(r + error) is a minimax polynomial (Remez,
// relative error 3.1e-9 in float, 7.8e-18 in double) times 2^n.

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
  static constexpr int kScaleLog2 = 64;      // 2^24 terms of 2^64 do not overflow
  static constexpr float kZeroBelow = -131;  // the least n is then -189, and 2^(n + 64) is normal
  // Factors that may follow: scaled back they are normal, and what is 0 above stays below the least float.
  static constexpr double kLeastFactor = 0x1p-60, kMostFactor = 0x1p40;
  static constexpr float kShift = 12582912.0f;     // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  static constexpr float kLn2High = 0.693359375f;  // ten bits: n * kLn2High is exact without fused multiply-add too
  static constexpr float kLn2Low = -2.12194440e-4f;
  static constexpr float kCoefficients[] = {0.0013814540579915047f, 0.00836874544620514f, 0.04166838899254799f,
                                            0.1666652113199234f, 0.4999999403953552f};
};

template <>
struct ExpConstants<double> {
  static constexpr int kMantissaBits = 52;
  static constexpr int kBias = 1023;
  static constexpr int kScaleLog2 = 512;
  static constexpr double kZeroBelow = -1063;
  static constexpr double kLeastFactor = 0x1p-500, kMostFactor = 0x1p440;
  static constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kLn2High = 0.693145751953125;
  static constexpr double kLn2Low = 1.42860682030941723212e-6;
  static constexpr double kCoefficients[] = {
      2.511009630403348889e-8,  2.7632716110097872761e-7, 2.7557242213510690926e-6, 2.480148716583870928e-5,
      1.9841269886699926183e-4, 1.3888888947962542784e-3, 8.3333333333221716312e-3, 4.1666666666521526949e-2,
      0.16666666666666674561,   0.50000000000000102655};
};

// 2^n for integers n of normal range.
template <class D, class VI, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> PowerOfTwo(D d, VI n) {
  using C = ExpConstants<T>;
  const hn::RebindToSigned<D> di;
  return hn::BitCast(d, hn::ShiftLeft<C::kMantissaBits>(hn::Add(n, hn::Set(di, C::kBias))));
}

// exp(x - m) * 2^kScaleLog2, to 1 ulp, and 0 below exp(kZeroBelow). The scale keeps the digits of tiny terms, in a sum
// or before a factor. Valid for x <= m, x = -inf and NaN (the result is then NaN).
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE V ScaledExp(D d, V x, V m) {
  using C = ExpConstants<T>;
  const hn::RebindToSigned<D> di;
  const V shift = hn::Set(d, C::kShift);
  const V z = hn::Sub(x, m);
  const V shadow = hn::Sub(z, x);
  const V error = hn::Sub(hn::Sub(x, hn::Sub(z, shadow)), hn::Add(m, shadow));
  const V shifted = hn::MulAdd(z, hn::Set(d, static_cast<T>(1.4426950408889634)), shift);
  const V n = hn::Sub(shifted, shift);
  const V r = hn::Add(hn::NegMulAdd(n, hn::Set(d, C::kLn2High), z), hn::NegMulAdd(n, hn::Set(d, C::kLn2Low), error));
  V q = hn::Set(d, C::kCoefficients[0]);
  for (size_t i = 1; i < sizeof(C::kCoefficients) / sizeof(T); ++i) {
    q = hn::MulAdd(q, r, hn::Set(d, C::kCoefficients[i]));
  }
  const V exp_r = hn::Add(hn::MulAdd(hn::Mul(r, r), q, r), hn::Set(d, T{1}));
  const auto integer_n = hn::Sub(hn::BitCast(di, shifted), hn::BitCast(di, shift));
  const V y = hn::Mul(exp_r, PowerOfTwo(d, hn::Add(integer_n, hn::Set(di, C::kScaleLog2))));
  return hn::IfThenZeroElse(hn::Lt(z, hn::Set(d, C::kZeroBelow)), y);
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_EXP_INL_H_
