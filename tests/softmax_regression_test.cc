#include "client/cpp/softmax_regression.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::ElementsAre;
using ::testing::FloatNear;
using ::testing::Pointwise;

constexpr int64_t kFeatures = 3;
constexpr int64_t kClasses = 2;

// W, row by row, then b, read off the logits of the unit vectors and of zero.
std::vector<float> Parameters(const SoftmaxRegression& model) {
  const std::vector<float> probes = {1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0};
  std::vector<float> logits = model.Logits(probes);
  const std::vector<float> bias(logits.end() - kClasses, logits.end());
  for (size_t i = 0; i + kClasses < logits.size(); ++i) logits[i] -= bias[i % kClasses];
  return logits;
}

TEST(SoftmaxRegressionTest, StartsSmallAndWithoutBias) {
  const SoftmaxRegression model(kFeatures, kClasses, 1);
  const std::vector<float> zeros(kFeatures);
  EXPECT_THAT(model.Logits(zeros), ElementsAre(0, 0));
  bool any = false;
  for (float parameter : Parameters(model)) {
    EXPECT_LT(std::abs(parameter), 0.035f);  // sqrt(12) deviations of 0.01
    any |= parameter != 0;
  }
  EXPECT_TRUE(any);
}

TEST(SoftmaxRegressionTest, TheSeedDecides) {
  EXPECT_EQ(Parameters(SoftmaxRegression(kFeatures, kClasses, 1)),
            Parameters(SoftmaxRegression(kFeatures, kClasses, 1)));
  EXPECT_NE(Parameters(SoftmaxRegression(kFeatures, kClasses, 1)),
            Parameters(SoftmaxRegression(kFeatures, kClasses, 2)));
}

TEST(SoftmaxRegressionTest, AStepIsMomentumSgd) {
  SoftmaxRegression model(kFeatures, kClasses, 1);
  const std::vector<float> before = Parameters(model);
  const std::vector<float> features = {1, 2, 0, 0, 1, 4};     // X, [2, 3]
  const std::vector<float> gradient = {1, -1, 0.5f, -0.25f};  // G, [2, 2]
  // X^T G by hand, then the column sums of G.
  const std::vector<float> slope = {1, -1, 2.5f, -2.25f, 2, -1, 1.5f, -1.25f};
  constexpr float kRate = 0.5f, kMomentum = 0.25f;
  model.Step(features, gradient, kRate, kMomentum);
  model.Step(features, gradient, kRate, kMomentum);
  std::vector<float> want = before;
  for (size_t i = 0; i < want.size(); ++i) want[i] -= (1 + (1 + kMomentum)) * kRate * slope[i];
  EXPECT_THAT(Parameters(model), Pointwise(FloatNear(1e-5f), want));
}

TEST(SoftmaxRegressionTest, NoExamplesIsNoLogits) {
  const SoftmaxRegression model(kFeatures, kClasses, 1);
  EXPECT_TRUE(model.Logits({}).empty());
}

}  // namespace
}  // namespace lossd
