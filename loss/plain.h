// The decide step of plain rows: those that have one target each, a class index, and of which nothing is asked for that
// has a value for each class but the logits' gradient. What most batches are, and little else than a few operations a
// row: so a tile of them is decided in vectors. The numbers are, to the bit, those of decide.h. Never allocates, never
// fails, thread-safe.
#ifndef LOSSD_LOSS_PLAIN_H_
#define LOSSD_LOSS_PLAIN_H_

#include <array>
#include <cstdint>

namespace lossd {

// Rows of a tile, at most; arrays by row are so long. They are read in steps of kPlainStep: what is past the last row
// there counts nowhere.
inline constexpr int64_t kMaxPlainRows = 256;
inline constexpr int64_t kPlainStep = 32;
constexpr int64_t RoundUpToStep(int64_t count) { return (count + kPlainStep - 1) / kPlainStep * kPlainStep; }

// What the rows of a tile are decided from besides their logits, and their losses.
struct PlainTargets {
  const int32_t* targets = nullptr;  // -1: counts nowhere, its loss and gradient are 0
  const double* weights = nullptr;   // w_y
  const double* upstream = nullptr;  // Block::Upstream() over the temperature; not read without a gradient
  double point_scale = 1;            // of the weights at y: 1 - e, with label smoothing e
  double background_scale = 0;       // of them in the background: e / C
  double z_loss = 0, focal_gamma = 0, poly_epsilon = 0;
  // What is decided, by row.
  double* losses = nullptr;                    // before sample weight and unit
  double* log_sum_exps = nullptr;              // null if not asked for
  double* target_log_probabilities = nullptr;  // null if not asked for

  bool bends() const { return focal_gamma != 0 || poly_epsilon != 0; }
  bool modifies() const { return bends() || z_loss != 0; }
};

// Rows that have been reduced (row.h).
struct PlainRows {
  std::array<double, kMaxPlainRows> max, others;
  std::array<double, kMaxPlainRows> logits;                      // x_y
  std::array<double, kMaxPlainRows> background, background_dot;  // not read without a background
  // Of the gradient, if that is asked for: Gradient::p_scale, and the entry at y.
  std::array<double, kMaxPlainRows> p_scales, points;
};
// Decides the first `count` rows, from what of them is above.
void DecidePlainRows(int64_t count, bool gradient, const PlainTargets& targets, PlainRows& rows);

}  // namespace lossd

#endif  // LOSSD_LOSS_PLAIN_H_
