// Tiles: a few rows of a tensor, one after the other in memory and of the type the kernels compute in, whatever the
// tensor's layout and type. Rows that lie so already are used where they are. Internal to loss/.
#ifndef LOSSD_LOSS_TILE_H_
#define LOSSD_LOSS_TILE_H_

#include <cstdint>
#include <cstring>

#include "loss/element.h"
#include "loss/types.h"

namespace lossd {

template <typename T>
inline constexpr DataType kDataTypeOf = DataType::kUnspecified;
template <>
inline constexpr DataType kDataTypeOf<float> = DataType::kFloat32;
template <>
inline constexpr DataType kDataTypeOf<double> = DataType::kFloat64;
template <>
inline constexpr DataType kDataTypeOf<Float16> = DataType::kFloat16;
template <>
inline constexpr DataType kDataTypeOf<Bfloat16> = DataType::kBfloat16;

// Rows [0, count) of a tensor seen as [outer, num_classes, stride]: entry c of row r is element base + c * stride + r,
// or, where stride is 1, element base + r * num_classes + c.
struct TileRange {
  int64_t base;
  int64_t stride;
  int64_t count;
  int64_t num_classes;

  // Calls visit(index in the tensor, index in the tile) for each entry, in the tensor's order.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    if (stride == 1) {
      for (int64_t i = 0; i < count * num_classes; ++i) visit(base + i, i);
      return;
    }
    for (int64_t c = 0; c < num_classes; ++c) {
      for (int64_t r = 0; r < count; ++r) visit(base + c * stride + r, r * num_classes + c);
    }
  }
};

// Copies rows to `rows`.
template <typename T>
void ReadTile(const TensorView& tensor, const TileRange& range, T* rows) {
  if (tensor.type.data_type == kDataTypeOf<T>) {
    range.ForEach([&](int64_t from, int64_t to) { rows[to] = LoadElement<T>(tensor.data, from); });
  } else {
    range.ForEach([&](int64_t from, int64_t to) { rows[to] = FromDouble<T>(FloatAt(tensor, from)); });
  }
}

// Copies rows from `rows`, rounded once to the tensor's type.
template <typename T>
void WriteTile(const T* rows, const TileRange& range, const MutableTensorView& tensor) {
  if (tensor.type.data_type == kDataTypeOf<T>) {
    range.ForEach([&](int64_t to, int64_t from) { StoreElement(tensor.data, to, rows[from]); });
  } else {
    range.ForEach([&](int64_t to, int64_t from) { StoreFloat(tensor, to, rows[from]); });
  }
}

}  // namespace lossd

#endif  // LOSSD_LOSS_TILE_H_
