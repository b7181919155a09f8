// One element of a tensor at a time, of any type and at any alignment: for the values that a loss reads once a row
// (targets, weights, upstream gradients). Whole rows go through the kernels of row.h.
#ifndef LOSSD_LOSS_ELEMENT_H_
#define LOSSD_LOSS_ELEMENT_H_

#include <bit>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "loss/types.h"

namespace lossd {

// 16 bits of IEEE binary16, or of bfloat16, as they lie in memory.
struct Float16 {
  uint16_t bits;
};
struct Bfloat16 {
  uint16_t bits;
};

template <typename T>
T LoadElement(const void* data, int64_t index) {
  T value;
  std::memcpy(&value, static_cast<const char*>(data) + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T>
void StoreElement(void* data, int64_t index, T value) {
  std::memcpy(static_cast<char*>(data) + index * static_cast<int64_t>(sizeof(T)), &value, sizeof(T));
}

// The value of IEEE binary16 bits, exactly.
inline float FromFloat16(uint16_t bits) {
  const uint32_t sign = static_cast<uint32_t>(bits & 0x8000u) << 16;
  const uint32_t exponent = (bits >> 10) & 0x1fu;
  const uint32_t mantissa = bits & 0x3ffu;
  if (exponent == 0) {  // zero or subnormal: mantissa * 2^-24
    const float magnitude = std::ldexp(static_cast<float>(mantissa), -24);
    return sign != 0 ? -magnitude : magnitude;
  }
  const uint32_t wide = exponent == 31 ? 255u : exponent + 112u;
  return std::bit_cast<float>(sign | (wide << 23) | (mantissa << 13));
}

// The value of bfloat16 bits, exactly.
inline float FromBfloat16(uint16_t bits) { return std::bit_cast<float>(static_cast<uint32_t>(bits) << 16); }

// `value` as a float whose last bit is set if anything was cut off: rounding it again to fewer bits rounds `value`
// once.
inline float RoundToOdd(double value) {
  const auto near = static_cast<float>(value);
  if (static_cast<double>(near) == value || std::isnan(value) || std::isinf(near)) return near;
  const uint32_t bits = std::bit_cast<uint32_t>(near);
  const bool too_far = std::fabs(static_cast<double>(near)) > std::fabs(value);
  return std::bit_cast<float>((too_far ? bits - 1 : bits) | 1u);
}

// The nearest IEEE binary16, ties to even; too large becomes infinity, NaN stays NaN.
inline uint16_t ToFloat16(double exact) {
  const float value = RoundToOdd(exact);
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const auto sign = static_cast<uint16_t>((bits >> 16) & 0x8000u);
  const float magnitude = std::fabs(value);
  if (std::isnan(value)) return sign | 0x7e00u;
  if (magnitude >= 65520.0f) return sign | 0x7c00u;
  if (magnitude < 0x1p-14f) {  // subnormal, or zero: counts of 2^-24
    return static_cast<uint16_t>(sign | static_cast<uint16_t>(std::nearbyint(magnitude * 0x1p24f)));
  }
  const uint32_t rounded = (bits & 0x7fffffffu) + 0xfffu + ((bits >> 13) & 1u);
  return static_cast<uint16_t>(sign | ((rounded - (112u << 23)) >> 13));
}

// The nearest bfloat16, ties to even; NaN stays NaN.
inline uint16_t ToBfloat16(double exact) {
  const float value = RoundToOdd(exact);
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  if (std::isnan(value)) return static_cast<uint16_t>((bits >> 16) | 0x40u);
  return static_cast<uint16_t>((bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16);
}

inline double ToDouble(double value) { return value; }
inline double ToDouble(Float16 value) { return FromFloat16(value.bits); }
inline double ToDouble(Bfloat16 value) { return FromBfloat16(value.bits); }

// The nearest value of type S.
template <typename S>
S FromDouble(double value) {
  return static_cast<S>(value);
}
template <>
inline Float16 FromDouble<Float16>(double value) {
  return {ToFloat16(value)};
}
template <>
inline Bfloat16 FromDouble<Bfloat16>(double value) {
  return {ToBfloat16(value)};
}

// Calls function(std::bool_constant<value>()).
template <typename Function>
constexpr auto WithBool(bool value, const Function& function) {
  return value ? function(std::true_type()) : function(std::false_type());
}

// Calls visit(S{}), S the type of a float tensor's elements. REQUIRES: IsFloat(type).
template <typename Visit>
auto WithFloatType(DataType type, const Visit& visit) {
  switch (type) {
    case DataType::kFloat64:
      return visit(double{});
    case DataType::kFloat16:
      return visit(Float16{});
    case DataType::kBfloat16:
      return visit(Bfloat16{});
    default:
      return visit(float{});
  }
}

// The same for the integer types, and bool. REQUIRES: IsInteger(type) or kBool.
template <typename Visit>
auto WithIntegerType(DataType type, const Visit& visit) {
  switch (type) {
    case DataType::kInt8:
      return visit(int8_t{});
    case DataType::kInt16:
      return visit(int16_t{});
    case DataType::kInt32:
      return visit(int32_t{});
    case DataType::kUint8:
      return visit(uint8_t{});
    case DataType::kUint16:
      return visit(uint16_t{});
    case DataType::kUint32:
      return visit(uint32_t{});
    case DataType::kBool:
      return visit(bool{});
    default:
      return visit(int64_t{});
  }
}

// REQUIRES: IsFloat(tensor.type.data_type), index in range. Every value is exact.
inline double FloatAt(const TensorView& tensor, int64_t index) {
  return WithFloatType(tensor.type.data_type,
                       [&]<typename S>(S) { return ToDouble(LoadElement<S>(tensor.data, index)); });
}

// Stores the nearest value of the tensor's type. REQUIRES: IsFloat(tensor.type.data_type), index in range.
inline void StoreFloat(const MutableTensorView& tensor, int64_t index, double value) {
  WithFloatType(tensor.type.data_type, [&]<typename S>(S) { StoreElement(tensor.data, index, FromDouble<S>(value)); });
}

// Calls function(load), where load(index) is an element as double, exactly: the type is looked at once for many
// elements. REQUIRES: IsFloat(tensor.type.data_type).
template <typename Function>
auto WithFloats(const TensorView& tensor, const Function& function) {
  return WithFloatType(tensor.type.data_type, [&]<typename S>(S) {
    return function([data = tensor.data](int64_t index) { return ToDouble(LoadElement<S>(data, index)); });
  });
}

// Calls function(load), where load(index) is an element as int64: the type is looked at once for many elements.
// REQUIRES: the type is an integer type or bool.
template <typename Function>
auto WithIntegers(const TensorView& tensor, const Function& function) {
  return WithIntegerType(tensor.type.data_type, [&]<typename Integer>(Integer) {
    return function([data = tensor.data](int64_t index) -> int64_t {
      if constexpr (std::is_same_v<Integer, bool>) return LoadElement<uint8_t>(data, index) != 0 ? 1 : 0;
      return LoadElement<Integer>(data, index);
    });
  });
}

// REQUIRES: the type is an integer type or bool, index in range.
inline int64_t IntegerAt(const TensorView& tensor, int64_t index) {
  return WithIntegers(tensor, [index](const auto& load) { return load(index); });
}

}  // namespace lossd

#endif  // LOSSD_LOSS_ELEMENT_H_
