// Multinomial logistic regression without a loss: logits = X W + b, and momentum SGD on whatever dL/dlogits it is
// given. The softmax, the loss and its derivative are the server's.
//
//   X [N, D] examples   W [D, C] weights   b [C] bias   G [N, C] dL/dlogits
#ifndef LOSSD_CLIENT_CPP_SOFTMAX_REGRESSION_H_
#define LOSSD_CLIENT_CPP_SOFTMAX_REGRESSION_H_

#include <cstdint>
#include <span>
#include <vector>

namespace lossd {

// Not thread-safe. Computes in float32, in one order: equal calls give equal bits.
class SoftmaxRegression {
 public:
  // W starts nearly normal with standard deviation 0.01 and b at 0, so that the first prediction is nearly uniform and
  // the first cross-entropy nearly ln C. REQUIRES: both sizes > 0.
  SoftmaxRegression(int64_t num_features, int64_t num_classes, uint64_t seed);

  // X W + b, [N, C]. REQUIRES: features.size() is N * D.
  std::vector<float> Logits(std::span<const float> features) const;

  // One step: velocity = momentum * velocity - learning_rate * (X^T G, column sums of G), then (W, b) += velocity.
  // REQUIRES: features.size() is N * D and logits_gradient.size() is N * C, with the N of both the same.
  void Step(std::span<const float> features, std::span<const float> logits_gradient, float learning_rate,
            float momentum);

 private:
  int64_t num_features_;
  int64_t num_classes_;
  std::vector<float> parameters_;  // [D + 1, C]: W, then b as the last row
  std::vector<float> velocity_;    // [D + 1, C]
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_SOFTMAX_REGRESSION_H_
