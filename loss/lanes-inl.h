// Vectors of the type that is computed in, from and to memory of any float type, at any alignment.

// Per-target include guard, as Highway's own -inl headers have.
#if defined(LOSSD_LOSS_LANES_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_LANES_INL_H_
#undef LOSSD_LOSS_LANES_INL_H_
#else
#define LOSSD_LOSS_LANES_INL_H_
#endif

#include <hwy/highway.h>

#include <cstring>
#include <type_traits>

#include "loss/element.h"

#undef LOSSD_AT_LEAST_AVX2
#undef LOSSD_AT_LEAST_AVX3
#define LOSSD_AT_LEAST_AVX3 (HWY_TARGET == HWY_AVX3 || HWY_TARGET == HWY_AVX3_DL)
#define LOSSD_AT_LEAST_AVX2 (HWY_TARGET == HWY_AVX2 || LOSSD_AT_LEAST_AVX3)

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

#if HWY_TARGET == HWY_EMU128  // has its own ideas of NaN and infinity, which nothing here makes good
#error "compile with HWY_BROKEN_EMU128=1: the portable target is HWY_SCALAR"
#endif

// ---- float16 and bfloat16 bits, one in each 32-bit lane ----

// Exact. Highway's own emulation for targets before AVX2 does not know infinity.
template <class DF, class VU>
HWY_INLINE hn::Vec<DF> WidenBits(DF df, VU bits, Float16) {
  const hn::RebindToUnsigned<DF> du;
  const auto sign = hn::ShiftLeft<16>(hn::And(bits, hn::Set(du, 0x8000u)));
  const auto magnitude = hn::ShiftLeft<13>(hn::And(bits, hn::Set(du, 0x7fffu)));
  const auto scaled = hn::Mul(hn::BitCast(df, magnitude), hn::Set(df, 0x1p112f));  // also makes subnormals normal
  const auto special = hn::Ge(scaled, hn::Set(df, 65536.0f));
  const auto wide =
      hn::Or(hn::BitCast(du, scaled), hn::IfThenElseZero(hn::RebindMask(du, special), hn::Set(du, 0x7f800000u)));
  return hn::BitCast(df, hn::Or(wide, sign));
}

template <class DF, class VU>
HWY_INLINE hn::Vec<DF> WidenBits(DF df, VU bits, Bfloat16) {
  return hn::BitCast(df, hn::ShiftLeft<16>(bits));
}

// To nearest, ties to even; too large becomes infinity, NaN stays NaN.
template <class DF, class VU = hn::Vec<hn::RebindToUnsigned<DF>>>
HWY_INLINE VU NarrowBits(DF df, hn::Vec<DF> v, Float16) {
  const hn::RebindToUnsigned<DF> du;
  const auto bits = hn::BitCast(du, v);
  const auto sign = hn::ShiftRight<16>(hn::And(bits, hn::Set(du, 0x80000000u)));
  const auto magnitude = hn::Abs(v);
  const auto wide = hn::BitCast(du, magnitude);
  const auto half_down = hn::Set(du, 0xfffu - (112u << 23));
  const auto odd = hn::And(hn::ShiftRight<13>(wide), hn::Set(du, 1u));
  const auto normal = hn::ShiftRight<13>(hn::Add(hn::Add(wide, half_down), odd));
  // Adding 0.5 moves the last place of a subnormal float16, 2^-24, to that of the float.
  const auto half = hn::Set(df, 0.5f);
  const auto subnormal = hn::Sub(hn::BitCast(du, hn::Add(magnitude, half)), hn::BitCast(du, half));
  const auto small = hn::RebindMask(du, hn::Lt(magnitude, hn::Set(df, 0x1p-14f)));
  const auto large = hn::RebindMask(du, hn::Ge(magnitude, hn::Set(df, 65520.0f)));
  const auto nan = hn::RebindMask(du, hn::IsNaN(v));
  auto result = hn::IfThenElse(small, subnormal, normal);
  result = hn::IfThenElse(large, hn::Set(du, 0x7c00u), result);
  result = hn::IfThenElse(nan, hn::Set(du, 0x7e00u), result);
  return hn::Or(result, sign);
}

// In the upper half of each lane; the lower is what was cut off.
template <bool kMayBeNan = true, class DF, class VU = hn::Vec<hn::RebindToUnsigned<DF>>>
HWY_INLINE VU RoundToBfloat16(DF, hn::Vec<DF> v) {
  const hn::RebindToUnsigned<DF> du;
  auto bits = hn::BitCast(du, v);
  if constexpr (kMayBeNan) bits = hn::IfThenElse(hn::RebindMask(du, hn::IsNaN(v)), hn::Set(du, 0x7fc00000u), bits);
  const auto odd = hn::And(hn::ShiftRight<16>(bits), hn::Set(du, 1u));
  return hn::Add(hn::Add(bits, hn::Set(du, 0x7fffu)), odd);
}

template <class DF, class VU = hn::Vec<hn::RebindToUnsigned<DF>>>
HWY_INLINE VU NarrowBits(DF df, hn::Vec<DF> v, Bfloat16) {
  return hn::ShiftRight<16>(RoundToBfloat16(df, v));
}

template <class S, class D>
HWY_INLINE hn::Vec<D> WidenLanes(D d, hn::Vec<hn::Rebind<uint16_t, D>> bits) {
#if LOSSD_AT_LEAST_AVX2
  if constexpr (std::is_same_v<S, Float16>) return hn::PromoteTo(d, hn::BitCast(hn::Rebind<hwy::float16_t, D>(), bits));
#endif
  return WidenBits(d, hn::PromoteTo(hn::RebindToUnsigned<D>(), bits), S{});
}

// ---- load and store ----

// Lanes(d) elements at p.
template <class D>
HWY_INLINE hn::Vec<D> LoadLanes(D d, const hn::TFromD<D>* p) {
  return hn::LoadU(d, p);
}
template <class D, class S, hwy::EnableIf<sizeof(S) == 2>* = nullptr>
HWY_INLINE hn::Vec<D> LoadLanes(D d, const S* p) {
  return WidenLanes<S>(d, hn::LoadU(hn::Rebind<uint16_t, D>(), reinterpret_cast<const uint16_t*>(p)));
}

// The first n < Lanes(d) elements at p, then `fill`.
template <class D, class S>
HWY_INLINE hn::Vec<D> LoadTail(D d, const S* p, size_t n, S fill = S{}) {
#if LOSSD_AT_LEAST_AVX2
  if constexpr (std::is_same_v<S, hn::TFromD<D>>) {
    const auto mask = hn::FirstN(d, n);
    return hn::IfThenElse(mask, hn::MaskedLoad(mask, d, p), hn::Set(d, fill));
  }
#endif
#if LOSSD_AT_LEAST_AVX3
  if constexpr (sizeof(S) == 2) {
    const hn::Rebind<uint16_t, D> d16;
    const auto mask = hn::FirstN(d16, n);
    const auto bits = hn::MaskedLoad(mask, d16, reinterpret_cast<const uint16_t*>(p));
    return WidenLanes<S>(d, hn::IfThenElse(mask, bits, hn::Set(d16, fill.bits)));
  }
#endif
  HWY_ALIGN S buffer[hn::MaxLanes(d)];
  for (size_t i = n; i < hn::MaxLanes(d); ++i) buffer[i] = fill;
  std::memcpy(static_cast<void*>(buffer), p, n * sizeof(S));
  return LoadLanes(d, buffer);
}

// As S, one rounding away.
template <class S, class D, hwy::EnableIf<sizeof(S) == 2>* = nullptr>
HWY_INLINE hn::Vec<hn::Rebind<uint16_t, D>> NarrowLanes(D d, hn::Vec<D> v) {
  const hn::Rebind<uint16_t, D> d16;
#if LOSSD_AT_LEAST_AVX2
  if constexpr (std::is_same_v<S, Float16>) return hn::BitCast(d16, hn::DemoteTo(hn::Rebind<hwy::float16_t, D>(), v));
#endif
#if LOSSD_AT_LEAST_AVX3
  if constexpr (std::is_same_v<S, Bfloat16> &&
                hn::MaxLanes(D()) == 16) {  // the upper halves, by the one instruction that Highway has no name for
    alignas(64) static constexpr uint16_t kUpper[32] = {1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31};
    const hn::Repartition<uint16_t, D> du16;
    const auto halves = hn::BitCast(du16, RoundToBfloat16(d, v));
    return hn::LowerHalf(hn::Vec<decltype(du16)>{_mm512_permutexvar_epi16(hn::Load(du16, kUpper).raw, halves.raw)});
  }
#endif
  return hn::DemoteTo(d16, hn::BitCast(hn::RebindToSigned<D>(), NarrowBits(d, v, S{})));
}

// Whether two vectors, narrowed to S, are quicker made one.
#if LOSSD_AT_LEAST_AVX3
template <class D, class S>
inline constexpr bool kNarrowsPairs = std::is_same_v<S, Bfloat16>&& hn::MaxLanes(D()) == 16;

// a, then b, as bfloat16.
template <bool kMayBeNan, class D>
HWY_INLINE hn::Vec<hn::Repartition<uint16_t, D>> NarrowPair(D d, hn::Vec<D> a, hn::Vec<D> b) {
  alignas(64) static constexpr uint16_t kUpper[32] = {1,  3,  5,  7,  9,  11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31,
                                                      33, 35, 37, 39, 41, 43, 45, 47, 49, 51, 53, 55, 57, 59, 61, 63};
  const hn::Repartition<uint16_t, D> d16;
  return hn::Vec<decltype(d16)>{_mm512_permutex2var_epi16(
      RoundToBfloat16<kMayBeNan>(d, a).raw, hn::Load(d16, kUpper).raw, RoundToBfloat16<kMayBeNan>(d, b).raw)};
}
#else
template <class D, class S>
inline constexpr bool kNarrowsPairs = false;
#endif

// The first n <= Lanes(d), and zeros.
template <class D, class S>
HWY_INLINE hn::Vec<D> LoadUpTo(D d, const S* p, size_t n) {
  return n == hn::Lanes(d) ? LoadLanes(d, p) : LoadTail(d, p, n);
}

template <class D>
HWY_INLINE void StoreLanes(hn::Vec<D> v, D d, hn::TFromD<D>* p) {
  hn::StoreU(v, d, p);
}
template <class D, class S, hwy::EnableIf<sizeof(S) == 2>* = nullptr>
HWY_INLINE void StoreLanes(hn::Vec<D> v, D d, S* p) {
  hn::StoreU(NarrowLanes<S>(d, v), hn::Rebind<uint16_t, D>(), reinterpret_cast<uint16_t*>(p));
}

// Only the first n < Lanes(d).
template <class D, class S>
HWY_INLINE void StoreTail(hn::Vec<D> v, D d, S* p, size_t n) {
#if LOSSD_AT_LEAST_AVX2
  if constexpr (std::is_same_v<S, hn::TFromD<D>>) return hn::BlendedStore(v, hn::FirstN(d, n), d, p);
#endif
#if LOSSD_AT_LEAST_AVX3
  if constexpr (sizeof(S) == 2) {
    const hn::Rebind<uint16_t, D> d16;
    return hn::BlendedStore(NarrowLanes<S>(d, v), hn::FirstN(d16, n), d16, reinterpret_cast<uint16_t*>(p));
  }
#endif
  HWY_ALIGN S buffer[hn::MaxLanes(d)];
  StoreLanes(v, d, buffer);
  std::memcpy(static_cast<void*>(p), buffer, n * sizeof(S));
}

// Asks for a cache line, for soon but not for now: in the L2 cache it takes no room from what is worked on.
HWY_INLINE void FetchToL2(const void* line) { __builtin_prefetch(line, /*rw=*/0, /*locality=*/2); }

// And for now.
HWY_INLINE void FetchToL1(const void* line) { __builtin_prefetch(line, /*rw=*/0, /*locality=*/3); }

// Past the caches. REQUIRES: p is aligned to the bytes of Lanes(d) elements, which are 16 or more.
template <class D>
HWY_INLINE void StreamLanes(hn::Vec<D> v, D d, hn::TFromD<D>* p) {
  hn::Stream(v, d, p);
}
template <class D, class S, hwy::EnableIf<sizeof(S) == 2>* = nullptr>
HWY_INLINE void StreamLanes(hn::Vec<D> v, D d, S* p) {
  hn::Stream(NarrowLanes<S>(d, v), hn::Rebind<uint16_t, D>(), reinterpret_cast<uint16_t*>(p));
}

// One lane; none if there is no such lane.
template <class D>
HWY_INLINE hn::Mask<D> LaneMask(D d, size_t lane) {
  const hn::RebindToSigned<D> di;
  const auto wanted = hn::Set(di, static_cast<hn::TFromD<decltype(di)>>(lane));
  return hn::RebindMask(d, hn::Eq(hn::Iota(di, 0), wanted));
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_LANES_INL_H_
