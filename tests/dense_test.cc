// Dense probabilities of confident rows: digits that a difference would lose.
#include <gtest/gtest.h>

#include <cmath>
#include <string>

#include "absl/strings/str_cat.h"
#include "tests/batch.h"

namespace lossd {
namespace {

using testing::Batch;
using testing::Outcome;
using testing::OwnedTensor;

Outcome OutcomeOf(const Batch& batch) {
  absl::StatusOr<Outcome> outcome = testing::Evaluate(batch);
  EXPECT_TRUE(outcome.ok()) << outcome.status();
  return *std::move(outcome);
}

// Rows of which most are sure of one class, and now and then it is not the target.
Batch ConfidentRows(DataType type, int64_t num_classes) {
  std::mt19937_64 random(static_cast<uint64_t>(num_classes));
  Batch batch = testing::RandomBatch({.type = type, .outer = {40}, .num_classes = num_classes, .scale = 2}, random);
  for (int64_t row = 0; row < 40; ++row) {
    const auto target = batch.targets.integer(row);
    const int64_t sure = row % 5 == 4 ? (target + 1) % num_classes : target;
    batch.logits.set(row * num_classes + sure, static_cast<double>(row));
  }
  return batch;
}

Batch WithDenseTargets(const Batch& of, DataType type) {
  Batch batch = of;
  const Shape& shape = of.logits.type().shape;
  batch.targets = OwnedTensor({type, shape});
  for (int64_t i = 0; i < batch.targets.size(); ++i) batch.targets.set(i, 0);
  for (int64_t row = 0; row < shape[0]; ++row) {
    batch.targets.set(row * shape[1] + of.targets.integer(row), 1);
  }
  return batch;
}

TEST(DenseTest, OneHotHasTheGradientOfTheIndex) {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64}) {
    const double eps = type == DataType::kFloat32 ? 0x1p-23 : 0x1p-52;
    for (const int64_t num_classes : {2, 10, 200, 1000, 5000}) {
      for (const double z_loss : {0.0, 0.01}) {
        Batch batch = ConfidentRows(type, num_classes);
        batch.spec.loss = CrossEntropy{.z_loss = z_loss};
        batch.spec.outputs = {Output::kLogitsGradient};
        const OwnedTensor by_index = std::move(OutcomeOf(batch).results.logits_gradient);
        const OwnedTensor dense = std::move(OutcomeOf(WithDenseTargets(batch, type)).results.logits_gradient);
        for (int64_t i = 0; i < dense.size(); ++i) {
          const double want = by_index.at(i);
          const double term = z_loss == 0 ? std::fabs(want) : 1.0 / 40;  // z-loss may make a difference of it
          ASSERT_NEAR(dense.at(i), want, 16 * eps * term)
              << Name(type) << ' ' << num_classes << " classes, z " << z_loss << ", entry " << i;
        }
      }
    }
  }
}

TEST(DenseTest, EveryTargetAgreesWithTheTruth) {
  Batch batch = WithDenseTargets(ConfidentRows(DataType::kFloat32, 300), DataType::kBfloat16);
  batch.spec.loss = CrossEntropy{.label_smoothing = 0.1, .z_loss = 0.01, .temperature = 0.7};
  batch.spec.outputs = {Output::kLogitsGradient, Output::kTargetsGradient, Output::kProbabilities};
  EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "");
}

// Where nearly half is elsewhere nobody has looked for the largest.
TEST(DenseTest, TwoThatAreNearlyEqual) {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64}) {
    std::mt19937_64 random(5);
    Batch batch = testing::RandomBatch({.type = type, .outer = {60}, .num_classes = 200, .scale = 2}, random);
    for (int64_t row = 0; row < 60; ++row) {
      batch.logits.set(row * 200 + 150, 40);
      batch.logits.set(row * 200 + 190, 40 - std::ldexp(static_cast<double>(row % 4), -static_cast<int>(row)));
    }
    batch = WithDenseTargets(batch, type);
    batch.spec.loss = CrossEntropy();
    batch.spec.outputs = {Output::kLogitsGradient, Output::kProbabilities};
    EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << Name(type);
  }
}

TEST(DenseTest, ProbabilitiesAreAtMostOne) {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64}) {
    for (const int64_t num_classes : {1, 10, 200, 5000}) {
      Batch batch = ConfidentRows(type, num_classes);
      batch.spec.outputs = {Output::kProbabilities};
      testing::ForEachSimdTarget([&](const char* name) {
        const OwnedTensor probabilities = std::move(OutcomeOf(batch).results.probabilities);
        for (int64_t i = 0; i < probabilities.size(); ++i) ASSERT_LE(probabilities.at(i), 1) << name << ' ' << i;
      });
    }
  }
}

}  // namespace
}  // namespace lossd
