// Plain cross-entropy: class indices, no smoothing, nothing that modifies it, no sample weights, one upstream gradient.
// What most batches are, and little else than a few operations a row: so tiles of it are decided in vectors. The
// numbers are, to the bit, those of decide.h. Internal to loss/.
#ifndef LOSSD_LOSS_PLAIN_H_
#define LOSSD_LOSS_PLAIN_H_

#include <array>
#include <cstdint>

#include "loss/evaluate.h"

namespace lossd {

// Rows of a tile, at most; arrays by row are so long. They are read in steps of kPlainStep: what is past the last row
// there counts nowhere.
inline constexpr int64_t kMaxPlainRows = 256;
inline constexpr int64_t kPlainStep = 32;

// What the rows of a tile are decided from besides their logits, and what comes of it.
class PlainElements {
 public:
  // Whether a batch is plain, if it asks for no outputs of every class.
  static bool AreEnough(const Block& block);

  explicit PlainElements(Block& block) : block_(block) {}

  // Reads the targets and weights of elements [first, first + count), count <= kMaxPlainRows.
  void Read(int64_t first, int64_t count);
  // Records their losses and, if they are asked for, predictions: predicted(row).
  template <typename Predicted>
  void Record(const Predicted& predicted) {
    block_.AddLosses(first_, {losses.data(), static_cast<size_t>(count_)});
    if (!block_.results.predicted_class) return;
    for (int64_t row = 0; row < count_; ++row) {
      const int64_t c = predicted(row);
      StoreElement(block_.results.predicted_class.data, first_ + row, c);
      if (c == targets[row] && c >= 0) ++block_.summary.correct_count;
    }
  }

  std::array<int32_t, kMaxPlainRows> targets;  // -1: counts nowhere, its loss and gradient are 0
  std::array<double, kMaxPlainRows> masses;    // w_y
  std::array<double, kMaxPlainRows> losses;    // w_y (-ln p_y)

 private:
  void ReadTargets();

  Block& block_;
  int64_t first_ = 0, count_ = 0;
  int64_t weighed_ = 0;  // so many masses have been filled in
};

// The decide step of rows that have been reduced (row.h), all but the losses' places in PlainElements.
struct PlainRows {
  std::array<double, kMaxPlainRows> max, others;
  std::array<double, kMaxPlainRows> logits;  // x_y
  // Of the gradient, if that is asked for: Gradient::p_scale, and the entry at y.
  std::array<double, kMaxPlainRows> p_scales, points;
};
// From max, others and logits of the first `count` rows to the rest, and to elements.losses.
void DecidePlainRows(int64_t count, double gradient_scale, bool gradient, PlainElements& elements, PlainRows& rows);

}  // namespace lossd

#endif  // LOSSD_LOSS_PLAIN_H_
