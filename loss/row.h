// The vector steps of a softmax loss, on one row of logits.
//
// Every softmax loss is  loss = T ln d - sum_j t_j (x_j - m) - sum_k h_k (x_k - m)  with
//   m = max x,  d = sum_j exp(x_j - m),  p_j = exp(x_j - m) / d,
//   t_j = w_j (alpha q_j + beta): the background of the target distribution, smooth over the classes (Background),
//   h_k: points of it, on single classes (a class index),  T = sum_j t_j + sum_k h_k.
// so that  dx_j = T p_j - t_j - sum_k h_k [j = k].  ReduceRow() takes the sums, decide.h decides, ScatterRow()
// writes the gradient; only the middle step knows which loss it is.
//
// All functions here: never allocate, never fail, thread-safe; x and the other pointers need no alignment; the result
// depends on the row and the SIMD target only.
#ifndef LOSSD_LOSS_ROW_H_
#define LOSSD_LOSS_ROW_H_

#include <cstdint>

namespace lossd {

// t_j = w_j (alpha q_j + beta). With neither alpha nor beta there is no background, and nothing is read.
template <typename T>
struct Background {
  double alpha = 0;
  const T* probabilities = nullptr;  // q [C]; null: 0
  double beta = 0;
  const T* weights = nullptr;  // w [C]; null: 1
};

// What one pass over a row leaves.
struct RowSums {
  double max = 0;             // m; -inf if nothing is larger
  double others = 0;          // sum over x_j != m of exp(x_j - m); NaN exactly where the row has NaN
  int64_t ties = 0;           // how many x_j are m; 0 where m = -inf
  int64_t argmax = 0;         // lowest j with x_j = m; unspecified where the row has NaN
  double background = 0;      // sum t_j
  double background_dot = 0;  // sum t_j (x_j - m), where 0 * inf is 0
};

// x [num_classes], num_classes >= 1. Sums of a few thousand terms are kept in T, everything above in double.
// One pass: Milakov & Gimelshein, arXiv:1805.02867, by blocks.
RowSums ReduceRow(const float* x, int64_t num_classes, const Background<float>& background);
RowSums ReduceRow(const double* x, int64_t num_classes, const Background<double>& background);

// dx_j = p_scale * exp(x_j - max) - t_scale * t_j. dx [num_classes] may be x. x_j <= max, or NaN.
void ScatterRow(const float* x, int64_t num_classes, double max, double p_scale, double t_scale,
                const Background<float>& background, float* dx);
void ScatterRow(const double* x, int64_t num_classes, double max, double p_scale, double t_scale,
                const Background<double>& background, double* dx);

// y_j = (x_j - max) - log_denominator. y [num_classes] may be x.
void LogSoftmaxRow(const float* x, int64_t num_classes, double max, double log_denominator, float* y);
void LogSoftmaxRow(const double* x, int64_t num_classes, double max, double log_denominator, double* y);

// sum_j exp(x_j - max) (max - x_j), where 0 * inf is 0: d (H(p) - ln d), for the entropy H.
double EntropySum(const float* x, int64_t num_classes, double max);
double EntropySum(const double* x, int64_t num_classes, double max);

}  // namespace lossd

#endif  // LOSSD_LOSS_ROW_H_
