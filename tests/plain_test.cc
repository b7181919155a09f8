// Plain rows (loss/plain.h): the short cut has the very bits of the long way, and is taken.
#include "loss/plain.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <tuple>
#include <vector>

#include "absl/strings/str_cat.h"
#include "loss/column.h"
#include "tests/batch.h"

namespace lossd {
namespace {

using testing::Batch;
using testing::Outcome;
using testing::OwnedTensor;

constexpr double kInf = std::numeric_limits<double>::infinity();

// What else is asked for does not change a bit: neither by the short cut for plain batches, nor elsewhere.
void ExpectSameBitsWithMoreOutputs(Batch batch, const std::string& what) {
  batch.spec.outputs = {Output::kLogitsGradient, Output::kElementLoss, Output::kPredictedClass};
  const Outcome few = testing::Evaluate(batch).value();
  for (Output output : {Output::kLogSumExp, Output::kTargetLogProbability}) batch.spec.outputs.Add(output);
  const Outcome more = testing::Evaluate(batch).value();
  for (Output output : {Output::kEntropy, Output::kProbabilities, Output::kLogProbabilities}) {
    batch.spec.outputs.Add(output);
  }
  const Outcome all = testing::Evaluate(batch).value();  // which is nowhere a short cut
  for (const Outcome* some : {&few, &more}) {
    EXPECT_EQ(some->results.loss.Bits(), all.results.loss.Bits()) << what;
    EXPECT_EQ(some->results.element_loss.Bits(), all.results.element_loss.Bits()) << what;
    EXPECT_EQ(some->results.predicted_class.Bits(), all.results.predicted_class.Bits()) << what;
    ASSERT_EQ(some->results.logits_gradient.Bits(), all.results.logits_gradient.Bits()) << what;
    if (std::isfinite(some->summary.loss_sum)) {
      EXPECT_EQ(some->summary.loss_sum, all.summary.loss_sum) << what;
    }
    EXPECT_EQ(std::isfinite(some->summary.loss_sum), std::isfinite(all.summary.loss_sum)) << what;
    EXPECT_EQ(some->summary.correct_count, all.summary.correct_count) << what;
    EXPECT_EQ(some->summary.nonfinite_count, all.summary.nonfinite_count) << what;
    EXPECT_EQ(some->summary.ignored_count, all.summary.ignored_count) << what;
  }
  ASSERT_EQ(more.results.log_sum_exp.Bits(), all.results.log_sum_exp.Bits()) << what;
  ASSERT_EQ(more.results.target_log_probability.Bits(), all.results.target_log_probability.Bits()) << what;
}

// Batches of many kinds, some of which are not decided as plain ones: `kind` in [0, kAnyKinds).
constexpr int kAnyKinds = 20;
Batch AnyBatch(DataType type, int64_t num_classes, const Shape& inner, int kind, double smoothing,
               std::mt19937_64& random) {
  const bool ordinary = kind >= 14;  // but for the signs of weights and of the upstream gradient
  Batch batch = testing::RandomBatch({.type = type,
                                      .outer = {29},
                                      .num_classes = num_classes,
                                      .inner = inner,
                                      .weight_type = kind == 3 ? DataType::kFloat64 : type,
                                      .class_weights = ordinary || kind % 2 == 1,
                                      .ignore_some = kind % 4 >= 2},
                                     random);
  std::get<CrossEntropy>(batch.spec.loss).label_smoothing = smoothing;
  // With label smoothing the losses of such rows are infinite or NaN, and their tile is not plain.
  if (kind >= 4 && !ordinary && (smoothing == 0 || kind % 3 == 0)) {
    testing::SpoilRows(batch, num_classes, NumElements(inner));
  }
  if (kind >= 4) batch.logits.set(1, 700);
  constexpr double kUpstream[] = {1e30, 1e-30, 0.0, -0.0, -1e-60, -kInf, kInf, -kInf, 1.0, 1.0, 0.0, -0.0, -1.0, 1e-30};
  if (kind >= 6) batch.upstream_gradient = OwnedTensor::Doubles({}, {kUpstream[kind - 6]});
  if (kind == 9 || kind == 11 || kind >= 13) batch.spec.reduction = Reduction::kSum;
  if (kind == 1 || ordinary) batch.class_weights.set(0, -0.0);
  if (kind == 11 || ordinary) batch.class_weights.set(num_classes / 2, -2);
  if (kind == 13) batch.class_weights.set(num_classes / 2, kInf);
  for (int64_t c = 0; kind == 15 && c < num_classes; ++c) batch.class_weights.set(c, c == 0 ? -0.0 : -5e-324);
  batch.spec.gradient_type = kind % 3 == 2 ? DataType::kFloat32 : type;
  return batch;
}

// What else goes into the decision of a plain row: `more` in [0, kAnyMore).
constexpr int kAnyMore = 13;
void AddMore(Batch& batch, const Shape& elements, int more, std::mt19937_64& random) {
  CrossEntropy& loss = std::get<CrossEntropy>(batch.spec.loss);
  const DataType type = more % 2 == 0 ? DataType::kFloat32 : DataType::kFloat64;
  if (more == 1 || more == 2 || (more >= 6 && more != 10)) {
    batch.sample_weights = testing::RandomFloats({type, elements}, random, 0, 1);
    for (const auto& [place, weight] : {std::pair(1, 0.0), {2, -0.0}, {5, kInf}, {6, std::nan("")}, {8, 1e-38}}) {
      batch.sample_weights.set(place, weight);
    }
  }
  if (more == 2 || more == 3 || more == 7 || more == 12) {
    batch.spec.reduction = Reduction::kNone;
    batch.upstream_gradient = testing::RandomFloats({type, elements}, random, 0, 1);
    for (const auto& [place, upstream] : {std::pair(0, 0.0), {3, -0.0}, {4, -kInf}, {7, -std::nan("")}, {9, 1e-37}}) {
      batch.upstream_gradient.set(place, upstream);
    }
  }
  if (more == 4 || more == 8) loss.z_loss = 0.3;
  if (more == 9 || more >= 11) loss.temperature = 1.7;
  if (more == 10 || more == 11) loss.softcap = 4;
  if (more == 4 || more >= 11) batch.spec.gradient_type = DataType::kFloat64;
  if (loss.label_smoothing != 0) return;  // which the others do not go with
  if (more >= 5) loss.focal_gamma = more == 5 || more == 9 ? 2 : more == 6 ? 0.7 : more == 7 ? 5 : 0;
  if (more == 6 || more == 8) loss.poly_epsilon = -0.4;
}

TEST(PlainTest, AnyOutputs) {
  testing::ForEachSimdTarget([](const char* target) {
    std::mt19937_64 random(6);
    for (DataType type : {DataType::kFloat32, DataType::kFloat64, DataType::kFloat16, DataType::kBfloat16}) {
      for (const Shape& inner : {Shape{}, Shape{7}, Shape{3, 11}}) {
        for (int64_t num_classes : {1, 2, 10, 33, 64, 65, 200}) {
          for (int i = 0; i < 2 * kAnyKinds; ++i) {
            const int kind = i % kAnyKinds;
            const double smoothing = i < kAnyKinds ? 0 : kind == 19 ? 1e-300 : kind % 5 == 3 ? 1 : 0.1;
            Batch batch = AnyBatch(type, num_classes, inner, kind, smoothing, random);
            const std::string what = absl::StrCat(target, ", ", Name(type), ", ", num_classes, " classes, ",
                                                  ToString(inner), ", ", kind, ", ", smoothing);
            ExpectSameBitsWithMoreOutputs(batch, what);
            if (random() % 2 == 0) continue;
            Shape elements{29};
            for (int axis = 0; axis < inner.rank(); ++axis) elements.push_back(inner[axis]);
            const int more = 1 + static_cast<int>(random() % (kAnyMore - 1));
            AddMore(batch, elements, more, random);
            ExpectSameBitsWithMoreOutputs(batch, absl::StrCat(what, ", and ", more));
          }
        }
      }
    }
  });
}

// A row's loss and gradient do not depend on the rows beside it, not even in which NaN or which zero they are: what is
// not plain of one row, all rows of its tile have to pay for.
TEST(PlainTest, AnyNeighbours) {
  testing::ForEachSimdTarget([](const char* target) {
    for (const int64_t num_classes : {2, 10, 200}) {
      for (const auto& [upstream, smoothing, weight] : {std::tuple(1.0, 0.0, -1.5),
                                                        {-0.0, 0.0, -1.5},
                                                        {-1e-60, 0.0, -1.5},
                                                        {kInf, 0.0, -1.5},
                                                        {1.0, 0.1, -1.5},
                                                        {-0.0, 0.1, -1.5},
                                                        {1e-37, 0.1, 1.5},
                                                        {kInf, 0.1, 0.0},
                                                        {1.0, 1.0, 0.0}}) {
        for (const bool first_is_nan : {false, true}) {
          std::mt19937_64 random(12);
          Batch batch =
              testing::RandomBatch({.outer = {20}, .num_classes = num_classes, .class_weights = true}, random);
          batch.spec.reduction = Reduction::kSum;
          batch.spec.loss = CrossEntropy{.label_smoothing = smoothing};
          batch.spec.outputs = {Output::kLogitsGradient, Output::kElementLoss};
          batch.upstream_gradient = OwnedTensor::Doubles({}, {upstream});
          for (int64_t c = 0; weight == 0 && c < num_classes; ++c) batch.class_weights.set(c, 0);
          batch.class_weights.set(0, weight);
          if (first_is_nan) batch.logits.set(0, -std::nan(""));
          if (upstream == 1 && smoothing == 0) {
            std::get<CrossEntropy>(batch.spec.loss).focal_gamma = 2;
            batch.sample_weights = testing::RandomFloats({DataType::kFloat32, Shape{20}}, random, 1, 1);
            batch.sample_weights.set(3, 0);
          }
          const auto rows = [&] {  // all but the last
            const Outcome outcome = testing::Evaluate(batch).value();
            return outcome.results.logits_gradient.Bits().substr(0, static_cast<size_t>(19 * num_classes) * 4) +
                   outcome.results.element_loss.Bits().substr(0, 19 * 4);
          };
          const std::string beside_ordinary = rows();
          for (const double neighbour : {kInf, -kInf, -std::nan(""), 1e38}) {
            batch.logits.set(20 * num_classes - 1, neighbour);
            EXPECT_EQ(rows() == beside_ordinary, true)
                << target << ' ' << num_classes << ' ' << upstream << ' ' << smoothing << ' ' << neighbour;
          }
        }
      }
    }
  });
}

// A tile in columns, of which some rows count nowhere and have no numbers, and one class is masked where it weighs
// nothing.
template <typename T>
void ExpectTaken(bool gradient, double smoothing, bool weighted, const PlainTargets& modified, const char* target) {
  constexpr int64_t kClasses = 7, kCount = 40, kStride = 48;
  std::vector<T> x(kClasses * kStride), weights(kClasses, T{1});
  std::vector<int32_t> targets(kMaxPlainRows, -1);
  std::vector<double> ones(kMaxPlainRows, 1), losses(kMaxPlainRows);
  for (int64_t i = 0; i < kClasses * kStride; ++i) x[i] = static_cast<T>(std::sin(static_cast<double>(i)));
  for (int64_t row = 0; row < kCount; ++row) {
    targets[row] = row % 5 == 2 ? -1 : static_cast<int32_t>(row % (kClasses - 1));
    if (targets[row] < 0) x[row % kClasses * kStride + row] = static_cast<T>(row % 2 == 0 ? std::nan("") : kInf);
    if (weighted) x[(kClasses - 1) * kStride + row] = static_cast<T>(-kInf);
  }
  if (weighted) weights[kClasses - 1] = 0;
  for (int64_t i = kCount; i < kStride; ++i) x[i] = static_cast<T>(std::nan(""));  // past the last row
  const Background<T> background{.beta = smoothing / kClasses, .weights = weighted ? weights.data() : nullptr};
  PlainTile<T> tile = {.x = x.data(),
                       .stride = kStride,
                       .num_classes = kClasses,
                       .count = kCount,
                       .targets = {.targets = targets.data(),
                                   .weights = ones.data(),
                                   .upstream = ones.data(),
                                   .point_scale = 1 - smoothing,
                                   .background_scale = background.beta,
                                   .z_loss = modified.z_loss,
                                   .focal_gamma = modified.focal_gamma,
                                   .poly_epsilon = modified.poly_epsilon,
                                   .losses = losses.data()},
                       .background = background,
                       .predicted = nullptr};
  if (gradient) tile.dx = x.data();
  tile.dx_stride = kStride;
  EXPECT_TRUE(ColumnKernelsOf<T>().plain(tile)) << target << ' ' << gradient << ' ' << smoothing << ' ' << weighted;
  for (int64_t row = 0; row < kCount; ++row) {
    if (targets[row] < 0) {
      EXPECT_EQ(losses[row], 0);
    } else {
      EXPECT_TRUE(losses[row] > 0 && losses[row] < 10) << losses[row];
    }
    for (int64_t c = 0; gradient && c < kClasses; ++c) {
      EXPECT_TRUE(targets[row] < 0 ? x[c * kStride + row] == 0 : std::fabs(x[c * kStride + row]) < 3) << row;
    }
  }
}

TEST(PlainTest, IsTaken) {
  testing::ForEachSimdTarget([](const char* target) {
    for (const bool gradient : {false, true}) {
      for (const double smoothing : {0.0, 0.1, 1.0}) {
        for (const bool weighted : {false, true}) {
          for (const PlainTargets& modified : std::vector<PlainTargets>{
                   {}, {.z_loss = 0.1}, {.focal_gamma = 2}, {.focal_gamma = 0.7, .poly_epsilon = 0.5}}) {
            if (smoothing != 0 && modified.bends()) continue;  // which no spec has
            ExpectTaken<float>(gradient, smoothing, weighted, modified, target);
            ExpectTaken<double>(gradient, smoothing, weighted, modified, target);
          }
        }
      }
    }
  });
}

}  // namespace
}  // namespace lossd
