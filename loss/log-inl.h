// ln and ln(1 + x) for vectors: the only ones of lossd. Those of doubles first; those of floats, at the end, are for
// losses of entries.
//
// x = 2^k m with m in [sqrt(1/2), sqrt(2)), f = m - 1, s = f / (2 + f). Then ln(1 + f) = 2 atanh(s) = f - s (f - R),
// R = s^2 P(s^2), where P is a minimax polynomial (Remez; it gives the logarithm a relative error of 1.3e-18). The
// decomposition, and f^2/2 taken apart so that f itself is added last, are fdlibm's (e_log.c, s_log1p.c).
//
// Error: at most 1 unit in the last place (tests/pointwise_test.cc); the largest among 15 million arguments is 0.86 for
// Log() and 0.83 for Log1p(), with and without fused multiply-add.

// Per-target include guard, as Highway's own -inl headers have.
#if defined(LOSSD_LOSS_LOG_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_LOG_INL_H_
#undef LOSSD_LOSS_LOG_INL_H_
#else
#define LOSSD_LOSS_LOG_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>
#include <limits>

#include "loss/exp-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

struct LogConstants {
  static constexpr uint64_t kSqrtHalf = 0x3fe6a09e00000000;  // the bits of m's lower end, rounded
  static constexpr uint64_t kOne = 0x3ff0000000000000;
  static constexpr uint64_t kMantissa = 0x000fffffffffffff;
  static constexpr uint64_t kTwo52 = 0x4330000000000000;  // the bits of 2^52: an integer below it, as a double
  static constexpr double kLn2High = 0x1.62e42feep-1;     // 33 bits: k * kLn2High is exact
  static constexpr double kLn2Low = 1.90821492927058770002e-10;
  static constexpr double kCoefficients[] = {
      0.14796247872019728506, 0.15314025856862133269, 0.18183565084162334934, 0.22222198562740902577,
      0.28571428742447480223, 0.39999999999414604319, 0.66666666666667343932,
  };
};

// x = 2^k m.
template <class V>
struct Binade {
  V k, m;
};

// REQUIRES: x positive and normal; for other values k and m are finite, and mean nothing.
template <class D, class V = hn::Vec<D>>
HWY_INLINE Binade<V> BinadeOf(D d, V x) {
  using C = LogConstants;
  const hn::RebindToUnsigned<D> du;
  const auto moved = hn::Add(hn::BitCast(du, x), hn::Set(du, C::kOne - C::kSqrtHalf));
  const auto mantissa = hn::Add(hn::And(moved, hn::Set(du, C::kMantissa)), hn::Set(du, C::kSqrtHalf));
  const auto exponent = hn::Or(hn::ShiftRight<52>(moved), hn::Set(du, C::kTwo52));
  return {hn::Sub(hn::BitCast(d, exponent), hn::Set(d, 0x1p52 + 1023)), hn::BitCast(d, mantissa)};
}

// s = f / (2 + f), for f in [sqrt(1/2) - 1, sqrt(2) - 1].
template <class D, class V = hn::Vec<D>>
HWY_INLINE V AtanhArgument(D d, V f) {
  return hn::Div(f, hn::Add(hn::Set(d, 2.0), f));
}

// The logarithm k ln 2 + ln(1 + f) + tiny, where tiny is of the size of the last place. s = AtanhArgument(f), to a few
// units.
template <class V>
struct LogParts {
  V k, f, s, tiny;
};
template <class D, class V = hn::Vec<D>>
HWY_INLINE V LogOfParts(D d, const LogParts<V>& parts) {
  using C = LogConstants;
  const auto [k, f, s, tiny] = parts;
  const V z = hn::Mul(s, s);
  const auto c = [&](size_t i) HWY_ATTR { return hn::Set(d, C::kCoefficients[i]); };
  const V zz = hn::Mul(z, z);
  const V even = hn::MulAdd(hn::MulAdd(hn::MulAdd(c(0), zz, c(2)), zz, c(4)), zz, c(6));
  const V odd = hn::MulAdd(hn::MulAdd(c(1), zz, c(3)), zz, c(5));
  const V p = hn::MulAdd(odd, z, even);
  const V half_square = hn::Mul(hn::Mul(f, hn::Set(d, 0.5)), f);
  const V low = hn::MulAdd(s, hn::MulAdd(p, z, half_square), hn::MulAdd(k, hn::Set(d, C::kLn2Low), tiny));
  return hn::MulAdd(k, hn::Set(d, C::kLn2High), hn::Sub(f, hn::Sub(half_square, low)));
}

// ln x. REQUIRES: x positive, finite and normal; for other values the result is finite, and means nothing.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V LogOfNormal(D d, V x) {
  const Binade<V> b = BinadeOf(d, x);
  const V f = hn::Sub(b.m, hn::Set(d, 1.0));
  return LogOfParts<D>(d, {b.k, f, AtanhArgument(d, f), hn::Zero(d)});
}

// ln x. -inf at 0, +inf at +inf, NaN below 0 and at NaN; subnormal numbers are as exact as others.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log(D d, V x) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const V zero = hn::Zero(d), inf = hn::Set(d, kInf), one = hn::Set(d, 1.0);
  const auto subnormal = hn::Lt(x, hn::Set(d, std::numeric_limits<double>::min()));
  const Binade<V> b = BinadeOf(d, hn::IfThenElse(subnormal, hn::Mul(x, hn::Set(d, 0x1p54)), x));
  const V k = hn::Sub(b.k, hn::IfThenElseZero(subnormal, hn::Set(d, 54.0)));
  const V f = hn::Sub(b.m, one);
  const V result = LogOfParts<D>(d, {k, f, AtanhArgument(d, f), zero});
  const V nan = hn::Set(d, std::numeric_limits<double>::quiet_NaN());
  const V limit = hn::IfThenElse(hn::Eq(x, zero), hn::Set(d, -kInf), hn::IfThenElse(hn::Eq(x, inf), inf, nan));
  return hn::IfThenElse(hn::And(hn::Gt(x, zero), hn::Lt(x, inf)), result, limit);
}

// ln(1 + x) for x >= 0, +inf included; NaN stays NaN. Below sqrt(2) - 1, f is x itself; above, 1 + x is rounded and
// what it lost comes back as the derivative, 1/u times it: 1/m = (1 - s) / (1 + s) = 1 - 2 s + 2 s^2 to 1 %.
template <class D, class V = hn::Vec<D>>
HWY_INLINE LogParts<V> Log1pParts(D d, V x) {
  using C = LogConstants;
  const hn::RebindToUnsigned<D> du;
  const V one = hn::Set(d, 1.0);
  const V u = hn::Add(x, one);
  const V larger = hn::Max(x, one), smaller = hn::Min(x, one);
  const V lost = hn::Sub(smaller, hn::Sub(u, larger));
  const Binade<V> b = BinadeOf(d, u);
  const auto small = hn::Lt(x, hn::Set(d, 0.41421356237309503));
  const V f = hn::IfThenElse(small, x, hn::Sub(b.m, one));
  const V s = AtanhArgument(d, f);
  // m / u, a power of two, from the exponents. Far beyond 2^53 nothing that matters is lost.
  const auto power = hn::Sub(hn::Add(hn::BitCast(du, b.m), hn::Set(du, C::kOne)), hn::BitCast(du, u));
  const auto scale = hn::BitCast(d, power);
  const V inverse = hn::MulAdd(hn::Sub(s, one), hn::Add(s, s), one);
  const auto matters = hn::AndNot(small, hn::Lt(x, hn::Set(d, 0x1p60)));
  const V tiny = hn::IfThenElseZero(matters, hn::Mul(lost, hn::Mul(scale, inverse)));
  return {hn::IfThenZeroElse(small, b.k), f, s, tiny};
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1pOfParts(D d, V x, const LogParts<V>& parts) {
  return hn::IfThenElse(hn::Lt(x, hn::Set(d, std::numeric_limits<double>::infinity())), LogOfParts<D>(d, parts), x);
}
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1p(D d, V x) {
  return Log1pOfParts(d, x, Log1pParts(d, x));
}

// What the logistic function of x is made of, from e = exp(-|x|).
template <class V>
struct Logistic {
  V log1p;       // ln(1 + e)
  V reciprocal;  // 1 / (1 + e), the sigmoid of |x|
};

// REQUIRES: e in [0, 1]. Log1p() for these, where 1 + e is below 2, and its division shared: 1/(u v) is enough for
// both.
template <class D, class V = hn::Vec<D>>
HWY_INLINE Logistic<V> LogisticOf(D d, V e) {
  const V one = hn::Set(d, 1.0);
  const auto small = hn::Lt(e, hn::Set(d, 0.41421356237309503));
  const V f = hn::IfThenElse(small, e, hn::Mul(hn::Sub(e, one), hn::Set(d, 0.5)));
  const V u = hn::Add(e, one), v = hn::Add(f, hn::Set(d, 2.0));
  const V both = hn::Div(one, hn::Mul(u, v));
  const V k = hn::IfThenZeroElse(small, one);
  return {LogOfParts<D>(d, {k, f, hn::Mul(f, hn::Mul(both, u)), hn::Zero(d)}), hn::Mul(both, v)};
}

#if LOSSD_HAS_TABLES
// x = 2^k m again, with m from about 0.7; a table of 2^b intervals has a short number q next to 1/m for each of them,
// so that f = m q - 1 is exact, and small. It is 1 around 1. ln x = k ln 2 - ln q + ln(1 + f).
template <int kBits>
struct LogTable;
template <>
struct LogTable<3> {
  static constexpr uint32_t kLeast = 0x3f380000;  // the bits of m's lower end
  alignas(32) static constexpr float kInverse[] = {1.3125f, 1.25f, 1.125f, 1.0625f, 1, 0.875f, 0.8125f, 0.71875f};
  // -ln q: multiples of 2^-16, and the rest.
  alignas(32) static constexpr float kHigh[] = {-0x1.1674p-2f, -0x1.c9p-3f, -0x1.e27p-4f, -0x1.f0ap-5f, 0,
                                                0x1.1178p-3f,  0x1.a94p-3f, 0x1.522cp-2f};
  alignas(32) static constexpr float kLow[] = {
      -0x1.cababap-18f, 0x1.070cacp-20f,  -0x1.db8abcp-22f, -0x1.86008cp-20f, 0,
      0x1.d044fcp-20f,  -0x1.2c3752p-19f, -0x1.1f8c76p-18f};
  static constexpr float kCoefficients[] = {0.144145027f,  -0.167858005f, 0.19999525f,
                                            -0.249996603f, 0.333333343f,  -0.5f};
};
template <>
struct LogTable<4> {
  static constexpr uint32_t kLeast = 0x3f340000;
  alignas(64) static constexpr float kInverse[] = {1.375f,   1.34375f,  1.28125f,  1.21875f, 1.1875f, 1.15625f,
                                                   1.09375f, 1.0625f,   1.03125f,  1,        0.9375f, 0.890625f,
                                                   0.84375f, 0.796875f, 0.765625f, 0.71875f};
  alignas(64) static constexpr float kHigh[] = {-0x1.4618p-2f, -0x1.2e9p-2f, -0x1.fb9p-3f, -0x1.9528p-3f, -0x1.5ffp-3f,
                                                -0x1.2958p-3f, -0x1.6f1p-4f, -0x1.f0ap-5f, -0x1.f84p-6f,  0,
                                                0x1.086p-4f,   0x1.da7p-4f,  0x1.5bf8p-3f, 0x1.d1p-3f,    0x1.1178p-2f,
                                                0x1.522cp-2f};
  alignas(64) static constexpr float kLow[] = {
      -0x1.78438cp-19f, 0x1.d451eep-18f, -0x1.86d5e4p-19f, 0x1.2b185ep-18f, -0x1.83853cp-18f,
      0x1.683f00p-18f,  0x1.6ba8d4p-19f, -0x1.86008cp-20f, 0x1.64f188p-18f, 0,
      -0x1.9d2988p-18f, 0x1.3b1c22p-19f, -0x1.fca55ep-18f, 0x1.bf932ap-18f, 0x1.d044fcp-19f,
      -0x1.1f8c76p-18f};
  static constexpr float kCoefficients[] = {-0.166968748f, 0.200249016f, -0.249999776f, 0.333333224f, -0.5f};
};

// ln x of floats as high + f + tail, a few bits more than a float has: a loss of entries is about how little ln x and
// another number differ. high is a multiple of 2^-16, tail below 2^-8.
template <class V>
struct FloatLog {
  V high, f, tail;
};

// REQUIRES: x positive, finite and normal. Error: within 2^-28 (2^-27 with a table of 8) of ln x, relative.
template <class D, class V = hn::Vec<D>>
HWY_INLINE FloatLog<V> LogOfFloat(D d, V x) {
  constexpr int kBits = kTableBits<float>;
  using Table = LogTable<kBits>;
  const hn::RebindToSigned<D> di;
  const auto least = hn::Set(di, static_cast<int32_t>(Table::kLeast));
  const auto moved = hn::Sub(hn::BitCast(di, x), least);
  const V k = hn::ConvertTo(d, hn::ShiftRight<23>(moved));
  const V m = hn::BitCast(d, hn::Add(hn::And(moved, hn::Set(di, 0x007fffff)), least));
  const auto place = hn::IndicesFromVec(d, TablePlace<kBits>(di, hn::ShiftRight<23 - kBits>(moved)));
  const V f = hn::MulSub(m, hn::TableLookupLanes(hn::Load(d, Table::kInverse), place), hn::Set(d, 1.0f));
  // ln 2 in 16 bits, so that k times it, and kHigh added, is exact; and the rest.
  const V high = hn::MulAdd(k, hn::Set(d, 0x1.62e4p-1f), hn::TableLookupLanes(hn::Load(d, Table::kHigh), place));
  const V low = hn::MulAdd(k, hn::Set(d, 0x1.7f7d1cp-20f), hn::TableLookupLanes(hn::Load(d, Table::kLow), place));
  return {high, f, hn::MulAdd(hn::Mul(f, f), Polynomial(d, Table::kCoefficients, f), low)};
}

// ln(1 + x) for floats x in [0, 1]: x + x^2 P(x), minimax. Error: within 2.5 units in the last place.
template <class D, class V = hn::Vec<D>>
HWY_INLINE V Log1pToOne(D d, V x) {
  constexpr float kCoefficients[] = {-0.00331847393f, 0.0202045888f, -0.0576644465f, 0.106805556f, -0.153553963f,
                                     0.196953997f,    -0.249585867f, 0.33330512f,    -0.499999315f};
  // Even and odd powers apart: half as long a chain of operations.
  const V xx = hn::Mul(x, x);
  const auto c = [&](size_t i) HWY_ATTR { return hn::Set(d, kCoefficients[i]); };
  const V even = hn::MulAdd(hn::MulAdd(hn::MulAdd(hn::MulAdd(c(0), xx, c(2)), xx, c(4)), xx, c(6)), xx, c(8));
  const V odd = hn::MulAdd(hn::MulAdd(hn::MulAdd(c(1), xx, c(3)), xx, c(5)), xx, c(7));
  return hn::MulAdd(xx, hn::MulAdd(odd, x, even), x);
}
#endif

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_LOG_INL_H_
