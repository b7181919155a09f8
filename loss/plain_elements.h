// The elements of a tile of plain cross-entropy (plain.h): their targets and weights in, losses and predictions out.
// Internal to loss/.
#ifndef LOSSD_LOSS_PLAIN_ELEMENTS_H_
#define LOSSD_LOSS_PLAIN_ELEMENTS_H_

#include <array>
#include <cstdint>

#include "loss/evaluate.h"
#include "loss/plain.h"

namespace lossd {

class PlainElements {
 public:
  // Whether a batch is plain, if its logits are not modified and it asks for no outputs of every class.
  static bool AreEnough(const Block& block);

  explicit PlainElements(Block& block) : block_(block) {}

  // Reads elements [first, first + count), count <= kMaxPlainRows. What is returned is valid until the next call.
  // `background_scale`: Background::beta.
  PlainTargets Read(int64_t first, int64_t count, double background_scale);

  int32_t target(int64_t row) const { return targets_[row]; }

  // Records their losses, which are there by now, and predictions if they are asked for: predicted(row).
  template <typename Predicted>
  void Record(const Predicted& predicted) {
    block_.AddLosses(first_, {losses_.data(), static_cast<size_t>(count_)});
    if (!block_.results.predicted_class) return;
    for (int64_t row = 0; row < count_; ++row) {
      const int64_t c = predicted(row);
      StoreElement(block_.results.predicted_class.data, first_ + row, c);
      if (c == targets_[row] && c >= 0) ++block_.summary.correct_count;
    }
  }

 private:
  void ReadTargets();

  Block& block_;
  int64_t first_ = 0, count_ = 0;
  int64_t weighed_ = 0;  // so many weights have been filled in
  std::array<int32_t, kMaxPlainRows> targets_;
  std::array<double, kMaxPlainRows> weights_, losses_;
};

}  // namespace lossd

#endif  // LOSSD_LOSS_PLAIN_ELEMENTS_H_
