// Cross-entropy at its edges, on every compiled SIMD target. Its breadth is family_test.cc.
#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "absl/strings/str_cat.h"
#include "loss/loss.h"
#include "tests/batch.h"

namespace lossd {
namespace {

using testing::Batch;
using testing::BatchOptions;
using testing::Outcome;
using testing::OwnedTensor;

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();
constexpr double kSmallest = std::numeric_limits<float>::denorm_min();
const OutputSet kAllOutputs = {Output::kLogitsGradient, Output::kElementLoss, Output::kPredictedClass};

Outcome MustEvaluate(const Batch& batch) {
  absl::StatusOr<Outcome> outcome = testing::Evaluate(batch);
  EXPECT_TRUE(outcome.ok()) << outcome.status();
  return *std::move(outcome);
}

// A batch of one row, or several, of class indices.
Batch Rows(const std::vector<float>& logits, const std::vector<int64_t>& targets) {
  const auto count = static_cast<int64_t>(targets.size());
  const int64_t num_classes = static_cast<int64_t>(logits.size()) / count;
  Batch batch;
  batch.spec.outputs = kAllOutputs;
  batch.logits = OwnedTensor::Floats({count, num_classes}, logits);
  batch.targets = OwnedTensor::Indices({count}, targets);
  return batch;
}

TEST(EvaluateTest, EveryIntegerTypeOfTargets) {
  for (DataType type : {DataType::kInt8, DataType::kInt16, DataType::kInt32, DataType::kInt64, DataType::kUint8,
                        DataType::kUint16, DataType::kUint32}) {
    std::mt19937_64 random(2);
    Batch batch = testing::RandomBatch({.target_type = type, .outer = {9}, .num_classes = 130}, random);
    batch.spec.outputs = kAllOutputs;
    EXPECT_EQ(testing::CompareWithReference(batch, MustEvaluate(batch)), "") << Name(type);
  }
}

TEST(EvaluateTest, RowsOfSeveralBlocks) {
  testing::ForEachSimdTarget([](const char* target) {
    for (int64_t num_classes : {4095, 4096, 4097, 12345}) {
      for (double smoothing : {0.0, 0.1}) {
        std::mt19937_64 random(3);
        Batch batch = testing::RandomBatch({.num_classes = num_classes, .class_weights = true}, random);
        std::get<CrossEntropy>(batch.spec.loss).label_smoothing = smoothing;
        batch.spec.outputs = kAllOutputs;
        EXPECT_EQ(testing::CompareWithReference(batch, MustEvaluate(batch)), "") << target << ' ' << num_classes;
      }
    }
  });
}

TEST(EvaluateTest, UpstreamGradientPerElement) {
  std::mt19937_64 random(4);
  Batch batch = testing::RandomBatch({.outer = {3}, .inner = {5}}, random);
  batch.spec.reduction = Reduction::kNone;
  batch.spec.outputs = kAllOutputs;
  batch.upstream_gradient = OwnedTensor({DataType::kFloat32, Shape{3, 5}});
  for (int64_t i = 0; i < 15; ++i) batch.upstream_gradient.set(i, static_cast<double>(i) - 2);  // one of them is 0
  EXPECT_EQ(testing::CompareWithReference(batch, MustEvaluate(batch)), "");
}

TEST(EvaluateTest, GradientMayOverwriteTheLogits) {
  std::mt19937_64 random(5);
  Batch batch = testing::RandomBatch({.outer = {6}, .num_classes = 501}, random);
  batch.spec.outputs = {Output::kLogitsGradient};
  const Outcome apart = MustEvaluate(batch);
  Results in_place;
  OwnedTensor loss(apart.results.loss.type());
  in_place.loss = loss.mutable_view();
  in_place.logits_gradient = {batch.logits.data(), batch.logits.type()};
  OwnedTensor scratch({DataType::kInt8, Shape{apart.plan.scratch_bytes}});
  std::vector<BlockSummary> blocks(static_cast<size_t>(apart.plan.num_blocks));
  EvaluateBlocks(apart.plan, batch.inputs(), apart.weights, {0, apart.plan.num_blocks}, in_place, scratch.data(),
                 blocks);
  EXPECT_EQ(batch.logits.Bits(), apart.results.logits_gradient.Bits());
}

// ---- values at the edges (docs/numerics.md) ----

TEST(EvaluateTest, LargeCommonOffset) {
  for (float offset : {1e4f, 1e8f, -1e8f, 1e30f}) {
    const Outcome outcome = MustEvaluate(Rows({offset, offset}, {0}));
    EXPECT_NEAR(outcome.results.loss.at(0), std::log(2.0), 1e-7) << offset;
  }
}

TEST(EvaluateTest, ConfidentRowsKeepTheirPrecision) {
  testing::ForEachSimdTarget([](const char* target) {
    for (int gap = 1; gap <= 100; ++gap) {
      // 0.3 and 0.3 + gap: their difference is not a float.
      const float top = 0.3f + static_cast<float>(gap);
      const Outcome outcome = MustEvaluate(Rows({0.3f, top, 0.3f, 0.3f, 0.3f}, {1}));
      const double rest = 4 * std::exp(double{0.3f} - double{top});
      const double want = std::log1p(rest);
      // Below 1e-38 the output type itself has fewer digits.
      EXPECT_NEAR(outcome.results.loss.at(0), want, 1e-6 * want + kSmallest) << target << " gap " << gap;
      const double others = rest / (1 + rest);
      EXPECT_NEAR(outcome.results.logits_gradient.at(1), -others, 1e-6 * others + kSmallest) << target << ' ' << gap;
    }
  });
}

TEST(EvaluateTest, GapsBeyondTheRangeOfExp) {
  const Outcome outcome = MustEvaluate(Rows({1000, 0, -1000}, {2}));
  EXPECT_EQ(outcome.results.loss.at(0), 2000);
  EXPECT_EQ(outcome.results.logits_gradient.at(2), -1);
  EXPECT_EQ(outcome.results.logits_gradient.at(0), 1);
}

TEST(EvaluateTest, OneFiniteLogitAmongInfinities) {
  testing::ForEachSimdTarget([](const char* target) {
    constexpr int64_t kClasses = 9000;
    for (int64_t place : {0, 1, 15, 16, 4095, 4096, 8191, 8999}) {
      std::vector<float> logits(kClasses, -kInf);
      logits[static_cast<size_t>(place)] = 5;
      const Outcome outcome = MustEvaluate(Rows(logits, {place}));
      EXPECT_EQ(outcome.results.loss.at(0), 0) << target << ' ' << place;
      EXPECT_EQ(outcome.results.predicted_class.integer(0), place) << target;
      EXPECT_EQ(outcome.summary.nonfinite_count, 0) << target;
      for (int64_t j = 0; j < kClasses; ++j) ASSERT_EQ(outcome.results.logits_gradient.at(j), 0) << target << ' ' << j;
    }
  });
}

struct NonfiniteCase {
  const char* name;
  std::vector<float> logits;
  int64_t target;
  double loss;
  bool gradient_is_nan;
  int64_t predicted;
};

TEST(EvaluateTest, NonfiniteRows) {
  const NonfiniteCase cases[] = {
      {"NaN", {1, kNan, 2, 3}, 0, kNan, true, -1},
      {"NaN at the target", {1, kNan, 2, 3}, 1, kNan, true, -1},
      {"NaN behind -inf", {-kInf, kNan, -kInf, -kInf}, 0, kNan, true, -1},
      {"+inf", {1, kInf, 2, 3}, 0, kNan, true, 1},
      {"+inf at the target", {1, kInf, 2, 3}, 1, kNan, true, 1},
      {"all -inf", {-kInf, -kInf, -kInf, -kInf}, 0, kNan, true, 0},
      {"target -inf", {0, -kInf, 0, -kInf}, 1, kInf, false, 0},
  };
  // A good row before and after: they must not notice.
  const auto evaluate = [](const std::vector<float>& middle, int64_t target) {
    std::vector<float> logits = {1, 2, 3, 4};
    logits.insert(logits.end(), middle.begin(), middle.end());
    logits.insert(logits.end(), {4, 3, 2, 1});
    Batch batch = Rows(logits, {3, target, 0});
    batch.spec.reduction = Reduction::kNone;
    return MustEvaluate(batch);
  };
  testing::ForEachSimdTarget([&](const char* target) {
    const Outcome good = evaluate({0, 0, 0, 0}, 0);
    for (const NonfiniteCase& test : cases) {
      const Outcome outcome = evaluate(test.logits, test.target);
      const OwnedTensor& loss = outcome.results.loss;
      EXPECT_TRUE(loss.at(1) == test.loss || (std::isnan(loss.at(1)) && std::isnan(test.loss))) << test.name;
      EXPECT_EQ(outcome.results.predicted_class.integer(1), test.predicted) << target << ' ' << test.name;
      EXPECT_EQ(outcome.summary.nonfinite_count, 1) << test.name;
      for (int64_t j = 0; j < 12; ++j) {
        const bool bad = test.gradient_is_nan && j / 4 == 1;
        EXPECT_EQ(std::isnan(outcome.results.logits_gradient.at(j)), bad) << target << ' ' << test.name << ' ' << j;
      }
      for (int64_t i : {0, 2}) {
        EXPECT_FLOAT_EQ(static_cast<float>(loss.at(i)), 0.4401897f) << target << ' ' << test.name << ' ' << i;
        EXPECT_EQ(loss.at(i), good.results.loss.at(i)) << target << ' ' << test.name << ' ' << i;
      }
    }
  });
}

TEST(EvaluateTest, IgnoredRowsAreNotRead) {
  Batch batch = Rows({1, 2, kNan, kInf, 3, 1}, {1, -100, 0});
  const Outcome outcome = MustEvaluate(batch);
  EXPECT_EQ(outcome.summary.ignored_count, 1);
  EXPECT_EQ(outcome.summary.weight_sum, 2);
  EXPECT_EQ(outcome.summary.nonfinite_count, 0);
  EXPECT_TRUE(std::isfinite(outcome.results.loss.at(0)));
  EXPECT_EQ(outcome.results.logits_gradient.at(2), 0);
  EXPECT_EQ(outcome.results.logits_gradient.at(3), 0);
  EXPECT_EQ(outcome.results.element_loss.at(1), 0);
}

TEST(EvaluateTest, IgnoreIndexInsideTheRangeStaysInOthersSoftmax) {
  Batch batch = Rows({1, 2, 3, 1, 2, 3}, {2, 0});
  std::get<CrossEntropy>(batch.spec.loss).ignore_index = 2;
  const Outcome outcome = MustEvaluate(batch);
  EXPECT_EQ(outcome.summary.ignored_count, 1);
  EXPECT_NEAR(outcome.results.loss.at(0), std::log(std::exp(-2.0) + std::exp(-1.0) + 1) + 2, 1e-6);
}

TEST(EvaluateTest, SampleWeightZeroLeavesARowOut) {
  Batch batch = Rows({1, 2, kNan, kNan}, {1, 0});
  batch.sample_weights = OwnedTensor::Floats({2}, {2, 0});
  const Outcome outcome = MustEvaluate(batch);
  EXPECT_NEAR(outcome.results.loss.at(0), std::log1p(std::exp(-1.0)), 1e-7);
  EXPECT_EQ(outcome.summary.weight_sum, 2);
  EXPECT_EQ(outcome.results.logits_gradient.at(2), 0);
}

TEST(EvaluateTest, ImpossibleClassesWithoutMassCostNothing) {
  Batch batch;
  batch.spec.outputs = kAllOutputs;
  batch.logits = OwnedTensor::Floats({1, 3}, {0, -kInf, 0});
  batch.targets = OwnedTensor::Floats({1, 3}, {0.5f, 0, 0.5f});
  const Outcome outcome = MustEvaluate(batch);
  EXPECT_NEAR(outcome.results.loss.at(0), std::log(2.0), 1e-7);
  EXPECT_EQ(outcome.results.logits_gradient.at(1), 0);
}

TEST(EvaluateTest, ProbabilitiesThatDoNotSumToOne) {
  Batch batch;
  batch.spec.outputs = kAllOutputs;
  batch.logits = OwnedTensor::Floats({2, 3}, {0, 1, 2, 3, 2, 1});
  batch.targets = OwnedTensor::Floats({2, 3}, {0.5f, 2, -1, 0, 0, 0});
  EXPECT_EQ(testing::CompareWithReference(batch, MustEvaluate(batch)), "");
}

TEST(EvaluateTest, EmptyBatches) {
  for (Reduction reduction : {Reduction::kMean, Reduction::kSum, Reduction::kNone}) {
    Batch batch;
    batch.spec.reduction = reduction;
    batch.spec.outputs = kAllOutputs;
    batch.logits = OwnedTensor({DataType::kFloat32, Shape{0, 3}});
    batch.targets = OwnedTensor({DataType::kInt64, Shape{0}});
    const Outcome outcome = MustEvaluate(batch);
    EXPECT_EQ(outcome.summary.element_count, 0);
    EXPECT_EQ(outcome.results.logits_gradient.size(), 0);
    if (reduction == Reduction::kMean) {
      EXPECT_TRUE(std::isnan(outcome.results.loss.at(0)));
    } else if (reduction == Reduction::kSum) {
      EXPECT_EQ(outcome.results.loss.at(0), 0);
    }
  }
}

TEST(EvaluateTest, AllIgnored) {
  const Outcome outcome = MustEvaluate(Rows({1, 2, 3, 4}, {-100, -100}));
  EXPECT_TRUE(std::isnan(outcome.results.loss.at(0)));
  EXPECT_EQ(outcome.summary.weight_sum, 0);
  EXPECT_EQ(outcome.summary.ignored_count, 2);
  for (int64_t j = 0; j < 4; ++j) EXPECT_EQ(outcome.results.logits_gradient.at(j), 0);
}

TEST(EvaluateTest, WeightsThatSumToZero) {
  Batch batch = Rows({1, 2, 3, 4}, {0, 1});
  batch.class_weights = OwnedTensor::Floats({2}, {1, -1});
  EXPECT_TRUE(std::isnan(MustEvaluate(batch).results.loss.at(0)));
}

TEST(EvaluateTest, PredictedClassIsTheLowestOfEqualOnes) {
  testing::ForEachSimdTarget([](const char* target) {
    std::vector<float> logits(10000, 1.0f);
    logits[5001] = logits[5002] = logits[9999] = 2;
    EXPECT_EQ(MustEvaluate(Rows(logits, {0})).results.predicted_class.integer(0), 5001) << target;
  });
}

}  // namespace
}  // namespace lossd
