// What MakePlan() and WeighElements() refuse, and in which words.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "loss/loss.h"
#include "tests/batch.h"

namespace lossd {
namespace {

using testing::Batch;
using ::testing::HasSubstr;
using testing::OwnedTensor;

constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
constexpr absl::StatusCode kInvalid = absl::StatusCode::kInvalidArgument;

struct Request {
  Spec spec;
  InputTypes inputs = {.logits = {DataType::kFloat32, {4, 10}},
                       .targets = {DataType::kInt64, {4}},
                       .target_probabilities = {},
                       .class_weights = {},
                       .sample_weights = {},
                       .upstream_gradient = {}};

  CrossEntropy& loss() { return std::get<CrossEntropy>(spec.loss); }
};

struct RefusedCase {
  const char* name;
  std::function<void(Request&)> change;
  absl::StatusCode code;
  std::vector<const char*> words;
};

TensorType Float(const Shape& shape) { return {DataType::kFloat32, shape}; }

const RefusedCase kRefused[] = {
    {"count overflows",
     [](Request& r) {
       r.inputs.logits = Float({int64_t{1} << 32, int64_t{1} << 32});
     },
     kInvalid,
     {"logits.shape", "4294967296", "9223372036854775807"}},
    {"bytes overflow",
     [](Request& r) {
       r.inputs.logits = Float({int64_t{1} << 31, int64_t{1} << 31});
     },
     kInvalid,
     {"logits.shape", "2147483648"}},
    {"a float16 row that overflows as float64",
     [](Request& r) {
       r.inputs.logits = {DataType::kFloat16, {1, int64_t{1} << 61}};
       r.inputs.targets.shape = Shape{1};
       r.loss().temperature = 2;
     },
     kInvalid,
     {"logits.shape", "4611686018427387904", "70368744177664"}},
    {"sparse targets whose scratch overflows",
     [](Request& r) {
       r.inputs.logits = Float({1, 10});
       r.inputs.targets = {DataType::kInt8, {1, int64_t{1} << 60}};
       r.inputs.target_probabilities = {DataType::kFloat16, {1, int64_t{1} << 60}};
     },
     kInvalid,
     {"targets.shape", "1152921504606846976", "70368744177664"}},
    {"negative extent",
     [](Request& r) {
       r.inputs.logits = Float({4, -1});
     },
     kInvalid,
     {"logits.shape[1] = -1"}},
    {"INT64_MIN extent",
     [](Request& r) { r.inputs.targets.shape = Shape{kMin}; },
     kInvalid,
     {"targets.shape[0] = -9223372036854775808"}},
    {"bad extent behind a zero one",
     [](Request& r) {
       r.inputs.logits = Float({0, -7});
     },
     kInvalid,
     {"[1] = -7"}},
    {"overflow behind a zero one",
     [](Request& r) {
       r.inputs.logits = Float({0, kMax, kMax});
     },
     kInvalid,
     {"logits.shape"}},
    {"scalar logits", [](Request& r) { r.inputs.logits = Float({}); }, kInvalid, {"logits.shape = []"}},
    {"no classes",
     [](Request& r) {
       r.inputs.logits = Float({4, 0});
     },
     kInvalid,
     {"logits.shape = [4, 0]", "axis 1"}},
    {"no logits", [](Request& r) { r.inputs.logits = {}; }, kInvalid, {"logits: missing"}},
    {"no targets", [](Request& r) { r.inputs.targets = {}; }, kInvalid, {"targets: missing"}},
    {"integer logits",
     [](Request& r) { r.inputs.logits.data_type = DataType::kInt32; },
     kInvalid,
     {"logits.data_type is int32"}},
    {"bool targets",
     [](Request& r) { r.inputs.targets.data_type = DataType::kBool; },
     kInvalid,
     {"targets.data_type is bool"}},
    {"targets of another shape", [](Request& r) { r.inputs.targets.shape = Shape{5}; }, kInvalid, {"[5]", "[4]"}},
    {"probabilities of another shape",
     [](Request& r) {
       r.inputs.targets = Float({4, 9});
     },
     kInvalid,
     {"[4, 9]", "[4, 10]"}},
    {"class weights of another length",
     [](Request& r) { r.inputs.class_weights = Float({9}); },
     kInvalid,
     {"class_weights.shape = [9]", "[10]"}},
    {"integer class weights",
     [](Request& r) {
       r.inputs.class_weights = {DataType::kInt64, {10}};
     },
     kInvalid,
     {"class_weights.data_type is int64"}},
    {"sample weights of another shape",
     [](Request& r) {
       r.inputs.sample_weights = Float({4, 1});
     },
     kInvalid,
     {"sample_weights.shape = [4, 1]", "[4]"}},
    {"upstream gradient of a mean",
     [](Request& r) { r.inputs.upstream_gradient = Float({4}); },
     kInvalid,
     {"upstream_gradient.shape = [4]", "scalar"}},
    {"upstream gradient of another shape",
     [](Request& r) {
       r.spec.reduction = Reduction::kNone;
       r.inputs.upstream_gradient = Float({3});
     },
     kInvalid,
     {"upstream_gradient.shape = [3]", "[4]"}},
    {"smoothing below 0", [](Request& r) { r.loss().label_smoothing = -0.1; }, kInvalid, {"label_smoothing = -0.1"}},
    {"smoothing above 1",
     [](Request& r) { r.loss().label_smoothing = 1.5; },
     kInvalid,
     {"label_smoothing = 1.5", "[0, 1]"}},
    {"smoothing a little above 1",
     [](Request& r) { r.loss().label_smoothing = 1.0000001; },
     kInvalid,
     {"label_smoothing = 1.0000001"}},
    {"smoothing NaN", [](Request& r) { r.loss().label_smoothing = std::nan(""); }, kInvalid, {"label_smoothing = nan"}},
    {"temperature 0", [](Request& r) { r.loss().temperature = 0; }, kInvalid, {"temperature = 0", "at least 1e-30"}},
    {"temperature inf", [](Request& r) { r.loss().temperature = HUGE_VAL; }, kInvalid, {"temperature = inf"}},
    {"normalizer 0", [](Request& r) { r.spec.normalizer = 0; }, kInvalid, {"normalizer = 0", "> 0"}},
    {"normalizer negative", [](Request& r) { r.spec.normalizer = -3; }, kInvalid, {"normalizer = -3"}},
    {"normalizer NaN", [](Request& r) { r.spec.normalizer = std::nan(""); }, kInvalid, {"normalizer = nan"}},
    {"normalizer with a sum",
     [](Request& r) {
       r.spec.normalizer = 8;
       r.spec.reduction = Reduction::kSum;
     },
     kInvalid,
     {"normalizer = 8", "REDUCTION_MEAN"}},
    {"batch mean",
     [](Request& r) { r.spec.reduction = Reduction::kBatchMean; },
     kInvalid,
     {"REDUCTION_BATCH_MEAN", "cross_entropy"}},
    {"class axis too large", [](Request& r) { r.loss().class_axis = 2; }, kInvalid, {"class_axis = 2", "[-2, 2)"}},
    {"class axis too small", [](Request& r) { r.loss().class_axis = -3; }, kInvalid, {"class_axis = -3", "[-2, 2)"}},
    {"ignore_index with probabilities",
     [](Request& r) {
       r.inputs.targets = Float({4, 10});
       r.loss().ignore_index = 3;
     },
     kInvalid,
     {"ignore_index = 3", "sample weight 0"}},
    {"targets gradient of class indices",
     [](Request& r) { r.spec.outputs = {Output::kTargetsGradient}; },
     kInvalid,
     {"OUTPUT_TARGETS_GRADIENT", "class indices"}},
    {"focal with smoothing",
     [](Request& r) {
       r.loss().focal_gamma = 2;
       r.loss().label_smoothing = 0.1;
     },
     kInvalid,
     {"focal_gamma = 2", "label_smoothing = 0.1"}},
    {"poly with probabilities",
     [](Request& r) {
       r.loss().poly_epsilon = 1;
       r.inputs.targets = Float({4, 10});
     },
     kInvalid,
     {"poly_epsilon = 1", "class indices"}},
    {"softcap NaN", [](Request& r) { r.loss().softcap = std::nan(""); }, kInvalid, {"softcap = nan"}},
    {"z_loss negative", [](Request& r) { r.loss().z_loss = -1; }, kInvalid, {"z_loss = -1"}},
    {"focal negative", [](Request& r) { r.loss().focal_gamma = -1; }, kInvalid, {"focal_gamma = -1"}},
    {"poly inf", [](Request& r) { r.loss().poly_epsilon = HUGE_VAL; }, kInvalid, {"poly_epsilon = inf"}},
    {"log-probability of the target of a distribution",
     [](Request& r) {
       r.inputs.targets = Float({4, 10});
       r.spec.outputs = {Output::kTargetLogProbability};
     },
     kInvalid,
     {"OUTPUT_TARGET_LOG_PROBABILITY", "OUTPUT_LOG_PROBABILITIES"}},
    {"several classes without probabilities",
     [](Request& r) {
       r.inputs.targets.shape = Shape{4, 3};
     },
     kInvalid,
     {"[4, 3]", "target_probabilities"}},
    {"sparse targets of another shape",
     [](Request& r) {
       r.inputs.targets.shape = Shape{5, 3};
       r.inputs.target_probabilities = Float({5, 3});
     },
     kInvalid,
     {"[5, 3]", "[4]", "K"}},
    {"sparse probabilities of another shape",
     [](Request& r) {
       r.inputs.targets.shape = Shape{4, 3};
       r.inputs.target_probabilities = Float({4, 2});
     },
     kInvalid,
     {"target_probabilities.shape = [4, 2]", "[4, 3]"}},
    {"sparse probabilities beside dense ones",
     [](Request& r) {
       r.inputs.targets = Float({4, 10});
       r.inputs.target_probabilities = Float({4, 10});
     },
     kInvalid,
     {"target_probabilities", "integer type"}},
    {"an integer gradient",
     [](Request& r) { r.spec.gradient_type = DataType::kInt8; },
     kInvalid,
     {"gradient_type = int8"}},
    {"KL of class indices",
     [](Request& r) { r.spec.loss = KlDivergence(); },
     kInvalid,
     {"targets is int64 of shape [4]", "[4, 10]"}},
    {"KL with class weights",
     [](Request& r) {
       r.spec.loss = KlDivergence();
       r.inputs.targets = r.inputs.logits;
       r.inputs.class_weights = Float({10});
     },
     kInvalid,
     {"class_weights", "kl_divergence", "sample_weights"}},
    {"batch mean of a scalar",
     [](Request& r) {
       r.spec.loss = KlDivergence();
       r.spec.reduction = Reduction::kBatchMean;
       r.inputs.logits = r.inputs.targets = Float({});
     },
     kInvalid,
     {"REDUCTION_BATCH_MEAN", "shape[0]"}},
    {"entropy of KL",
     [](Request& r) {
       r.spec.loss = KlDivergence();
       r.inputs.targets = r.inputs.logits;
       r.spec.outputs = {Output::kEntropy};
     },
     kInvalid,
     {"OUTPUT_ENTROPY", "kl_divergence", "cross_entropy"}},
    {"predicted class of binary cross-entropy",
     [](Request& r) {
       r.spec.loss = BinaryCrossEntropy();
       r.inputs.targets = r.inputs.logits;
       r.spec.outputs = {Output::kPredictedClass};
     },
     kInvalid,
     {"OUTPUT_PREDICTED_CLASS", "binary_cross_entropy"}},
    {"pos_weight that does not broadcast",
     [](Request& r) {
       r.spec.loss = BinaryCrossEntropy();
       r.inputs.targets = r.inputs.logits;
       r.inputs.class_weights = Float({4});
     },
     kInvalid,
     {"class_weights.shape = [4]", "[4, 10]"}},
    {"binary smoothing above 1",
     [](Request& r) { r.spec.loss = BinaryCrossEntropy{1.1}; },
     kInvalid,
     {"binary_cross_entropy.label_smoothing = 1.1"}},
    {"NLL with probabilities",
     [](Request& r) {
       r.spec.loss = NegativeLogLikelihood();
       r.inputs.targets = r.inputs.logits;
     },
     kInvalid,
     {"targets.data_type is float32"}},
    {"NLL with sparse targets",
     [](Request& r) {
       r.spec.loss = NegativeLogLikelihood();
       r.inputs.target_probabilities = Float({4, 2});
     },
     kInvalid,
     {"target_probabilities", "negative_log_likelihood", "cross_entropy"}},
    {"probabilities of NLL",
     [](Request& r) {
       r.spec.loss = NegativeLogLikelihood();
       r.spec.outputs = {Output::kProbabilities};
     },
     kInvalid,
     {"OUTPUT_PROBABILITIES", "negative_log_likelihood"}},
};

TEST(PlanTest, RefusedRequests) {
  for (const RefusedCase& test : kRefused) {
    Request request;
    test.change(request);
    const absl::StatusOr<Plan> plan = MakePlan(request.spec, request.inputs);
    ASSERT_FALSE(plan.ok()) << test.name;
    EXPECT_EQ(plan.status().code(), test.code) << test.name << ": " << plan.status();
    for (const char* words : test.words) EXPECT_THAT(plan.status().message(), HasSubstr(words)) << test.name;
  }
}

struct TargetCase {
  const char* name;
  int64_t target;
  const char* words;
};

TEST(PlanTest, TargetsOutOfRange) {
  const TargetCase cases[] = {
      {"-1", -1, "targets[2] = -1 is outside [0, 10)"},
      {"C", 10, "targets[2] = 10 is outside [0, 10)"},
      {"INT64_MIN", kMin, "targets[2] = -9223372036854775808"},
      {"INT64_MAX", kMax, "targets[2] = 9223372036854775807"},
      {"a 32-bit cast would save it", (int64_t{1} << 32) + 1, "targets[2] = 4294967297"},
  };
  for (const TargetCase& test : cases) {
    Batch batch;
    batch.logits = OwnedTensor({DataType::kFloat32, {4, 10}});
    batch.targets = OwnedTensor::Indices({4}, {0, 9, test.target, 1});
    const auto outcome = testing::Evaluate(batch);
    ASSERT_FALSE(outcome.ok()) << test.name;
    EXPECT_EQ(outcome.status().code(), kInvalid) << test.name;
    EXPECT_THAT(outcome.status().message(), HasSubstr(test.words)) << test.name;
  }
}

TEST(PlanTest, SizesAreKnownBeforeAnythingIsAllocated) {
  Request request;
  request.inputs.logits = Float({1 << 20, 1 << 20});
  request.inputs.targets.shape = Shape{1 << 20};
  request.spec.outputs = {Output::kLogitsGradient, Output::kElementLoss};
  const absl::StatusOr<Plan> plan = MakePlan(request.spec, request.inputs);
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->result_bytes, (int64_t{4} << 40) + (int64_t{4} << 20) + 4);
  EXPECT_EQ(plan->num_elements, 1 << 20);
}

TEST(PlanTest, ScratchOfLongRowsIsThatOfTheRowsThereAre) {
  Spec spec;
  spec.outputs = {Output::kLogitsGradient};
  InputTypes inputs;
  inputs.logits = {DataType::kFloat32, {1, 1 << 24, 2}};
  inputs.targets = {DataType::kInt64, {1, 2}};
  // One row, its gradient, and a little for its parts.
  EXPECT_LT(MakePlan(spec, inputs)->scratch_bytes, 2 * (int64_t{1} << 24) * 4 + (1 << 14));
}

// Logits are read in pieces where no step needs more of them at a time than a block.
TEST(PlanTest, ReadsPieces) {
  const OutputSet gradient = {Output::kLogitsGradient};
  const struct {
    const char* name;
    Shape logits;
    OutputSet outputs;
    Loss loss = CrossEntropy();
    DataType gradient_type = DataType::kUnspecified;
    DataType type = DataType::kFloat32, targets = DataType::kInt64;
    bool want = false;
  } kCases[] = {
      {.name = "rows", .logits = {8, 1000}, .outputs = gradient, .want = true},
      {.name = "no gradient", .logits = {8, 1000}, .outputs = {Output::kElementLoss}, .want = true},
      {.name = "label smoothing",
       .logits = {8, 1000},
       .outputs = gradient,
       .loss = CrossEntropy{.label_smoothing = 0.1},
       .want = true},
      {.name = "short rows", .logits = {8, 100}, .outputs = gradient},
      {.name = "classes before others", .logits = {8, 1000, 2}, .outputs = gradient},
      {.name = "the longest rows", .logits = {8, kRowPart}, .outputs = gradient, .want = true},
      {.name = "rows in parts", .logits = {8, kRowPart + 1}},
      {.name = "doubles that are kept",
       .logits = {8, kRowPart / 2},
       .outputs = gradient,
       .type = DataType::kFloat64,
       .want = true},
      {.name = "doubles that are not",
       .logits = {8, kRowPart / 2 + 1},
       .outputs = gradient,
       .type = DataType::kFloat64},
      {.name = "probabilities", .logits = {8, 1000}, .outputs = gradient, .targets = DataType::kFloat32, .want = true},
      {.name = "widened probabilities", .logits = {8, 1000}, .targets = DataType::kBfloat16, .want = true},
      {.name = "the same with gradient", .logits = {8, 1000}, .outputs = gradient, .targets = DataType::kBfloat16},
      {.name = "another type", .logits = {8, 1000}, .outputs = gradient, .gradient_type = DataType::kFloat64},
      {.name = "all probabilities", .logits = {8, 1000}, .outputs = {Output::kProbabilities}},
      {.name = "entropy", .logits = {8, 1000}, .outputs = {Output::kEntropy}},
      {.name = "temperature", .logits = {8, 1000}, .loss = CrossEntropy{.temperature = 2}, .want = true},
      {.name = "temperature and another type",
       .logits = {8, 1000},
       .loss = CrossEntropy{.temperature = 2},
       .type = DataType::kBfloat16},
      {.name = "a tiny temperature", .logits = {8, 1000}, .loss = CrossEntropy{.temperature = 1e-20}},
      {.name = "softcap", .logits = {8, 1000}, .loss = CrossEntropy{.softcap = 30}},
      {.name = "no softmax", .logits = {8, 1000}, .loss = NegativeLogLikelihood()},
      {.name = "no elements", .logits = {0, 1000}},
  };
  for (const auto& test : kCases) {
    Request request;
    request.inputs.logits = {test.type, test.logits};
    request.inputs.targets = {test.targets, IsFloat(test.targets) ? test.logits : test.logits.Without(1)};
    request.spec.outputs = test.outputs;
    request.spec.loss = test.loss;
    request.spec.gradient_type = test.gradient_type;
    const absl::StatusOr<Plan> plan = MakePlan(request.spec, request.inputs);
    ASSERT_TRUE(plan.ok()) << test.name << ": " << plan.status();
    EXPECT_EQ(plan->reads_pieces, test.want) << test.name;
  }
}

TEST(PlanTest, DefaultClassAxis) {
  for (const auto& [shape, classes] : {std::pair<Shape, int64_t>{{7}, 7}, {{2, 7}, 7}, {{2, 7, 3}, 7}}) {
    Request request;
    request.inputs.logits = Float(shape);
    request.inputs.targets.shape = shape.Without(shape.rank() == 1 ? 0 : 1);
    const absl::StatusOr<Plan> plan = MakePlan(request.spec, request.inputs);
    ASSERT_TRUE(plan.ok()) << plan.status();
    EXPECT_EQ(plan->num_classes, classes);
  }
}

// Many elements are weighed in shares, by several threads.
TEST(WeighElementsTest, SharesAddUp) {
  std::mt19937_64 random(21);
  const int64_t count = 5 * kWeighedElements + 77;
  Batch batch =
      testing::RandomBatch({.outer = {count}, .num_classes = 3, .class_weights = true, .ignore_some = true}, random);
  const testing::Outcome alone = testing::Evaluate(batch, 1).value(), together = testing::Evaluate(batch, 4).value();
  EXPECT_EQ(alone.weights.weight_sum, together.weights.weight_sum);
  EXPECT_EQ(alone.weights.ignored_count, together.weights.ignored_count);
  long double weight_sum = 0;
  int64_t ignored = 0;
  for (int64_t row = 0; row < count; ++row) {
    const int64_t target = batch.targets.integer(row);
    ignored += target < 0;
    if (target >= 0) weight_sum += batch.class_weights.at(target);
  }
  EXPECT_GT(ignored, 0);
  EXPECT_EQ(together.weights.ignored_count, ignored);
  EXPECT_NEAR(together.weights.weight_sum / static_cast<double>(weight_sum), 1, 1e-12);
  // The first of the bad ones is named, whoever finds it.
  batch.targets.set(4 * kWeighedElements + 5, 17);
  batch.targets.set(kWeighedElements + 9, 3);
  for (int threads : {1, 4}) {
    const auto refused = testing::Evaluate(batch, threads);
    EXPECT_EQ(refused.status().code(), kInvalid);
    EXPECT_THAT(refused.status().message(),
                HasSubstr(absl::StrCat("targets[", kWeighedElements + 9, "] = 3 is outside")));
  }
}

}  // namespace
}  // namespace lossd
