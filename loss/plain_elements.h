// The elements of a tile of plain rows (plain.h): their targets and weights in, losses and predictions out.
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

  // Records what has been decided by now and, if they are asked for, predictions: predicted(row).
  template <typename Predicted>
  void Record(const Predicted& predicted) {
    AddLosses();
    Store(log_sum_exps_, block_.results.log_sum_exp);
    Store(target_log_probabilities_, block_.results.target_log_probability);
    if (!block_.results.predicted_class) return;
    for (int64_t row = 0; row < count_; ++row) {
      const int64_t c = predicted(row);
      StoreElement(block_.results.predicted_class.data, first_ + row, c);
      if (c == targets_[row] && c >= 0) ++block_.summary.correct_count;
    }
  }

 private:
  void ReadTargets();
  void ReadUpstream();
  void AddLosses();
  void Store(const std::array<double, kMaxPlainRows>& values, const MutableTensorView& to) const;

  Block& block_;
  int64_t first_ = 0, count_ = 0;
  int64_t filled_ = 0;  // so many of what is the same for all elements are there
  std::array<int32_t, kMaxPlainRows> targets_;
  std::array<double, kMaxPlainRows> weights_, upstream_, losses_;
  std::array<double, kMaxPlainRows> sample_weights_;                           // if there are any
  std::array<double, kMaxPlainRows> log_sum_exps_, target_log_probabilities_;  // if they are asked for
};

}  // namespace lossd

#endif  // LOSSD_LOSS_PLAIN_ELEMENTS_H_
