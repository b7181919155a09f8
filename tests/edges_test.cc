// Sizes and magnitudes at the edges: long rows, many rows, huge tensors, huge and tiny numbers.
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <utility>

#include "loss/element.h"
#include "loss/row.h"
#include "tests/batch.h"

namespace lossd {
namespace {

using testing::Batch;
using testing::Outcome;
using testing::OwnedTensor;

constexpr float kInf = std::numeric_limits<float>::infinity();

// Address space that costs memory only where it is touched.
class VirtualTensor {
 public:
  VirtualTensor(DataType type, const Shape& shape)
      : type_{type, shape}, bytes_(static_cast<size_t>(NumElements(shape) * SizeOf(type))) {
    data_ = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  }
  ~VirtualTensor() { munmap(data_, bytes_); }
  bool ok() const { return data_ != MAP_FAILED; }
  TensorView view() const { return {data_, type_}; }
  MutableTensorView mutable_view() const { return {data_, type_}; }

 private:
  TensorType type_;
  size_t bytes_;
  void* data_;
};

// Evaluates the last block of a batch of zero logits, its last target `target`; the loss and gradient of the last
// element.
void ExpectLastElementIsRight(const Shape& logits_shape, int64_t num_classes, int64_t stride) {
  const Shape element_shape = logits_shape.Without(1);
  const VirtualTensor logits(DataType::kFloat32, logits_shape), targets(DataType::kUint8, element_shape);
  const VirtualTensor gradient(DataType::kFloat32, logits_shape), losses(DataType::kFloat32, element_shape);
  ASSERT_TRUE(logits.ok() && targets.ok() && gradient.ok() && losses.ok());
  const int64_t num_elements = NumElements(element_shape), size = NumElements(logits_shape);
  ASSERT_GT(size, int64_t{1} << 31);
  const auto logit_at = [&](int64_t c) { return size - 1 - (num_classes - 1 - c) * stride; };
  StoreElement(targets.mutable_view().data, num_elements - 1, uint8_t{2});
  StoreElement(logits.mutable_view().data, logit_at(2), 3.0f);

  Spec spec;
  spec.reduction = Reduction::kNone;
  spec.outputs = {Output::kLogitsGradient};
  const Inputs inputs{.logits = logits.view(), .targets = targets.view()};
  const Plan plan = MakePlan(spec, TypesOf(inputs)).value();
  Weights weights;
  const Results results{.loss = losses.mutable_view(), .logits_gradient = gradient.mutable_view()};
  OwnedTensor scratch({DataType::kInt8, Shape{plan.scratch_bytes}});
  std::vector<BlockSummary> blocks(static_cast<size_t>(plan.num_blocks));
  EvaluateBlocks(plan, inputs, weights, {plan.num_blocks - 1, plan.num_blocks}, results, scratch.data(), blocks);

  const double others = static_cast<double>(num_classes - 1) * std::exp(-3.0);
  EXPECT_NEAR(FloatAt(losses.view(), num_elements - 1), std::log1p(others), 1e-6);
  EXPECT_NEAR(FloatAt(gradient.view(), logit_at(2)), -others / (1 + others), 1e-6);
  EXPECT_NEAR(FloatAt(gradient.view(), logit_at(1)), std::exp(-3.0) / (1 + others), 1e-6);
}

TEST(EdgesTest, MoreThan2To31ElementsInRows) { ExpectLastElementIsRight({(int64_t{1} << 25) + 1, 65}, 65, 1); }

TEST(EdgesTest, MoreThan2To31ElementsInColumns) {
  const int64_t inner = (int64_t{1} << 30) + 7;
  ExpectLastElementIsRight({1, 3, inner}, 3, inner);
}

TEST(EdgesTest, SeventyThousandRowsOfFloat16) {
  Batch batch;
  batch.logits = OwnedTensor({DataType::kFloat16, {70000, 2}});  // zeros: every loss is ln 2
  batch.targets = OwnedTensor({DataType::kUint8, {70000}});
  batch.spec.outputs = {Output::kLogitsGradient};
  batch.spec.gradient_type = DataType::kFloat32;
  const Outcome outcome = testing::Evaluate(batch).value();
  EXPECT_EQ(outcome.summary.weight_sum, 70000);
  EXPECT_NEAR(outcome.summary.loss_sum / (70000 * std::log(2.0)), 1, 1e-9);
  EXPECT_FLOAT_EQ(static_cast<float>(outcome.results.loss.at(0)), std::log(2.0f));
  EXPECT_FLOAT_EQ(static_cast<float>(outcome.results.logits_gradient.at(139999)), 0.5f / 70000);
}

// Adding one number over and over rounds the same way each time: sums must not be long.
TEST(EdgesTest, EqualLogits) {
  for (int64_t num_classes : {128, 500, 2048, 32000}) {
    for (float logit : {0.0f, 4.9f, -1.7f, 88.1f}) {
      Batch batch;
      batch.spec.loss = CrossEntropy{.label_smoothing = 0.1};
      batch.logits = OwnedTensor::Floats({1, num_classes}, std::vector<float>(static_cast<size_t>(num_classes), logit));
      batch.targets = OwnedTensor::Indices({1}, {num_classes / 2});
      batch.spec.outputs = {Output::kLogitsGradient, Output::kProbabilities, Output::kEntropy};
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << num_classes << " of " << logit;
    }
  }
}

// Masks of the least number instead of -inf: their share of the smoothing is finite.
TEST(EdgesTest, MaskedByTheLargestFloat) {
  constexpr float kLargest = std::numeric_limits<float>::max();
  for (int64_t num_classes : {4, 100, 200, 5000}) {
    for (bool weighted : {false, true}) {
      Batch batch;
      batch.spec.loss = CrossEntropy{.label_smoothing = 0.1};
      std::vector<float> row(static_cast<size_t>(num_classes), -kLargest);
      std::fill_n(row.begin(), row.size() / 2, -1.0f);
      batch.logits = OwnedTensor::Floats({1, num_classes}, row);
      batch.targets = OwnedTensor::Indices({1}, {0});
      if (weighted) {
        batch.class_weights =
            OwnedTensor::Floats({num_classes}, std::vector<float>(static_cast<size_t>(num_classes), 0.5f));
      }
      batch.spec.outputs = {Output::kLogitsGradient};
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << num_classes << ' ' << weighted;
    }
  }
}

// Classes that do not exist: -inf, and no share of the smoothing. Weights whose product with a logit overflows, unless
// the smoothing is part of it.
TEST(EdgesTest, SmoothedBesideMasksAndHugeWeights) {
  for (int64_t num_classes : {4, 100, 200, 5000}) {
    Batch batch;
    batch.spec.loss = CrossEntropy{.label_smoothing = 1e-3};
    batch.spec.outputs = {Output::kLogitsGradient};
    const auto size = static_cast<size_t>(num_classes);
    std::vector<float> row(size), weights(size);
    for (size_t j = 0; j < size; ++j) {
      const bool masked = j % 3 == 1;
      row[j] = masked ? -kInf : -static_cast<float>(j % 7);
      weights[j] = masked ? 0 : 1 + static_cast<float>(j % 5);
    }
    batch.targets = OwnedTensor::Indices({1}, {0});
    batch.logits = OwnedTensor::Floats({1, num_classes}, row);
    batch.class_weights = OwnedTensor::Floats({num_classes}, weights);
    EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << num_classes << ", masked";
    // Huge beside the target, everywhere, and beside a confident row: the coefficient of the background is tiny then.
    for (const float x_target : {0.0f, 100.0f}) {
      for (const float weight : {1e33f, 1e36f}) {
        for (const size_t first : {size_t{0}, size_t{1}}) {
          for (const float x : {-1e3f, 0.0f}) {
            std::fill(row.begin(), row.end(), x);
            row[0] = x_target;
            std::fill(weights.begin(), weights.end(), 1.0f);
            std::fill(weights.begin() + static_cast<std::ptrdiff_t>(first), weights.end(), weight);
            batch.logits = OwnedTensor::Floats({1, num_classes}, row);
            batch.class_weights = OwnedTensor::Floats({num_classes}, weights);
            EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "")
                << num_classes << " classes, weights " << weight << " from " << first << ", logits " << x << ", "
                << x_target;
          }
        }
      }
    }
  }
}

TEST(EdgesTest, OneFiniteLogitAtEveryPositionOfALongRow) {
  constexpr int64_t kClasses = 100000;
  std::vector<float> row(kClasses, -kInf);
  bool best = true;  // the best target meets every position, the others every lane and every block
  testing::ForEachSimdTarget([&](const char* target) {
    const int64_t step = std::exchange(best, false) && !LOSSD_SANITIZED ? 1 : 97;
    for (int64_t place = 0; place < kClasses; place += place < 4200 || place > kClasses - 4200 ? 1 : step) {
      row[static_cast<size_t>(place)] = -1e30f;
      RowSums sums;
      RowRange<float> range{row.data(), kClasses};
      range.finds_argmax = true;
      RowKernelsOf<float>().reduce(range, {}, {}, &sums);
      row[static_cast<size_t>(place)] = -kInf;
      ASSERT_EQ(sums.max, -1e30f) << target << ' ' << place;
      ASSERT_EQ(sums.others, 0) << target << ' ' << place;
      ASSERT_EQ(sums.argmax, place) << target;
    }
  });
}

// Rows, each with what no naive formula survives; the truth is the reference.
const std::vector<float> kHardRows[] = {
    {1e8f, 1e8f, 1e8f, 1e8f},
    {1e8f, 1e8f - 8, 1e8f - 16, 0},
    {-1e8f, -1e8f + 8, -1e8f, -1e8f},
    {1000, 0, -1000, 500},
    {3e38f, -3e38f, 3e38f, 0},
    {1e-45f, 0, -1e-45f, 2e-45f},
    {1e-38f, 1.1754944e-38f, 0, -1e-38f},
    {0, -87.5f, -88.5f, -104.5f},
    {0, -130, -131, -132},
    {88.7f, 88.6f, 0.1f, -0.1f},
    {0.3f, 100.3f, 0.3f, 0.3f},
    {16777216, 16777215, 16777214, 1},
};

TEST(EdgesTest, HardRows) {
  for (DataType type : {DataType::kFloat32, DataType::kFloat64}) {
    for (const auto& values : kHardRows) {
      for (int64_t target = 0; target < 4; ++target) {
        Batch batch;
        batch.logits = OwnedTensor({type, {4}});
        for (int64_t i = 0; i < 4; ++i) batch.logits.set(i, values[static_cast<size_t>(i)]);
        batch.targets = OwnedTensor::Indices({}, {target});
        batch.spec.outputs = {Output::kLogitsGradient, Output::kEntropy, Output::kLogSumExp, Output::kLogProbabilities,
                              Output::kProbabilities};
        EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << Name(type) << ' ' << values[0] << ' ' << target;
      }
    }
  }
}

// The sums of a row are relative to what it begins with, until its maximum is too far above that. Rows of which one
// logit, or all from one on, or each a little more, are above what the row begins with; by what is and what is not far.
TEST(EdgesTest, RowsThatRise) {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64, DataType::kFloat16, DataType::kBfloat16}) {
    const bool wide = type == DataType::kFloat64;
    for (const int64_t num_classes : {150, 1000, 4100}) {
      for (const double base : {0.0, -30.0, 300.0, -700.0, 2000.0, static_cast<double>(-kInf)}) {
        for (const double rise : {0.5, 20.0, wide ? 339.0 : 35.5, wide ? 341.0 : 36.5, 1200.0}) {
          Batch batch;
          batch.logits = OwnedTensor({type, {6, num_classes}});
          std::vector<int64_t> targets;
          for (int64_t row = 0; row < 6; ++row) {
            const int64_t place = row % 2 == 0 ? 70 : num_classes - 1;
            for (int64_t j = 0; j < num_classes; ++j) {
              const double part = row < 2   ? static_cast<double>(j == place)
                                  : row < 4 ? static_cast<double>(j >= place)
                                            : static_cast<double>(j) / static_cast<double>(num_classes);
              const double above = rise * part - 0.25 * static_cast<double>(j % 5);
              batch.logits.set(row * num_classes + j, base + above);
            }
            if (std::isinf(base)) batch.logits.set(row * num_classes + place, rise);
            targets.push_back(row == 5 ? 3 : place);
          }
          batch.targets = OwnedTensor::Indices({6}, targets);
          batch.spec.outputs = {Output::kLogitsGradient, Output::kPredictedClass, Output::kLogSumExp};
          for (const double smoothing : {0.0, 0.1, 1.0}) {
            batch.spec.loss = CrossEntropy{.label_smoothing = smoothing};
            ASSERT_EQ(testing::CompareOnEverySimdTarget(batch), "")
                << Name(type) << ", " << num_classes << " classes, " << rise << " above " << base << ", " << smoothing;
          }
        }
      }
    }
  }
}

// The same over a temperature that is kept apart from the logits, and over two that are not; logits of other types, and
// in another layout, are copied first. Everything is times the temperature, so that it is as hard.
TEST(EdgesTest, RowsThatRiseOverATemperature) {
  for (const DataType type : {DataType::kFloat32, DataType::kBfloat16}) {
    for (const double t : {0x1p-60, 0.07, 1.7, 1000.0, 0x1p60, 0x1p-61, 0x1p61}) {
      for (const int64_t num_classes : {129, 1000, 4100}) {
        for (const double base : {0.0, -30.0, -700.0, 2000.0, static_cast<double>(-kInf)}) {
          for (const double rise : {0.5, 20.0, 35.5, 36.5, 1200.0}) {
            Batch batch;
            batch.logits = OwnedTensor({type, {4, num_classes}});
            for (int64_t row = 0; row < 4; ++row) {
              const int64_t place = row % 2 == 0 ? 70 : num_classes - 1;
              for (int64_t j = 0; j < num_classes; ++j) {
                const bool above = row < 2 ? j == place : j >= place;
                batch.logits.set(row * num_classes + j,
                                 t * (base + (above ? rise : 0) - 0.25 * static_cast<double>(j % 5)));
              }
              if (std::isinf(base)) batch.logits.set(row * num_classes + place, t * rise);
            }
            batch.targets = OwnedTensor::Indices({4}, {70, num_classes - 1, 3, num_classes - 1});
            batch.spec.outputs = {Output::kLogitsGradient, Output::kPredictedClass, Output::kLogSumExp,
                                  Output::kEntropy,        Output::kProbabilities,  Output::kLogProbabilities};
            batch.spec.loss = CrossEntropy{.label_smoothing = rise < 1 ? 0.1 : 0, .temperature = t};
            ASSERT_EQ(testing::CompareOnEverySimdTarget(batch), "")
                << Name(type) << " over " << t << ", " << num_classes << " classes, " << rise << " above " << base;
          }
        }
      }
    }
  }
}

// Targets that are given as probabilities, all of it on the class that is above what the row begins with, or a little
// on each; with weights that a float can just hold.
TEST(EdgesTest, RowsThatRiseToTheirTargets) {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64}) {
    for (const int64_t num_classes : {150, 1000, 4100}) {
      for (const double base : {-10.3, -0.1, 0.0, 600.0}) {
        for (const double rise : {20.4, 30.4, 33.3, 35.9, 36.7, 321.1, 339.7, 400.0}) {
          for (const float weight : {1.0f, 3e38f}) {
            Batch batch;
            batch.logits = OwnedTensor({type, {2, num_classes}});
            batch.targets = OwnedTensor({type, {2, num_classes}});
            const int64_t place = num_classes / 2;
            for (int64_t i = 0; i < 2 * num_classes; ++i) {
              const bool is_target = i % num_classes == place;
              batch.logits.set(i, is_target ? base + rise : base);
              const double rest = i < num_classes ? 0 : 0.25;
              batch.targets.set(i, is_target ? 1 - rest : rest / static_cast<double>(num_classes - 1));
            }
            std::vector<float> weights(static_cast<size_t>(num_classes), 1.0f);
            weights[static_cast<size_t>(place)] = weight;
            batch.class_weights = OwnedTensor::Floats({num_classes}, weights);
            batch.spec.outputs = {Output::kLogitsGradient};
            ASSERT_EQ(testing::CompareOnEverySimdTarget(batch), "")
                << Name(type) << ", " << num_classes << " classes, " << rise << " above " << base << ", " << weight;
          }
        }
      }
    }
  }
}

// What is averaged over the classes cancels, far above what the row begins with and near its maximum.
TEST(EdgesTest, RowsThatRiseUnderWeightsOfBothSigns) {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64}) {
    for (const int64_t num_classes : {150, 2048, 5000}) {
      for (const double base : {-0.1, 600.3}) {
        for (const auto& [rise, gap] : {std::pair{0.7, 0.5}, {33.2043, 2}, {35.9, 0.5}, {321.1, 20}, {335.2674, 2}}) {
          for (const bool dense : {false, true}) {
            Batch batch;
            batch.logits = OwnedTensor({type, {1, num_classes}});
            batch.targets = dense ? OwnedTensor({type, {1, num_classes}}) : OwnedTensor::Indices({1}, {70});
            std::vector<float> weights(static_cast<size_t>(num_classes));
            for (int64_t j = 0; j < num_classes; ++j) {
              const double weight = j < 64 ? 0 : j % 2 == 0 ? 0.7 : -1;
              batch.logits.set(j, base + (j < 64 ? 0 : j == 70 ? rise : rise - gap));
              weights[static_cast<size_t>(j)] = static_cast<float>(dense ? std::fabs(weight) : weight);
              if (dense) batch.targets.set(j, weight < 0 ? -1 : 1);
            }
            batch.class_weights = OwnedTensor::Floats({num_classes}, weights);
            batch.spec.outputs = {Output::kLogitsGradient};
            for (const double smoothing : {0.0, 0.1, 1.0}) {
              batch.spec.loss = CrossEntropy{.label_smoothing = smoothing};
              ASSERT_EQ(testing::CompareOnEverySimdTarget(batch), "")
                  << Name(type) << ", " << num_classes << " classes, " << rise << " above " << base << ", "
                  << (dense ? "dense, " : "") << smoothing;
            }
          }
        }
      }
    }
  }
}

// Weights that a float just holds, and their products with e / C not; in rows that rise, or whose first weight is -0.
TEST(EdgesTest, TinyWeights) {
  for (const int64_t num_classes : {7, 100, 150, 2048, 5000}) {
    for (const float tiny : {1e-30f, 1e-36f, 2e-38f}) {
      for (const float rise : {-3.0f, 3.0f}) {
        for (const float first : {-0.0f, 1.0f}) {
          Batch batch;
          std::vector<float> row(static_cast<size_t>(num_classes)), weights(row.size());
          for (size_t j = 0; j < row.size(); ++j) {
            row[j] = (j < std::min<size_t>(64, row.size() / 2) ? 0 : rise) - 0.1f * static_cast<float>(j % 7);
            weights[j] = tiny * (1 + 0.3f * static_cast<float>(j % 3));
          }
          weights[0] *= first;
          batch.logits = OwnedTensor::Floats({1, num_classes}, row);
          batch.class_weights = OwnedTensor::Floats({num_classes}, weights);
          batch.targets = OwnedTensor::Indices({1}, {num_classes / 2});
          batch.spec.outputs = {Output::kLogitsGradient};
          for (const double smoothing : {0.1, 1.0}) {
            batch.spec.loss = CrossEntropy{.label_smoothing = smoothing};
            ASSERT_EQ(testing::CompareOnEverySimdTarget(batch), "")
                << num_classes << " classes, " << tiny << ", " << rise << ", " << first << ", " << smoothing;
          }
        }
      }
    }
  }
}

// Weights whose sum a double does not hold, and their average does.
TEST(EdgesTest, HugeWeightsOfDoubles) {
  for (const int64_t num_classes : {5, 100, 200, 3000}) {
    for (const double smoothing : {0.1, 1.0}) {
      std::mt19937_64 random(17);
      Batch batch = testing::RandomBatch(
          {.type = DataType::kFloat64, .outer = {3}, .num_classes = num_classes, .class_weights = true}, random);
      for (int64_t c = 0; c < num_classes; ++c) batch.class_weights.set(c, 1e308 * (c % 3 == 0 ? 0.5 : 1));
      batch.spec.loss = CrossEntropy{.label_smoothing = smoothing};
      batch.spec.reduction = Reduction::kSum;
      batch.upstream_gradient = OwnedTensor::Doubles({}, {1e-300});
      batch.spec.outputs = {Output::kLogitsGradient};
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << num_classes << ", " << smoothing;
    }
  }
}

// A masked logit costs infinitely much whatever little it weighs, if it weighs anything.
TEST(EdgesTest, MaskedClassesOfTinyWeight) {
  for (const int64_t num_classes : {2, 100, 200, 3000}) {
    for (const float weight : {1e-36f, 0.0f}) {
      std::vector<float> row(static_cast<size_t>(num_classes)), weights(row.size(), 1.0f);
      row.back() = -std::numeric_limits<float>::infinity();
      weights.back() = weight;
      Batch batch;
      batch.logits = OwnedTensor::Floats({1, num_classes}, row);
      batch.class_weights = OwnedTensor::Floats({num_classes}, weights);
      batch.targets = OwnedTensor::Indices({1}, {0});
      batch.spec.loss = CrossEntropy{.label_smoothing = 1e-10};
      const testing::Outcome outcome = testing::Evaluate(batch).value();
      EXPECT_EQ(std::isinf(outcome.results.loss.at(0)), weight != 0) << num_classes << ", " << weight;
    }
  }
}

// Equal logits above what the row begins with, and one that is masked so that the average is not: sums of equal terms
// round in the same direction.
TEST(EdgesTest, EqualLogitsWhoseAverageIsAsTheRowBegins) {
  constexpr int64_t kClasses = 2048;
  for (const float above : {24.7679f, 11.3f, 33.9f, 35.1f, 35.9f}) {
    for (const float weight : {1.0f, 0.7f, 0.00035644532f}) {
      Batch batch;
      std::vector<float> row(kClasses, above), weights(kClasses, weight);
      std::fill(row.begin(), row.begin() + 64, 0.0f);
      row[65] = -above * (kClasses - 65);  // with the 64 before, as much below as the others are above
      row[65] *= 1.0001f;
      batch.logits = OwnedTensor::Floats({1, kClasses}, row);
      batch.targets = OwnedTensor::Indices({1}, {70});
      batch.spec.outputs = {Output::kLogitsGradient};
      batch.spec.loss = CrossEntropy{.label_smoothing = 1};
      ASSERT_EQ(testing::CompareOnEverySimdTarget(batch), "") << above;
      batch.class_weights = OwnedTensor::Floats({kClasses}, weights);
      ASSERT_EQ(testing::CompareOnEverySimdTarget(batch), "") << above << ", " << weight;
    }
  }
}

// The maximum and an infinite weight at one class, or at two.
TEST(EdgesTest, InfiniteWeightsAnywhere) {
  for (const int64_t num_classes : {7, 200, 4100}) {
    for (const int64_t top : {int64_t{0}, num_classes / 2, num_classes - 1}) {
      for (const int64_t infinite : {int64_t{0}, int64_t{1}, num_classes / 2, num_classes - 2}) {
        Batch batch;
        std::vector<float> row(static_cast<size_t>(num_classes), -1.0f), weights(row.size(), 1.0f);
        row[static_cast<size_t>(top)] = 3;
        weights[static_cast<size_t>(infinite)] = kInf;
        batch.logits = OwnedTensor::Floats({1, num_classes}, row);
        batch.class_weights = OwnedTensor::Floats({num_classes}, weights);
        batch.targets = OwnedTensor::Indices({1}, {0});
        batch.spec.loss = CrossEntropy{.label_smoothing = 0.1};
        batch.spec.outputs = {Output::kLogitsGradient};
        EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << num_classes << ' ' << top << ' ' << infinite;
      }
    }
  }
}

// Whole blocks of nothing but -inf, then numbers that are all below 0.
TEST(EdgesTest, RowsThatBeginMasked) {
  for (const DataType type : {DataType::kFloat32, DataType::kFloat64, DataType::kFloat16, DataType::kBfloat16}) {
    for (const int64_t masked : {64, 1024, 2048, 4096, 5000}) {
      const int64_t num_classes = masked + 700;
      Batch batch;
      batch.logits = OwnedTensor({type, {3, num_classes}});
      for (int64_t i = 0; i < 3 * num_classes; ++i) {
        const int64_t j = i % num_classes;
        batch.logits.set(i, j < masked ? -kInf : -5 - static_cast<double>(j % 3));
      }
      batch.targets = OwnedTensor::Indices({3}, {masked, num_classes - 1, masked + 64});
      batch.spec.outputs = {Output::kLogitsGradient};
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << Name(type) << ' ' << masked;
    }
  }
}

// Every block of a row begins anew, and several rows are under way at a time.
TEST(EdgesTest, RowsThatRiseWithEveryBlock) {
  constexpr int64_t kRows = 3, kClasses = 50000;
  Batch batch;
  batch.logits = OwnedTensor({DataType::kFloat32, {kRows, kClasses}});
  for (int64_t i = 0; i < kRows * kClasses; ++i) {
    const int64_t j = i % kClasses;
    batch.logits.set(i, static_cast<double>(j / 1000 * 40) - static_cast<double>(j % 7));
  }
  batch.targets = OwnedTensor::Indices({kRows}, {kClasses - 6, 0, 49000});
  batch.spec.outputs = {Output::kLogitsGradient, Output::kPredictedClass};
  EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "");
}

// Loss scaling, and worse: the factor in front of p may be anything.
TEST(EdgesTest, ExtremeUpstreamGradients) {
  for (double upstream : {65536.0, 0x1p30, 1e20, 1e39, 1e300, 1e-12, 1e-30, 1e-44, 1e-300, -65536.0}) {
    for (float gap : {1.0f, 80.0f, 95.0f, 104.0f, 130.0f, 200.0f}) {
      for (double smoothing : {0.0, 0.1}) {
        Batch batch;
        batch.spec.loss = CrossEntropy{.label_smoothing = smoothing};
        batch.logits = OwnedTensor::Floats({4}, {gap, 0, -kInf, gap / 2});
        batch.targets = OwnedTensor::Indices({}, {0});
        batch.upstream_gradient = OwnedTensor::Doubles({}, {upstream});
        batch.spec.outputs = {Output::kLogitsGradient};
        EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << upstream << ' ' << gap << ' ' << smoothing;
      }
    }
  }
}

TEST(EdgesTest, LossesThatFloat32CannotHoldCountAsNonfinite) {
  Batch batch;
  batch.logits = OwnedTensor::Floats({2}, {3e38f, -3e38f});
  batch.targets = OwnedTensor::Indices({}, {1});
  EXPECT_EQ(testing::Evaluate(batch)->summary.nonfinite_count, 1);
}

// Further apart than any double, in different blocks and parts of a row.
TEST(EdgesTest, DoublesThatAreTooFarApart) {
  for (const int64_t num_classes : {int64_t{3000}, kRowPart + 9000}) {
    for (const int64_t place : {int64_t{0}, num_classes - 1}) {
      Batch batch;
      batch.logits = OwnedTensor({DataType::kFloat64, {1, num_classes}});
      for (int64_t i = 0; i < num_classes; ++i) batch.logits.set(i, i == place ? 1e308 : -1e308);
      batch.targets = OwnedTensor::Indices({1}, {place});
      batch.spec.outputs = {Output::kLogitsGradient};
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << num_classes << ' ' << place;
    }
  }
}

TEST(EdgesTest, LongRowsInDouble) {
  std::mt19937_64 random(1);
  for (double scale : {0.01, 1.0, 30.0}) {
    Batch batch =
        testing::RandomBatch({.type = DataType::kFloat64, .outer = {2}, .num_classes = 50257, .scale = scale}, random);
    batch.spec.outputs = {Output::kLogitsGradient};
    EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << scale;
  }
}

// Rows that are folded from parts: the largest logit, and what is not a number, in each of them.
TEST(EdgesTest, RowsOfSeveralParts) {
  constexpr int64_t kClasses = 2 * kRowPart + 77;
  std::mt19937_64 random(2);
  DataType type = DataType::kFloat32, targets = DataType::kInt64;
  int64_t num_classes = kClasses, sparse_size = 0;
  const auto compare = [&](const char* name, double smoothing, const std::function<void(Batch&)>& change) {
    constexpr DataType kNext[] = {DataType::kBfloat16, DataType::kFloat64, DataType::kFloat32};
    type = kNext[type == DataType::kFloat32 ? 0 : type == DataType::kBfloat16 ? 1 : 2];
    Batch batch = testing::RandomBatch({.type = type,
                                        .target_type = targets,
                                        .outer = {1},
                                        .num_classes = num_classes,
                                        .sparse_size = sparse_size,
                                        .class_weights = smoothing != 0},
                                       random);
    batch.spec.loss = CrossEntropy{.label_smoothing = smoothing};
    batch.spec.outputs = {Output::kLogitsGradient, Output::kPredictedClass, Output::kLogSumExp, Output::kEntropy};
    change(batch);
    EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << name << ' ' << Name(type);
  };
  const auto fill = [](Batch& batch, int64_t begin, int64_t end, double value) {
    for (int64_t i = begin; i < end; ++i) batch.logits.set(i, value);
  };
  for (const int64_t place : {kRowPart - 1, kRowPart, kClasses - 1}) {
    for (const int64_t target : {place, kClasses - 1 - place}) {
      compare("largest", 0, [&](Batch& batch) {
        batch.logits.set(place, 40);
        batch.targets.set(0, static_cast<double>(target));
      });
    }
    compare("largest, smoothed", 0.1, [&](Batch& batch) { batch.logits.set(place, 40); });
    compare("NaN", 0, [&](Batch& batch) { batch.logits.set(place, std::numeric_limits<double>::quiet_NaN()); });
    compare("+inf", 0, [&](Batch& batch) { batch.logits.set(place, kInf); });
    compare("-inf but one", 0, [&](Batch& batch) {
      fill(batch, 0, kClasses, -kInf);
      batch.logits.set(place, 5);
      batch.targets.set(0, static_cast<double>(place));
    });
  }
  compare("equal", 0.1, [&](Batch& batch) { fill(batch, 0, kClasses, 4.9); });
  compare("one part far below", 0.1, [&](Batch& batch) { fill(batch, 0, kRowPart, -1e4); });
  compare("another far below", 0.1, [&](Batch& batch) { fill(batch, kRowPart, kClasses, -1e4); });
  targets = DataType::kFloat32;
  compare("probabilities", 0, [](Batch&) {});
  compare("probabilities, smoothed", 0.1, [](Batch&) {});
  targets = DataType::kInt64;
  const auto set_upstream = [](Batch& batch) { batch.upstream_gradient = OwnedTensor::Doubles({}, {1e39}); };
  compare("extreme upstream", 0.1, set_upstream);
  for (const int64_t size : {kRowPart, kRowPart + 1}) {
    num_classes = size;
    compare("a part, and one more", 0.1, [](Batch&) {});
  }
  num_classes = kClasses;
  compare("ignored", 0, [](Batch& batch) { batch.targets.set(0, -100); });
  sparse_size = 7;
  compare("sparse", 0.1, [&](Batch& batch) {
    const int64_t places[] = {kClasses - 1, 0, kRowPart, kRowPart - 1, 2 * kRowPart, 5, kRowPart + 9};
    for (int64_t k = 0; k < sparse_size; ++k) batch.targets.set(k, static_cast<double>(places[k]));
  });
  compare("sparse, extreme upstream", 0, set_upstream);
  sparse_size = 0;
  compare("all -inf", 0, [&](Batch& batch) { fill(batch, 0, kClasses, -kInf); });
}

}  // namespace
}  // namespace lossd
