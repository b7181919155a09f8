// Tiles: a few rows of a tensor, one after the other in memory and of the type the kernels compute in, whatever the
// tensor's layout and type. Rows that lie so already are used where they are. Internal to loss/.
#ifndef LOSSD_LOSS_TILE_H_
#define LOSSD_LOSS_TILE_H_

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "loss/element.h"
#include "loss/pointwise.h"
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

  // Calls visit(from, to, step, n) for runs of n <= kChunkEntries entries that lie one after the other in the tensor,
  // from index `from` on; in the tile they are `step` apart, from `to` on.
  template <typename Visit>
  void ForEachRun(const Visit& visit) const {
    const bool rows = stride == 1;
    const int64_t size = rows ? count * num_classes : count;
    for (int64_t c = 0; c < (rows ? 1 : num_classes); ++c) {
      for (int64_t i = 0; i < size; i += kChunkEntries) {
        const int64_t step = rows ? 1 : num_classes;
        visit(base + c * stride + i, c + i * step, step, std::min(kChunkEntries, size - i));
      }
    }
  }

  // Calls visit(index in the tensor, index in the tile) for each entry, in the tensor's order.
  template <typename Visit>
  void ForEach(const Visit& visit) const {
    ForEachRun([&visit](int64_t from, int64_t to, int64_t step, int64_t n) {
      for (int64_t i = 0; i < n; ++i) visit(from + i, to + i * step);
    });
  }
};

// Entries of a tile that are `step` apart, to a chunk and back.
template <typename T>
void CopyFromTile(const T* tile, int64_t step, int64_t n, ChunkBuffer& chunk) {
  if constexpr (std::is_same_v<T, double>) {
    if (step == 1) return std::copy_n(tile, n, chunk.values), void();
  }
  for (int64_t i = 0; i < n; ++i) chunk.values[i] = ToDouble(tile[i * step]);
}
template <typename T>
void CopyToTile(const ChunkBuffer& chunk, int64_t step, int64_t n, T* tile) {
  if constexpr (std::is_same_v<T, double>) {
    if (step == 1) return std::copy_n(chunk.values, n, tile), void();
  }
  for (int64_t i = 0; i < n; ++i) tile[i * step] = FromDouble<T>(chunk.values[i]);
}

// Copies rows to `rows`.
template <typename T>
void ReadTile(const TensorView& tensor, const TileRange& range, T* rows) {
  if (tensor.type.data_type == kDataTypeOf<T>) {
    range.ForEach([&](int64_t from, int64_t to) { rows[to] = LoadElement<T>(tensor.data, from); });
  } else {
    range.ForEachRun([&](int64_t from, int64_t to, int64_t step, int64_t n) {
      ChunkBuffer chunk;
      Widen(tensor, from, n, chunk);
      CopyToTile(chunk, step, n, rows + to);
    });
  }
}

// Copies rows from `rows`, rounded once to the tensor's type.
template <typename T>
void WriteTile(const T* rows, const TileRange& range, const MutableTensorView& tensor) {
  if (tensor.type.data_type == kDataTypeOf<T>) {
    range.ForEach([&](int64_t to, int64_t from) { StoreElement(tensor.data, to, rows[from]); });
  } else {
    range.ForEachRun([&](int64_t to, int64_t from, int64_t step, int64_t n) {
      ChunkBuffer chunk;
      CopyFromTile(rows + from, step, n, chunk);
      Narrow(chunk, n, false, tensor, to);
    });
  }
}

// Classes that lie far apart are many streams for the hardware, each touched for a moment: so what is read a few
// classes later, or by then in the next tile, is asked for now.
template <typename S>
void FetchClassesAhead(const S* x, int64_t c, const TileRange& range) {
  constexpr int64_t kClasses = 8, kLine = 64;
  const int64_t ahead = c + kClasses, tile = ahead >= range.num_classes ? 1 : 0;
  const S* from = x + (ahead - tile * range.num_classes) * range.stride + tile * range.count;
  if (ahead - tile * range.num_classes >= range.num_classes) return;
  const char* const bytes = reinterpret_cast<const char*>(from);
  for (int64_t i = 0; i < range.count * static_cast<int64_t>(sizeof(S)); i += kLine) __builtin_prefetch(bytes + i);
}

}  // namespace lossd

#endif  // LOSSD_LOSS_TILE_H_
