// exp for vectors: all that lossd has of it. What softmax needs takes a difference and never rounds it: at x - m = -40
// the rounding of a float difference alone would be a relative error of 2e-6. Losses of entries need exp(x) itself, in
// a few bits more than a float has: ExpInTwoParts().
//
// With m = offset + I ln 2 - rest, exp(x - m) = exp(rest) * 2^(n - I) * exp(r), where x - offset = n ln 2 + r and
// |r| <= ln(2)/2. The offset is 0, or a large m itself: either way x - offset is exact wherever exp(x - m) is not 0.
// exp(rest) is one factor for the whole row, left to the caller, and I is an integer in the exponent. The idea of
// carrying n and r apart is Dukhan & Ablavatski's (arXiv:2001.04438). m is the row's maximum, or a number not far
// below.
//
// Where one instruction looks 2^b numbers up in a register, n counts steps of 2^-b: exp(r) is shorter by several terms
// for 2^(i/2^b) from a table. Its entries have i already taken off where n's low bits will be added (the layout of
// Arm's optimized-routines). All polynomials are minimax (Remez): relative error at most 2.6e-8 in float, 7.8e-18 in
// double.

// Per-target include guard, as Highway's own -inl headers have.
#if defined(LOSSD_LOSS_EXP_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_EXP_INL_H_
#undef LOSSD_LOSS_EXP_INL_H_
#else
#define LOSSD_LOSS_EXP_INL_H_
#endif

#include <hwy/highway.h>

#include <bit>
#include <cmath>
#include <cstddef>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr double kLog2E = 1.4426950408889634;

template <typename T>
struct ExpConstants;

template <>
struct ExpConstants<float> {
  static constexpr int kMantissaBits = 23;
  static constexpr int kBias = 127;
  static constexpr int kScaleLog2 = 64;  // 2^24 terms of 2^64 do not overflow
  static constexpr double kUnscale = 0x1p-64;
  static constexpr float kZeroBelow = -131;  // the least n is then -189, and 2^(n + 64) is normal
  static constexpr float kReach = 36;        // and 2^11 terms of 2^64 exp(36) do not overflow
  // Factors that may follow: scaled back they are normal, and what is 0 above stays below the least float.
  static constexpr double kLeastFactor = 0x1p-60, kMostFactor = 0x1p38;
  static constexpr float kShift = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, kept in the low bits
  static constexpr float kOffsetAbove = 512;    // x >= 512 - 131 is within a factor of 2: x - 512 is exact
  // ln 2, to be taken off part by part.
#if HWY_NATIVE_FMA
  // The nearest float is 2.8e-9 of it off, much less than a float may be. So is exp(x - m) for each unit of m - x.
  static constexpr float kLn2[] = {0.693147182f};
  static constexpr double kDrift = 1.904654e-9;  // exp(-n ln 2) is this much too large, for each of n
#else
  static constexpr float kLn2[] = {0.693359375f, -2.12194440e-4f};  // nine bits: n times the first is exact
  static constexpr double kDrift = 0;
#endif
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
  static constexpr double kReach = 340;
  static constexpr double kLeastFactor = 0x1p-500, kMostFactor = 0x1p440;
  static constexpr double kShift = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr double kOffsetAbove = 4096;
  static constexpr double kLn2[] = {0.693145751953125, 1.42860682030941723212e-6};
  static constexpr double kDrift = 0;
  static constexpr double kCoefficients[] = {
      2.511009630403348889e-8,  2.7632716110097872761e-7, 2.7557242213510690926e-6, 2.480148716583870928e-5,
      1.9841269886699926183e-4, 1.3888888947962542784e-3, 8.3333333333221716312e-3, 4.1666666666521526949e-2,
      0.16666666666666674561,   0.50000000000000102655};
};

// b: how many bits of n the table answers, 0 without one.
#undef LOSSD_HAS_TABLES
#define LOSSD_HAS_TABLES (HWY_TARGET == HWY_AVX2 || HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL)
#if HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL
template <typename T>
inline constexpr int kTableBits = sizeof(T) == 4 ? 4 : 3;
#elif HWY_TARGET == HWY_AVX2
template <typename T>
inline constexpr int kTableBits = sizeof(T) == 4 ? 3 : 0;
#else
template <typename T>
inline constexpr int kTableBits = 0;
#endif

// The low bits, as a place in a table.
template <int kBits, class DI, class VI = hn::Vec<DI>>
HWY_INLINE VI TablePlace(DI di, VI bits) {
#if HWY_IS_DEBUG_BUILD  // where Highway asserts what the instruction does by itself: it looks at the low bits alone
  return hn::And(bits, hn::Set(di, (1 << kBits) - 1));
#else
  (void)di;
  return bits;
#endif
}

// The bits of 2^(i/2^b), less i at the lowest place of the exponent and b places below.
template <typename T, int kBits>
struct PowerTable;
template <>
struct PowerTable<float, 3> {
  alignas(32) static constexpr uint32_t kBits[] = {0x3f800000, 0x3f7b95c2, 0x3f7837f0, 0x3f75fed7,
                                                   0x3f7504f3, 0x3f75672a, 0x3f7744fd, 0x3f7ac0c7};
  static constexpr float kCoefficients[] = {0.16666858441087554735f, 0.50006448485043115275f};
};
template <>
struct PowerTable<float, 4> {
  alignas(64) static constexpr uint32_t kBits[] = {
      0x3f800000, 0x3f7daac3, 0x3f7b95c2, 0x3f79c3d3, 0x3f7837f0, 0x3f76f532, 0x3f75fed7, 0x3f75583f,
      0x3f7504f3, 0x3f7508a4, 0x3f75672a, 0x3f76248c, 0x3f7744fd, 0x3f78ccdf, 0x3f7ac0c7, 0x3f7d257d};
  static constexpr float kCoefficients[] = {0.16666718470773343325f, 0.50001616064719709743f};
};
template <>
struct PowerTable<double, 3> {
  alignas(64) static constexpr uint64_t kBits[] = {0x3ff0000000000000, 0x3fef72b83c7d517b, 0x3fef06fe0a31b715,
                                                   0x3feebfdad5362a27, 0x3feea09e667f3bcd, 0x3feeace5422aa0db,
                                                   0x3feee89f995ad3ad, 0x3fef5818dcfba487};
  static constexpr double kCoefficients[] = {0.00019840565767314350488, 0.0013889780672724562498,
                                             0.0083333333711273046144,  0.041666666570073609639,
                                             0.16666666666663724255,    0.50000000000002961834};
};

// Steps of n in one power of 2, and what is added to n so that its low bits become those of a float.
template <typename T>
inline constexpr double kSteps = 1 << kTableBits<T>;
template <typename T>
inline constexpr T kExponent = static_cast<T>(kSteps<T>*(ExpConstants<T>::kScaleLog2 +
                                                         (kTableBits<T> > 0 ? 0 : ExpConstants<T>::kBias)));

// What exponentials of x / t need to know of a temperature t: 1, which costs nothing, ...
template <typename T>
struct Untempered {
  static constexpr double kDrift = ExpConstants<T>::kDrift;
  static constexpr T kStepsInOne = static_cast<T>(kSteps<T> * kLog2E);

  constexpr T steps() const { return kStepsInOne; }     // of n in an x of 1
  constexpr T Times(T number) const { return number; }  // t
  constexpr double Over(double x) const { return x; }   // x / t
  template <class D, class V = hn::Vec<D>>
  HWY_INLINE V Over(D, V x) const {
    return x;
  }

  // (x - n of the steps) / t; V is of T, or of double.
  template <class D, class V = hn::Vec<D>>
  HWY_INLINE V Remainder(D d, V x, V n) const {
    using U = hn::TFromD<D>;
    for (const T part : ExpConstants<T>::kLn2) x = hn::NegMulAdd(n, hn::Set(d, static_cast<U>(part / kSteps<T>)), x);
    return x;
  }
};

// ... and any other that CanTemper() (row.h), which costs two operations: t ln 2 in two parts, since the nearest number
// need not be near enough, and the product with 1 / t. Everything that is compared with x is t times as large.
template <typename T>
class Tempered {
 public:
  static constexpr double kDrift = 0;

  explicit Tempered(double t)
      : t_(t), times_(static_cast<T>(t)), inverse_(1 / t), steps_(static_cast<T>(kSteps<T> * kLog2E / t)) {
    const double step = t * kLn2 / kSteps<T>;
    const double unit = std::ldexp(1.0, std::ilogb(step) - kHighBits + 1);
    high_ = static_cast<T>(unit * std::floor(step / unit));
    low_ = static_cast<T>(step - static_cast<double>(high_));
  }

  T steps() const { return steps_; }
  T Times(T number) const { return times_ * number; }
  double Over(double x) const { return x / t_; }
  template <class D, class V = hn::Vec<D>>
  HWY_INLINE V Over(D d, V x) const {
    return hn::Mul(x, hn::Set(d, static_cast<hn::TFromD<D>>(inverse_)));
  }

  template <class D, class V = hn::Vec<D>>
  HWY_INLINE V Remainder(D d, V x, V n) const {
    using U = hn::TFromD<D>;
    x = hn::NegMulAdd(n, hn::Set(d, static_cast<U>(high_)), x);
    return Over(d, hn::NegMulAdd(n, hn::Set(d, static_cast<U>(low_)), x));
  }

 private:
  static constexpr double kLn2 = 0.6931471805599453;
  static constexpr int kHighBits = 10;  // n times the first part is exact

  double t_;
  T times_;
  double inverse_;
  T steps_, high_, low_;
};

// Where the exponentials of a row are counted from; what depends on m alone. One row: the same in every lane.
template <class V>
struct ExpOrigin {
  V offset;
  V shift;   // kShift + kExponent, less I
  V lowest;  // of x - offset
};

// The origin for m, a finite number.
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>, class Temper = Untempered<T>>
HWY_INLINE ExpOrigin<V> OriginOf(D d, V m, const Temper& t = Temper()) {
  using C = ExpConstants<T>;
  const V shift = hn::Set(d, C::kShift);
  const V offset = hn::IfThenElseZero(hn::Gt(hn::Abs(m), hn::Set(d, t.Times(C::kOffsetAbove))), m);
  const V base = hn::Sub(m, offset);
  const V integer = hn::Sub(hn::MulAdd(base, hn::Set(d, t.steps()), shift), shift);
  return {offset, hn::Sub(hn::Set(d, C::kShift + kExponent<T>), integer),
          hn::Add(base, hn::Set(d, t.Times(C::kZeroBelow)))};
}

// c_0 r^n + ... + c_n.
template <class D, typename T, size_t kSize, class V = hn::Vec<D>>
HWY_INLINE V Polynomial(D d, const T (&coefficients)[kSize], V r) {
  V q = hn::Set(d, coefficients[0]);
  for (size_t i = 1; i < kSize; ++i) q = hn::MulAdd(q, r, hn::Set(d, coefficients[i]));
  return q;
}

// exp(r) for |r| <= ln(2)/2.
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE V ExpOfRemainder(D d, V r) {
  const V q = Polynomial(d, ExpConstants<T>::kCoefficients, r), one = hn::Set(d, T{1});
#if HWY_NATIVE_FMA
  return hn::MulAdd(hn::MulAdd(q, r, one), r, one);
#else  // one operation more keeps the roundings of the products away from the 1
  return hn::Add(hn::MulAdd(hn::Mul(r, r), q, r), one);
#endif
}

// An exponential, and what it is the product of: a fused multiply-add that adds that up saves the product.
template <class V>
struct ExpParts {
  V fraction;  // exp(r)
  V power;     // 2^(n/2^b)
  V value;     // once rounded less than their product as T
};

// Of the remainder and what has n + kExponent in its low bits.
template <class D, class V = hn::Vec<D>, typename T = hn::TFromD<D>>
HWY_INLINE ExpParts<V> ExpPartsOf(D d, V r, V shifted) {
  constexpr int kBits = kTableBits<T>;
  const hn::RebindToSigned<D> di;
  const auto bits = hn::BitCast(di, shifted);
  const auto exponent = hn::ShiftLeft<ExpConstants<T>::kMantissaBits - kBits>(bits);
  if constexpr (kBits == 0) {
    const V fraction = ExpOfRemainder(d, r), power = hn::BitCast(d, exponent);
    return {fraction, power, hn::Mul(fraction, power)};
  } else {
    using Table = PowerTable<T, kBits>;
    const hn::RebindToUnsigned<D> du;
    const auto table = hn::BitCast(di, hn::Load(du, Table::kBits));
    const auto entry = hn::TableLookupLanes(table, hn::IndicesFromVec(di, TablePlace<kBits>(di, bits)));
    const V power = hn::BitCast(d, hn::Add(entry, exponent)), one = hn::Set(d, T{1});
    const V q = hn::MulAdd(Polynomial(d, Table::kCoefficients, r), r, one);
    return {hn::MulAdd(q, r, one), power, hn::MulAdd(q, hn::Mul(r, power), power)};
  }
}

// exp(x - m) * 2^kScaleLog2 / OriginFactor(), of z = x - origin.offset. The scale keeps the digits of tiny terms, in a
// sum or before a factor. Below exp(kZeroBelow) it stays what it is there: too little to be seen in a sum that has
// anything else in it, or after a factor of at most kMostFactor. Valid for x <= m + kReach, x = -inf and NaN (the
// result is then NaN).
template <class D, class V = hn::Vec<D>, class Temper = Untempered<hn::TFromD<D>>>
HWY_INLINE ExpParts<V> ScaledExpParts(D d, V z, const ExpOrigin<V>& origin, const Temper& t = Temper()) {
#if HWY_TARGET == HWY_SCALAR  // whose Max() drops NaN
  const V x = hn::IfThenElse(hn::Lt(z, origin.lowest), origin.lowest, z);
#else
  const V x = hn::Max(origin.lowest, z);
#endif
  const V shifted = hn::MulAdd(x, hn::Set(d, t.steps()), origin.shift);
  return ExpPartsOf(d, t.Remainder(d, x, hn::Sub(shifted, origin.shift)), shifted);
}
template <class D, class V = hn::Vec<D>, class Temper = Untempered<hn::TFromD<D>>>
HWY_INLINE V ScaledExp(D d, V z, const ExpOrigin<V>& origin, const Temper& t = Temper()) {
  return ScaledExpParts(d, z, origin, t).value;
}

// A number as the sum of two: the nearest of its type, or next to it, and what it lacks.
template <class V>
struct TwoParts {
  V high, low;
};

#if LOSSD_HAS_TABLES
// exp(x) of floats in a few bits more than a float has, for losses of entries: what they subtract from it may be next
// to it.
template <int kBits>
struct ExactPowers;
template <>
struct ExactPowers<3> {
  static constexpr float kLn2[] = {0x1.62ep-4f, 0x1.0bfbe8p-18f};  // ln(2)/8; n times the first is exact
  // What the powers of PowerTable lack, in parts of each.
  alignas(32) static constexpr float kLacking[] = {0,
                                                   -0x1.9c0c22p-27f,
                                                   0x1.125002p-25f,
                                                   -0x1.0a3550p-25f,
                                                   0x1.26055cp-26f,
                                                   0x1.67a1cap-28f,
                                                   -0x1.f9c304p-27f,
                                                   -0x1.a5217cp-28f};
  static constexpr float kCoefficients[] = {0.00833397824f, 0.0416702926f, 0.166666672f, 0.5f};
};
template <>
struct ExactPowers<4> {
  static constexpr float kLn2[] = {0x1.62ep-5f, 0x1.0bfbe8p-19f};
  alignas(64) static constexpr float kLacking[] = {0,
                                                   0x1.8d96d4p-25f,
                                                   -0x1.9c0c22p-27f,
                                                   0x1.964904p-25f,
                                                   0x1.125002p-25f,
                                                   0x1.370be4p-25f,
                                                   -0x1.0a3550p-25f,
                                                   -0x1.00d8acp-27f,
                                                   0x1.26055cp-26f,
                                                   -0x1.05cb44p-25f,
                                                   0x1.67a1cap-28f,
                                                   0x1.a3b5e4p-28f,
                                                   -0x1.f9c304p-27f,
                                                   -0x1.6961b4p-28f,
                                                   -0x1.a5217cp-28f,
                                                   0x1.61428ep-28f};
  static constexpr float kCoefficients[] = {0.0416676588f, 0.166670069f, 0.5f};
};

// exp(x) for floats |x| <= 64; for others finite or not, and meaningless. Error: high + low is within 2^-27.7 (2^-26.8
// with a table of 8) of it, relative; high is nearest to their sum.
template <class D, class V = hn::Vec<D>>
HWY_INLINE TwoParts<V> ExpInTwoParts(D d, V x) {
  constexpr int kBits = kTableBits<float>;
  using Powers = ExactPowers<kBits>;
  const hn::RebindToSigned<D> di;
  const hn::RebindToUnsigned<D> du;
  const V shift = hn::Set(d, ExpConstants<float>::kShift);
  const V shifted = hn::MulAdd(x, hn::Set(d, static_cast<float>(kSteps<float> * kLog2E)), shift);
  const V n = hn::Sub(shifted, shift);
  V r = x;
  for (const float part : Powers::kLn2) r = hn::NegMulAdd(n, hn::Set(d, part), r);
  const auto bits = hn::BitCast(di, shifted);
  const auto exponent = hn::ShiftLeft<ExpConstants<float>::kMantissaBits - kBits>(bits);
  const auto place = TablePlace<kBits>(di, bits);
  const auto table = hn::BitCast(di, hn::Load(du, PowerTable<float, kBits>::kBits));
  const auto entry = hn::TableLookupLanes(table, hn::IndicesFromVec(di, place));
  const V lacking = hn::TableLookupLanes(hn::Load(d, Powers::kLacking), hn::IndicesFromVec(d, place));
  const V power = hn::BitCast(d, hn::Add(entry, exponent));
  const V more = hn::Add(hn::MulAdd(hn::Mul(r, r), Polynomial(d, Powers::kCoefficients, r), r), lacking);  // exp(r) - 1
  const V rest = hn::Mul(power, more), high = hn::Add(power, rest);
  return {high, hn::Sub(rest, hn::Sub(high, power))};
}
#endif

// exp(z) for doubles z <= 0, NaN included.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V ExpOfNegative(D d, V z) {
  return hn::Mul(ScaledExp(d, z, OriginOf(d, hn::Zero(d))), hn::Set(d, ExpConstants<double>::kUnscale));
}

// exp(offset + I ln 2 - m), which ScaledExp() leaves out: half a step of I up or down. `base` is m - offset, `shift`
// the origin's; both of T, in double.
template <typename T, class DD, class V = hn::Vec<DD>, class Temper = Untempered<T>>
HWY_INLINE V OriginFactor(DD dd, V base, V shift, const Temper& t = Temper()) {
  using C = ExpConstants<T>;
  const V integer = hn::Sub(hn::Set(dd, double{C::kShift} + double{kExponent<T>}), shift);
  const V r = hn::Neg(t.Remainder(dd, base, integer));
  if constexpr (kTableBits<T> < 3) return ExpOfRemainder(dd, r);
  // |r| <= ln(2)/16: in float, where the exponentials have errors of 3e-8, the series is good to 1.3e-9 after r^4.
  constexpr double kSeries[] = {1.0 / 24, 1.0 / 6, 0.5};
  const V one = hn::Set(dd, 1.0);
  const V q = sizeof(T) == 4 ? Polynomial(dd, kSeries, r) : Polynomial(dd, PowerTable<double, 3>::kCoefficients, r);
  return hn::MulAdd(hn::MulAdd(q, r, one), r, one);
}

// The sum of `count` exponentials exp(x - m) of T but the largest, the scale undone, without what they were too large
// on average: those that a sum of 2^e is made of are between 2^e and 2^e over their number, and half way is near
// enough.
template <typename T, class DD, class V = hn::Vec<DD>>
HWY_INLINE V WithoutDrift(DD dd, V sum, int64_t count) {
  if constexpr (ExpConstants<T>::kDrift == 0) return sum;
  const hn::RebindToUnsigned<DD> du;
  const int half_way = static_cast<int>(std::bit_width(static_cast<uint64_t>(count - 1))) / 2;
  const auto biased = hn::Or(hn::ShiftRight<52>(hn::BitCast(du, sum)), hn::BitCast(du, hn::Set(dd, 0x1p52)));
  const V e = hn::Sub(hn::BitCast(dd, biased), hn::Set(dd, 0x1p52 + ExpConstants<double>::kBias + half_way));
  const V drift = hn::Mul(hn::Min(e, hn::Zero(dd)), hn::Set(dd, ExpConstants<T>::kDrift));
  return hn::Add(sum, hn::Mul(sum, drift));
}
template <typename T>
HWY_INLINE double WithoutDrift(double sum, int64_t count) {
  const hn::CappedTag<double, 1> dd;
  return hn::GetLane(WithoutDrift<T>(dd, hn::Set(dd, sum), count));
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_EXP_INL_H_
