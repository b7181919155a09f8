// The whole family of losses against the reference, on every compiled SIMD target: every loss x type of logits x kind
// of targets x weights x smoothing x modifiers x reduction x layout x size.
#include <gtest/gtest.h>

#include <cmath>
#include <tuple>

#include "absl/strings/str_cat.h"
#include "tests/batch.h"

namespace lossd {
namespace {

using testing::Batch;
using testing::BatchOptions;
using testing::OwnedTensor;

struct Layout {
  const char* name;
  Shape outer, inner;
};

const Layout kLayouts[] = {
    {"C", {}, {}}, {"NC", {5}, {}}, {"NCd", {3}, {7}}, {"NCdd", {2}, {3, 5}}, {"CN", {}, {6}}, {"BTC", {2, 4}, {}},
};

// One SIMD vector holds 2 to 16 numbers, and four of them are summed at a time.
const int64_t kSizes[] = {1, 2, 3, 7, 8, 9, 15, 16, 17, 33, 63, 64, 65, 123, 507, 1000};
constexpr int64_t kLong = 100;  // the reference is slow: longer rows meet fewer variants

enum class Targets { kIndices, kDense, kSparse };

using Parameters = std::tuple<DataType, Targets>;

std::string NameOf(const ::testing::TestParamInfo<Parameters>& info) {
  static constexpr const char* kNames[] = {"Indices", "Dense", "Sparse"};
  return absl::StrCat(Name(std::get<0>(info.param)), kNames[static_cast<int>(std::get<1>(info.param))]);
}

const auto kEveryType =
    ::testing::Values(DataType::kFloat32, DataType::kFloat64, DataType::kFloat16, DataType::kBfloat16);

// Which options variant number `i` has: all pairs meet within 24 variants.
void Vary(int i, BatchOptions& options) {
  options.class_weights = i % 2 == 1;
  options.sample_weights = i % 3 == 1;
  options.ignore_some = i % 4 >= 2;
  options.weight_type = static_cast<DataType>(1 + i / 2 % 4);  // any of the four float types
  options.misalignment = i % 5 == 4 ? static_cast<int>(SizeOf(options.type)) : 0;
}

void Vary(int i, std::mt19937_64& random, Batch& batch) {
  CrossEntropy& loss = std::get<CrossEntropy>(batch.spec.loss);
  const bool indices = IsInteger(batch.targets.type().data_type) && !batch.target_probabilities;
  loss.label_smoothing = i % 6 == 2 ? 0.1 : (i % 6 == 5 ? 1 : 0);
  loss.z_loss = i % 7 == 3 ? 1e-2 : 0;
  loss.temperature = i % 7 == 5 ? 1.7 : 1;
  loss.softcap = i % 7 >= 5 ? 4 : 0;
  if (indices && loss.label_smoothing == 0) {
    loss.focal_gamma = i % 5 == 1 ? 2 : (i % 5 == 3 ? 0.5 : 0);
    loss.poly_epsilon = i % 4 == 3 ? 1.5 : 0;
  }
  batch.spec.reduction = static_cast<Reduction>(i % 3);
  batch.spec.unit = static_cast<InformationUnit>(i % 2);
  batch.spec.gradient_type = static_cast<DataType>(i % 5);  // unspecified, then the four float types
  batch.spec.outputs = {Output::kLogitsGradient,  Output::kElementLoss, Output::kLogSumExp,
                        Output::kPredictedClass,  Output::kEntropy,     Output::kProbabilities,
                        Output::kLogProbabilities};
  batch.spec.outputs.Add(indices ? Output::kTargetLogProbability : Output::kTargetsGradient);
  if (batch.spec.reduction == Reduction::kMean && i % 4 == 0) batch.spec.normalizer = 3.5;
  if (batch.spec.reduction == Reduction::kNone) {
    Shape elements = batch.logits.type().shape.Without(*loss.class_axis);
    batch.upstream_gradient = testing::RandomFloats({DataType::kFloat32, elements}, random, 0, 1);
    if (batch.upstream_gradient.size() > 0) batch.upstream_gradient.set(0, 0);
  }
}

class CrossEntropyFamily : public ::testing::TestWithParam<Parameters> {};

TEST_P(CrossEntropyFamily, EqualsReference) {
  const auto [type, targets] = GetParam();
  std::mt19937_64 random(static_cast<uint64_t>(type) * 10 + static_cast<uint64_t>(targets));
  for (const Layout& layout : kLayouts) {
    for (int64_t num_classes : kSizes) {
      for (int variant = num_classes > kLong ? 20 : 0; variant < 24; ++variant) {
        BatchOptions options{.type = type, .outer = layout.outer, .num_classes = num_classes, .inner = layout.inner};
        if (targets == Targets::kDense) options.target_type = variant % 3 == 0 ? DataType::kFloat32 : type;
        if (targets == Targets::kSparse) options.sparse_size = 1 + variant % 7;
        Vary(variant, options);
        Batch batch = testing::RandomBatch(options, random);
        Vary(variant, random, batch);
        ASSERT_EQ(testing::CompareOnEverySimdTarget(batch), "")
            << layout.name << " C=" << num_classes << " variant " << variant;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, CrossEntropyFamily,
                         ::testing::Combine(kEveryType,
                                            ::testing::Values(Targets::kIndices, Targets::kDense, Targets::kSparse)),
                         NameOf);

// ---- losses without a softmax ----

class OtherLossesFamily : public ::testing::TestWithParam<DataType> {};

std::string TypeName(const ::testing::TestParamInfo<DataType>& info) { return Name(info.param); }

void FinishSpec(int i, const Shape& elements, std::mt19937_64& random, Batch& batch) {
  batch.spec.outputs.Add(Output::kLogitsGradient);
  batch.spec.outputs.Add(Output::kElementLoss);
  batch.spec.reduction = static_cast<Reduction>(i % 3);
  batch.spec.unit = static_cast<InformationUnit>(i % 2);
  batch.spec.gradient_type = static_cast<DataType>(i % 5);
  if (i % 4 == 1) {
    batch.sample_weights = testing::RandomFloats({DataType::kFloat32, elements}, random, 1, 0.5);
    if (batch.sample_weights.size() > 0) batch.sample_weights.set(0, 0);
  }
  if (batch.spec.reduction == Reduction::kNone) {
    batch.upstream_gradient = testing::RandomFloats({DataType::kFloat64, elements}, random, 0, 1);
  }
}

TEST_P(OtherLossesFamily, NegativeLogLikelihood) {
  std::mt19937_64 random(1);
  for (const Layout& layout : kLayouts) {
    for (int64_t num_classes : {1, 2, 17, 123}) {
      for (int i = 0; i < 24; ++i) {
        BatchOptions options{
            .type = GetParam(), .outer = layout.outer, .num_classes = num_classes, .inner = layout.inner};
        Vary(i, options);
        Batch batch = testing::RandomBatch(options, random);
        const CrossEntropy indices = std::get<CrossEntropy>(batch.spec.loss);
        batch.spec.loss = NegativeLogLikelihood{indices.ignore_index, indices.class_axis};
        batch.spec.outputs = {Output::kPredictedClass, Output::kTargetLogProbability};
        FinishSpec(i, batch.targets.type().shape, random, batch);
        ASSERT_EQ(testing::CompareOnEverySimdTarget(batch), "") << layout.name << " C=" << num_classes << ' ' << i;
      }
    }
  }
}

const Shape kEntryShapes[] = {{}, {1}, {7}, {0}, {3, 5}, {2, 3, 4}, {65, 17}};

TEST_P(OtherLossesFamily, KlDivergence) {
  std::mt19937_64 random(2);
  for (const Shape& shape : kEntryShapes) {
    for (int i = 0; i < 24; ++i) {
      Batch batch;
      const bool log_target = i % 3 == 2;
      batch.spec.loss = KlDivergence{log_target};
      batch.logits = testing::RandomFloats({GetParam(), shape}, random, -2, 1);
      const DataType target_type = i % 2 == 0 ? GetParam() : DataType::kFloat32;
      batch.targets = testing::RandomFloats({target_type, shape}, random, log_target ? -2 : 0.3, 0.5, !log_target);
      if (batch.targets.size() > 2) batch.targets.set(2, log_target ? -INFINITY : 0);
      batch.spec.outputs = {Output::kTargetsGradient};
      FinishSpec(i, shape, random, batch);
      if (i % 5 == 4 && shape.rank() > 0) batch.spec.reduction = Reduction::kBatchMean;
      if (batch.spec.reduction != Reduction::kNone) batch.upstream_gradient = {};
      ASSERT_EQ(testing::CompareOnEverySimdTarget(batch), "") << ToString(shape) << ' ' << i;
    }
  }
}

TEST_P(OtherLossesFamily, BinaryCrossEntropy) {
  std::mt19937_64 random(3);
  for (const Shape& shape : kEntryShapes) {
    for (int i = 0; i < 24; ++i) {
      Batch batch;
      batch.spec.loss = BinaryCrossEntropy{i % 3 == 1 ? 0.2 : 0.0};
      batch.logits = testing::RandomFloats({GetParam(), shape}, random, 0, 8);
      batch.targets = testing::RandomFloats({GetParam(), shape}, random, 0, 0.4, true);
      if (batch.targets.size() > 2) batch.targets.set(2, 1);
      Shape weights;  // the logits' shape, its last axis, an axis of 1 in front, or a scalar
      for (int axis = i % 4 == 0 ? 0 : shape.rank() - 1; axis >= 0 && axis < shape.rank(); ++axis) {
        weights.push_back(i % 4 == 2 ? 1 : shape[axis]);
      }
      if (i % 4 != 3) batch.class_weights = testing::RandomFloats({DataType::kFloat32, weights}, random, 1, 0.5, true);
      if (i % 5 != 2) batch.spec.outputs = {Output::kTargetsGradient};
      FinishSpec(i, shape, random, batch);
      ASSERT_EQ(testing::CompareOnEverySimdTarget(batch), "") << ToString(shape) << ' ' << i;
    }
  }
}

INSTANTIATE_TEST_SUITE_P(AllTypes, OtherLossesFamily, kEveryType, TypeName);

}  // namespace
}  // namespace lossd
