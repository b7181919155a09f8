// The vocabulary of lossd: element types, shapes, and non-owning views of tensors.
//
// Everything here is trivially copyable, allocates nothing and depends on nothing but the standard library, so that
// clients can use it too. Enumerators have the numbers of proto/lossd/v1/loss.proto.
#ifndef LOSSD_LOSS_TYPES_H_
#define LOSSD_LOSS_TYPES_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <initializer_list>
#include <span>
#include <string>

namespace lossd {

// Numeric type of a tensor's elements; little-endian, IEEE 754 for the floats.
enum class DataType : uint8_t {
  kUnspecified = 0,
  kFloat32 = 1,
  kFloat64 = 2,
  kFloat16 = 3,
  kBfloat16 = 4,
  kInt8 = 5,
  kInt16 = 6,
  kInt32 = 7,
  kInt64 = 8,
  kUint8 = 9,
  kUint16 = 10,
  kUint32 = 11,
  kBool = 12,
};

// "float32", "int64", ...; "unspecified" for kUnspecified and for values outside the enumeration.
const char* Name(DataType type);

// Bytes of one element; 0 for kUnspecified and for values outside the enumeration.
constexpr int64_t SizeOf(DataType type) {
  switch (type) {
    case DataType::kInt8:
    case DataType::kUint8:
    case DataType::kBool:
      return 1;
    case DataType::kFloat16:
    case DataType::kBfloat16:
    case DataType::kInt16:
    case DataType::kUint16:
      return 2;
    case DataType::kFloat32:
    case DataType::kInt32:
    case DataType::kUint32:
      return 4;
    case DataType::kFloat64:
    case DataType::kInt64:
      return 8;
    case DataType::kUnspecified:
      break;
  }
  return 0;
}

constexpr bool IsFloat(DataType type) { return type >= DataType::kFloat32 && type <= DataType::kBfloat16; }
constexpr bool IsInteger(DataType type) { return type >= DataType::kInt8 && type <= DataType::kUint32; }

// The extents of a tensor's axes, outermost first. Rank 0 is a scalar.
class Shape {
 public:
  static constexpr int kMaxRank = 16;

  constexpr Shape() = default;
  constexpr Shape(std::initializer_list<int64_t> dims) : Shape(std::span<const int64_t>(dims.begin(), dims.size())) {}
  // REQUIRES: dims.size() <= kMaxRank.
  explicit constexpr Shape(std::span<const int64_t> dims) {
    for (int64_t dim : dims) push_back(dim);
  }

  constexpr int rank() const { return rank_; }
  // REQUIRES: 0 <= axis < rank().
  constexpr int64_t operator[](int axis) const { return dims_[axis]; }
  constexpr std::span<const int64_t> dims() const { return {dims_.data(), static_cast<size_t>(rank_)}; }
  // REQUIRES: rank() < kMaxRank.
  constexpr void push_back(int64_t dim) { dims_[rank_++] = dim; }
  // This shape without one axis. REQUIRES: 0 <= axis < rank().
  constexpr Shape Without(int axis) const {
    Shape rest;
    for (int i = 0; i < rank_; ++i) {
      if (i != axis) rest.push_back(dims_[i]);
    }
    return rest;
  }

  friend constexpr bool operator==(const Shape& a, const Shape& b) {
    if (a.rank_ != b.rank_) return false;
    for (int i = 0; i < a.rank_; ++i) {
      if (a.dims_[i] != b.dims_[i]) return false;
    }
    return true;
  }

 private:
  std::array<int64_t, kMaxRank> dims_{};
  int rank_ = 0;
};

// "[1024, 32000]"; "[]" is a scalar.
std::string ToString(const Shape& shape);

// Product of the extents: 1 for a scalar, 0 as soon as one extent is 0. Returns -1 where an extent is negative or
// where the product of the non-zero extents, the number that strides are made of, does not fit int64.
int64_t NumElements(const Shape& shape);

// The type and shape of a tensor whose contents need not exist yet: what a plan is made from.
struct TensorType {
  DataType data_type = DataType::kUnspecified;
  Shape shape;

  // False for an absent tensor, which has no type. (A tensor of no elements is present.)
  explicit constexpr operator bool() const { return data_type != DataType::kUnspecified; }
  friend constexpr bool operator==(const TensorType&, const TensorType&) = default;
};

// Reads a tensor whose bytes do not lie one after the other. Called by one thread at a time, which may be different
// ones: who shares a tensor among calls on several threads gives each a reader, or one that does not mind.
struct PieceReader {
  // Where the bytes [offset, offset + size) do: in their place, unaligned, where they stay as long as the tensor does,
  // or copied to `room`, which has as many. In any order, and more than once.
  const void* (*read)(void* context, int64_t offset, int64_t size, void* room);
  void* context;
};

// A dense, row-major tensor that somebody else owns. `data` need not be aligned.
struct TensorView {
  const void* data = nullptr;
  TensorType type;
  const PieceReader* pieces = nullptr;  // instead of `data`; of logits only, where Plan::reads_pieces says so

  explicit constexpr operator bool() const { return static_cast<bool>(type); }
};

// The same, to be written; `data` is aligned to the element size.
struct MutableTensorView {
  void* data = nullptr;
  TensorType type;

  explicit constexpr operator bool() const { return static_cast<bool>(type); }
};

}  // namespace lossd

#endif  // LOSSD_LOSS_TYPES_H_
