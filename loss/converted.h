// Logits that no kernel reads as they are stored: temperature or softcap change them, or they are not of the type that
// is computed in. A chunk at a time. Internal to loss/.
#ifndef LOSSD_LOSS_CONVERTED_H_
#define LOSSD_LOSS_CONVERTED_H_

#include <cstdint>

#include "loss/modifiers.h"
#include "loss/pointwise.h"
#include "loss/spec.h"
#include "loss/tile.h"

namespace lossd {

class ConvertedLogits {
 public:
  // Both are referred to.
  ConvertedLogits(const TensorView& logits, const CrossEntropy& options)
      : logits_(logits),
        temperature_(options.temperature),
        softcap_(options.softcap),
        modified_(temperature_ != 1 || softcap_ != 0) {}

  // Reads n <= kChunkEntries entries that lie one after the other.
  void Read(int64_t first, int64_t n, ChunkBuffer& x) const {
    Widen(logits_, first, n, x);
    if (modified_) ModifyLogits(x.values, n, temperature_, softcap_, x.values);
  }
  // The gradient of what was read becomes that of the logits, which are read before that may overwrite them.
  void Chain(int64_t first, int64_t n, ChunkBuffer& gradient) const {
    if (!modified_) return;
    ChunkBuffer x;
    Widen(logits_, first, n, x);
    ChainModifiers(x.values, n, temperature_, softcap_, gradient.values);
  }

  // The same for rows.
  template <typename T>
  void Read(const TileRange& range, T* rows) const {
    range.ForEachRun([&](int64_t from, int64_t to, int64_t step, int64_t n) {
      ChunkBuffer x;
      Read(from, n, x);
      CopyToTile(x, step, n, rows + to);
    });
  }
  template <typename T>
  void Chain(const TileRange& range, T* rows) const {
    if (!modified_) return;
    range.ForEachRun([&](int64_t from, int64_t to, int64_t step, int64_t n) {
      ChunkBuffer gradient;
      CopyFromTile(rows + to, step, n, gradient);
      Chain(from, n, gradient);
      CopyToTile(gradient, step, n, rows + to);
    });
  }

 private:
  const TensorView& logits_;
  const double temperature_, softcap_;
  const bool modified_;
};

}  // namespace lossd

#endif  // LOSSD_LOSS_CONVERTED_H_
