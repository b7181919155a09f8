#include "client/cpp/verify.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

const std::vector<float> kLogits = {0, 0, 0, 0};
const std::vector<int64_t> kTargets = {0, 1};

// Two rows of equal logits: every loss is ln 2, every gradient entry -1/4 or 1/4.
Batch FlatBatch() {
  Batch batch;
  batch.logits = {kLogits.data(), {DataType::kFloat32, {2, 2}}};
  batch.targets = {kTargets.data(), {DataType::kInt64, {2}}};
  batch.spec.outputs = {Output::kLogitsGradient, Output::kPredictedClass};
  return batch;
}

template <typename T>
Tensor MakeTensor(DataType type, const Shape& shape, const std::vector<T>& values) {
  return Tensor({type, shape}, std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
}

Evaluation Answer(float loss, const std::vector<float>& gradient, const std::vector<int64_t>& predicted_class) {
  Evaluation evaluation;
  evaluation.loss = MakeTensor<float>(DataType::kFloat32, {}, {loss});
  evaluation.summary.weight_sum = 2;
  evaluation.logits_gradient = MakeTensor(DataType::kFloat32, {2, 2}, gradient);
  evaluation.predicted_class =
      MakeTensor(DataType::kInt64, {static_cast<int64_t>(predicted_class.size())}, predicted_class);
  return evaluation;
}

double Worst(const Evaluation& evaluation) {
  absl::StatusOr<std::vector<Difference>> differences = CompareWithReference(FlatBatch(), evaluation);
  EXPECT_TRUE(differences.ok()) << differences.status();
  double worst = 0;
  for (const Difference& difference : *differences) worst = std::max(worst, difference.tolerance_share);
  return worst;
}

TEST(VerifyTest, TellsRightFromWrong) {
  const float ln2 = std::log(2.0f);
  const float nan = std::numeric_limits<float>::quiet_NaN(), infinity = std::numeric_limits<float>::infinity();
  const std::vector<float> gradient = {-0.25f, 0.25f, 0.25f, -0.25f};
  EXPECT_LE(Worst(Answer(ln2, gradient, {0, 0})), 1);
  EXPECT_GT(Worst(Answer(0.694f, gradient, {0, 0})), 1);
  EXPECT_GT(Worst(Answer(nan, gradient, {0, 0})), 1);
  EXPECT_GT(Worst(Answer(infinity, gradient, {0, 0})), 1);
  EXPECT_GT(Worst(Answer(ln2, {-0.25f, 0.25f, 0.25f, -0.26f}, {0, 0})), 1);
  EXPECT_GT(Worst(Answer(ln2, {-0.25f, 0.25f, nan, -0.25f}, {0, 0})), 1);
  EXPECT_GT(Worst(Answer(ln2, gradient, {0, 1})), 1);
  EXPECT_GT(Worst(Answer(ln2, gradient, {0})), 1);
}

TEST(VerifyTest, NamesTheWorstEntry) {
  absl::StatusOr<std::vector<Difference>> differences =
      CompareWithReference(FlatBatch(), Answer(std::log(2.0f), {-0.25f, 0.5f, 0.75f, -0.25f}, {0, 0}));
  ASSERT_TRUE(differences.ok()) << differences.status();
  const Difference& difference = differences->back();
  EXPECT_EQ(difference.field, "logits_gradient");
  EXPECT_EQ(difference.index, 2);
  EXPECT_EQ(difference.answer, 0.75);
  EXPECT_EQ(difference.truth, 0.25);
  EXPECT_EQ(difference.error, 0.5);
}

TEST(VerifyTest, ABatchThatHasNoReferenceIsAnError) {
  Batch batch = FlatBatch();
  batch.targets = {};
  EXPECT_FALSE(CompareWithReference(batch, Evaluation()).ok());
}

}  // namespace
}  // namespace lossd
