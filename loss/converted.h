// Logits that no kernel reads as they are stored: temperature or softcap change them, or they are not of the type that
// is computed in. A chunk at a time. Internal to loss/.
#ifndef LOSSD_LOSS_CONVERTED_H_
#define LOSSD_LOSS_CONVERTED_H_

#include <algorithm>
#include <cstdint>
#include <type_traits>

#include "loss/modifiers.h"
#include "loss/pointwise.h"
#include "loss/spec.h"
#include "loss/tile.h"

namespace lossd {

class ConvertedLogits {
 public:
  // Both are referred to.
  ConvertedLogits(const TensorView& logits, const CrossEntropy& options)
      : logits_(logits), temperature_(options.temperature), softcap_(options.softcap) {}

  // Reads n <= kChunkEntries entries that lie one after the other.
  void Read(int64_t first, int64_t n, ChunkBuffer& x) const {
    Widen(logits_, first, n, x);
    Modify(x, n, x.values);
  }
  // What is the gradient of what was read, over the temperature, becomes the logits', which are read before they may be
  // overwritten.
  void Chain(int64_t first, int64_t n, ChunkBuffer& gradient) const {
    if (softcap_ == 0) return;
    ChunkBuffer x;
    Widen(logits_, first, n, x);
    ChainSoftcap(x.values, n, temperature_, softcap_, gradient.values);
  }

  // The same for rows.
  template <typename T>
  void Read(const TileRange& range, T* rows) const {
    range.ForEachRun([&](int64_t from, int64_t to, int64_t step, int64_t n) {
      ChunkBuffer x;
      Widen(logits_, from, n, x);
      if constexpr (std::is_same_v<T, double>) {
        if (step == 1) return Modify(x, n, rows + to);
      }
      Modify(x, n, x.values);
      CopyToTile(x, step, n, rows + to);
    });
  }
  template <typename T>
  void Chain(const TileRange& range, T* rows) const {
    if (softcap_ == 0) return;
    range.ForEachRun([&](int64_t from, int64_t to, int64_t step, int64_t n) {
      ChunkBuffer gradient;
      CopyFromTile(rows + to, step, n, gradient);
      Chain(from, n, gradient);
      CopyToTile(gradient, step, n, rows + to);
    });
  }

 private:
  void Modify(const ChunkBuffer& x, int64_t n, double* to) const {
    if (temperature_ != 1 || softcap_ != 0) return ModifyLogits(x.values, n, temperature_, softcap_, to);
    if (to != x.values) std::copy_n(x.values, n, to);
  }

  const TensorView& logits_;
  const double temperature_, softcap_;
};

}  // namespace lossd

#endif  // LOSSD_LOSS_CONVERTED_H_
