// Gradients against finite differences of the loss, in float64: no formula is shared with what is tested.
#include <gtest/gtest.h>

#include <cmath>

#include "absl/strings/str_cat.h"
#include "tests/batch.h"

namespace lossd {
namespace {

using testing::Batch;
using testing::Outcome;
using testing::OwnedTensor;

constexpr double kStep = 1e-5;

// The number whose gradient is asked: the reduced loss times its upstream gradient, or the weighted sum of all losses.
double Objective(const Batch& batch) {
  const absl::StatusOr<Outcome> outcome = testing::Evaluate(batch);
  EXPECT_TRUE(outcome.ok()) << outcome.status();
  const OwnedTensor& loss = outcome->results.loss;
  const OwnedTensor& upstream = batch.upstream_gradient;
  double sum = 0;
  for (int64_t i = 0; i < loss.size(); ++i) {
    const double g = !upstream ? 1 : upstream.at(upstream.size() == loss.size() ? i : 0);
    sum += g * loss.at(i);
  }
  return sum;
}

// Compares a gradient with the slope of the objective along each entry of the tensor it belongs to.
void ExpectSlopes(Batch& batch, OwnedTensor& tensor, const OwnedTensor& gradient, const std::string& what) {
  for (int64_t i = 0; i < tensor.size(); ++i) {
    const double x = tensor.at(i);
    tensor.set(i, x + kStep);
    const double above = Objective(batch);
    tensor.set(i, x - kStep);
    const double below = Objective(batch);
    tensor.set(i, x);
    const double slope = (above - below) / (2 * kStep);
    EXPECT_NEAR(gradient.at(i), slope, 3e-9 + 1e-7 * std::fabs(slope)) << what << ' ' << i;
  }
}

void ExpectGradientsMatch(Batch batch, const std::string& what) {
  const bool probabilities = batch.target_probabilities || IsFloat(batch.targets.type().data_type);
  batch.spec.outputs = {Output::kLogitsGradient};
  if (probabilities) batch.spec.outputs.Add(Output::kTargetsGradient);
  const absl::StatusOr<Outcome> outcome = testing::Evaluate(batch);
  ASSERT_TRUE(outcome.ok()) << what << ' ' << outcome.status();
  ExpectSlopes(batch, batch.logits, outcome->results.logits_gradient, what + " logits");
  if (!probabilities) return;
  OwnedTensor& masses = batch.target_probabilities ? batch.target_probabilities : batch.targets;
  ExpectSlopes(batch, masses, outcome->results.targets_gradient, what + " targets");
}

struct ModifierCase {
  const char* name;
  CrossEntropy loss;
  bool indices_only = false;
};

const ModifierCase kModifiers[] = {
    {"plain", {}},
    {"smoothing", {.label_smoothing = 0.2}},
    {"all smoothing", {.label_smoothing = 1}},
    {"z-loss", {.z_loss = 0.03}},
    {"temperature", {.temperature = 2.5}},
    {"softcap", {.softcap = 2}},
    {"temperature, softcap, z-loss and smoothing",
     {.label_smoothing = 0.1, .z_loss = 0.01, .softcap = 3, .temperature = 0.7}},
    {"focal", {.focal_gamma = 2}, true},
    {"focal below 1", {.focal_gamma = 0.5}, true},
    {"poly", {.poly_epsilon = 1.5}, true},
    {"focal, poly, softcap and z-loss", {.z_loss = 0.01, .softcap = 3, .focal_gamma = 1.5, .poly_epsilon = -0.5}, true},
};

enum class Targets { kIndices, kDense, kSparse };

Batch MakeBatch(Targets targets, const CrossEntropy& loss, Reduction reduction, bool weighted,
                std::mt19937_64& random) {
  testing::BatchOptions options{.type = DataType::kFloat64, .outer = {3}, .num_classes = 5, .inner = {2}};
  if (targets == Targets::kDense) options.target_type = DataType::kFloat64;
  if (targets == Targets::kSparse) options.sparse_size = 3;
  options.class_weights = options.sample_weights = options.ignore_some = weighted;
  options.scale = 1.5;
  Batch batch = testing::RandomBatch(options, random);
  const CrossEntropy drawn = std::get<CrossEntropy>(batch.spec.loss);
  CrossEntropy& spec = batch.spec.loss.emplace<CrossEntropy>(loss);
  spec.class_axis = drawn.class_axis;
  spec.ignore_index = drawn.ignore_index;
  batch.spec.reduction = reduction;
  batch.spec.unit = weighted ? InformationUnit::kBits : InformationUnit::kNats;
  const Shape upstream = reduction == Reduction::kNone && weighted ? Shape{3, 2} : Shape{};
  batch.upstream_gradient = OwnedTensor({DataType::kFloat64, upstream});
  for (int64_t i = 0; i < batch.upstream_gradient.size(); ++i) {
    batch.upstream_gradient.set(i, 0.5 * static_cast<double>(i) - 0.7);
  }
  return batch;
}

TEST(GradientTest, CrossEntropy) {
  std::mt19937_64 random(1);
  for (const ModifierCase& modifier : kModifiers) {
    for (Targets targets : {Targets::kIndices, Targets::kDense, Targets::kSparse}) {
      if (modifier.indices_only && targets != Targets::kIndices) continue;
      for (Reduction reduction : {Reduction::kMean, Reduction::kSum, Reduction::kNone}) {
        for (bool weighted : {false, true}) {
          const Batch batch = MakeBatch(targets, modifier.loss, reduction, weighted, random);
          ExpectGradientsMatch(batch,
                               absl::StrCat(modifier.name, ", targets ", static_cast<int>(targets), ", reduction ",
                                            static_cast<int>(reduction), ", weighted ", weighted));
        }
      }
    }
  }
}

TEST(GradientTest, Normalizer) {
  std::mt19937_64 random(2);
  Batch batch = testing::RandomBatch({.type = DataType::kFloat64, .num_classes = 4}, random);
  batch.spec.normalizer = 17.5;
  ExpectGradientsMatch(batch, "normalizer");
}

TEST(GradientTest, NegativeLogLikelihood) {
  std::mt19937_64 random(3);
  Batch batch = testing::RandomBatch(
      {.type = DataType::kFloat64, .num_classes = 4, .inner = {3}, .class_weights = true, .ignore_some = true}, random);
  batch.spec.loss = NegativeLogLikelihood{.ignore_index = -1, .class_axis = 1};
  ExpectGradientsMatch(batch, "negative log-likelihood");
}

TEST(GradientTest, LossesOfEntries) {
  std::mt19937_64 random(4);
  for (const Loss& loss : {Loss(KlDivergence{false}), Loss(KlDivergence{true}), Loss(BinaryCrossEntropy{0}),
                           Loss(BinaryCrossEntropy{0.3})}) {
    for (Reduction reduction : {Reduction::kMean, Reduction::kSum, Reduction::kNone, Reduction::kBatchMean}) {
      const bool kl = std::holds_alternative<KlDivergence>(loss);
      if (reduction == Reduction::kBatchMean && !kl) continue;
      const Shape shape{3, 4};
      Batch batch;
      batch.spec.loss = loss;
      batch.spec.reduction = reduction;
      batch.logits = testing::RandomFloats({DataType::kFloat64, shape}, random, 0, 2);
      batch.targets = testing::RandomFloats({DataType::kFloat64, shape}, random, 0.5, 0.2, true);
      batch.sample_weights = testing::RandomFloats({DataType::kFloat64, shape}, random, 1, 0.5);
      if (!kl) batch.class_weights = testing::RandomFloats({DataType::kFloat64, {4}}, random, 1, 0.5, true);
      ExpectGradientsMatch(batch, absl::StrCat(Name(loss), " reduction ", static_cast<int>(reduction)));
    }
  }
}

}  // namespace
}  // namespace lossd
