#include "client/cpp/softmax_regression.h"

#include <cstddef>

#include "client/cpp/random.h"

namespace lossd {
namespace {

constexpr float kInitialDeviation = 0.01f;

// y += a x
void AddScaled(float a, std::span<const float> x, std::span<float> y) {
  for (size_t i = 0; i < x.size(); ++i) y[i] += a * x[i];
}

}  // namespace

SoftmaxRegression::SoftmaxRegression(int64_t num_features, int64_t num_classes, uint64_t seed)
    : num_features_(num_features),
      num_classes_(num_classes),
      parameters_(static_cast<size_t>((num_features + 1) * num_classes)),
      velocity_(parameters_.size()) {
  Random random(seed);
  const size_t num_weights = static_cast<size_t>(num_features * num_classes);
  for (size_t i = 0; i < num_weights; ++i) parameters_[i] = kInitialDeviation * random.Normal();
}

std::vector<float> SoftmaxRegression::Logits(std::span<const float> features) const {
  const size_t D = static_cast<size_t>(num_features_), C = static_cast<size_t>(num_classes_);
  const size_t N = features.size() / D;
  const std::span<const float> W = parameters_;
  const std::span<const float> b = W.subspan(D * C);
  std::vector<float> logits(N * C);
  for (size_t n = 0; n < N; ++n) {
    const std::span<float> row = std::span(logits).subspan(n * C, C);
    AddScaled(1.0f, b, row);
    for (size_t d = 0; d < D; ++d) AddScaled(features[n * D + d], W.subspan(d * C, C), row);
  }
  return logits;
}

void SoftmaxRegression::Step(std::span<const float> features, std::span<const float> logits_gradient,
                             float learning_rate, float momentum) {
  const size_t D = static_cast<size_t>(num_features_), C = static_cast<size_t>(num_classes_);
  const size_t N = features.size() / D;
  const std::span<float> velocity = velocity_;
  for (float& v : velocity) v *= momentum;
  for (size_t n = 0; n < N; ++n) {
    const std::span<const float> gradient = logits_gradient.subspan(n * C, C);
    for (size_t d = 0; d < D; ++d) {
      AddScaled(-learning_rate * features[n * D + d], gradient, velocity.subspan(d * C, C));
    }
    AddScaled(-learning_rate, gradient, velocity.subspan(D * C));
  }
  AddScaled(1.0f, velocity, parameters_);
}

}  // namespace lossd
