// Losses of entries: in float and in double, alone and beside any others, on every SIMD target.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "loss/loss.h"
#include "loss/pointwise.h"
#include "loss/row.h"
#include "tests/batch.h"

namespace lossd {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

const Loss kEntryLosses[] = {KlDivergence{false}, KlDivergence{true}, BinaryCrossEntropy{0}, BinaryCrossEntropy{0.25},
                             BinaryCrossEntropy{1}};

testing::Batch EntryBatch(const Loss& loss, DataType type, const Shape& shape) {
  std::mt19937_64 random(3);
  testing::Batch batch;
  batch.spec.loss = loss;
  batch.spec.reduction = Reduction::kNone;
  batch.spec.outputs = {Output::kLogitsGradient, Output::kTargetsGradient};
  batch.logits = testing::RandomFloats({type, shape}, random, 0, 5);
  batch.targets = testing::RandomFloats({type, shape}, random, 0.5, 0.5, true);
  return batch;
}

// exp(t) is a normal double: where it is not, the reference knows more of it.
TEST(EntriesTest, EveryPairOfHardNumbers) {
  const std::vector<double> targets = {0,  -0.0, 1e-310, -1e-310, 1e-38, 1,   -1,  0.5,  20,   -20,
                                       64, -64,  64.5,   0x1p-60, 1e-19, 690, 1.5, -690, -700, kNan};
  std::vector<double> logits = targets;
  logits.insert(logits.end(),
                {80, -80, 100, 1e12, -1e13, 700, 705, -740, 745, -705, 1000, 1e30, 1e300, -1e300, kInf, -kInf});
  const auto rows = static_cast<int64_t>(targets.size()), columns = static_cast<int64_t>(logits.size());
  for (const Loss& loss : kEntryLosses) {
    for (DataType type : {DataType::kFloat32, DataType::kFloat64, DataType::kBfloat16}) {
      testing::Batch batch = EntryBatch(loss, type, {rows, columns});
      for (int64_t i = 0; i < rows * columns; ++i) {
        batch.logits.set(i, logits[static_cast<size_t>(i % columns)]);
        batch.targets.set(i, targets[static_cast<size_t>(i / columns)]);
      }
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << Name(loss) << ' ' << Name(type);
      batch.upstream_gradient = testing::OwnedTensor({DataType::kFloat32, {rows, columns}});  // zeros
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << Name(loss) << ' ' << Name(type);
      if (type == DataType::kFloat64) continue;
      const double factors[] = {1, 0, 1e-7, -1e-5, 3, 1e6, -2e6, 1e12, 1e-13, 1e38, 1e-42};
      batch.sample_weights = batch.upstream_gradient;
      for (int64_t i = 0; i < rows * columns; ++i) {
        batch.sample_weights.set(i, factors[i % 11]);
        batch.upstream_gradient.set(i, factors[(i / 11) % 11]);
      }
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << Name(loss) << ' ' << Name(type) << ", weighed";
    }
  }
}

// An entry has the same bits wherever it is, and whatever its neighbours need.
TEST(EntriesTest, EntriesHaveTheSameBitsBesideAnyOthers) {
  constexpr int64_t kSize = 3 * kChunkEntries + 13;
  for (const Loss& loss : kEntryLosses) {
    for (DataType type : {DataType::kFloat64, DataType::kFloat32, DataType::kFloat16}) {
      const testing::Batch batch = EntryBatch(loss, type, {kSize});
      testing::Batch moved = EntryBatch(loss, type, {kSize});
      for (int64_t i = 0; i < kSize; ++i) {
        moved.logits.set(i, batch.logits.at((i + 5) % kSize));
        moved.targets.set(i, batch.targets.at((i + 5) % kSize));
      }
      for (int64_t i = 3; i < kSize; i += 100) moved.logits.set(i, i % 200 == 3 ? kInf : kNan);
      testing::ForEachSimdTarget([&](const char* target) {
        const testing::Outcome a = testing::Evaluate(batch).value(), b = testing::Evaluate(moved).value();
        for (int64_t i = 0; i < kSize; ++i) {
          if (i % 100 == 3) continue;
          const int64_t from = (i + 5) % kSize;
          ASSERT_EQ(b.results.loss.at(i), a.results.loss.at(from)) << target << ' ' << i;
          ASSERT_EQ(b.results.logits_gradient.at(i), a.results.logits_gradient.at(from)) << target << ' ' << i;
          ASSERT_EQ(b.results.targets_gradient.at(i), a.results.targets_gradient.at(from)) << target << ' ' << i;
        }
      });
    }
  }
}

// What only the plain KL divergence can be asked: exp() of such targets would overflow.
TEST(EntriesTest, LargeTargets) {
  testing::Batch batch = EntryBatch(KlDivergence{}, DataType::kFloat32, {4, 6});
  const double targets[] = {1e6, 0x1p40, 0x1.000002p40, 1e20},
               logits[] = {0, 1e12, 0x1p40, -0x1.000002p40, 1e18, -1e30};
  for (int64_t i = 0; i < 24; ++i) {
    batch.targets.set(i, targets[i / 6]);
    batch.logits.set(i, logits[i % 6]);
  }
  EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "");
  batch.spec.loss = KlDivergence{.log_target = true};
  batch.sample_weights = testing::OwnedTensor({DataType::kFloat32, {4, 6}});
  const double log_targets[] = {1, 63, -63, 64}, other_logits[] = {0, 1000, -16000, 17000, 1e6, -1e6};
  for (int64_t i = 0; i < 24; ++i) {
    batch.targets.set(i, log_targets[i / 6]);
    batch.logits.set(i, other_logits[i % 6]);
    batch.sample_weights.set(i, 1e6);
  }
  EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "");
}

// Floats are enough for what users send, and are used for it: they round more than once.
TEST(EntriesTest, OrdinaryEntriesAreLeftToFloats) {
  std::mt19937_64 random(8);
  std::normal_distribution<float> normal(0, 5);
  std::uniform_real_distribution<float> uniform(0, 1);
  FloatBuffer x, log_t, t, w, s, g, losses, gradient, targets_gradient;
  for (int64_t i = 0; i < kChunkEntries; ++i) {
    x.values[i] = normal(random);
    t.values[i] = i % 7 == 0 ? 0 : uniform(random);
    log_t.values[i] = -std::fabs(normal(random));
    w.values[i] = i % 5 == 0 ? 0 : 3;
    s.values[i] = i % 3 == 0 ? 0 : -2;
    g.values[i] = i % 3 == 0 ? 0 : 1e-9F;
  }
  testing::ForEachSimdTarget([&](const char* target) {
    if (!HasFloatEntries()) return;
    for (int64_t n : {kChunkEntries, kChunkEntries - 1, int64_t{1}}) {
      EntryBits extraordinary;
      FloatChunk chunk{.n = n, .logits = x.values, .sample_weights = s.values, .upstream = g.values};
      chunk.losses = losses.values;
      chunk.logits_gradient = gradient.values;
      chunk.extraordinary = &extraordinary;
      const auto expect_ordinary = [&](const char* what) {
        EXPECT_FALSE(extraordinary.any()) << target << ' ' << n << ' ' << what;
      };
      chunk.targets = t.values;
      EvaluateKl(chunk);
      expect_ordinary("KL divergence");
      chunk.pos_weights = w.values;
      EvaluateBinaryCrossEntropy(chunk, 0);
      expect_ordinary("binary cross-entropy, weights");
      chunk.pos_weights = nullptr;
      chunk.targets_gradient = targets_gradient.values;
      EvaluateBinaryCrossEntropy(chunk, 0.1);
      expect_ordinary("binary cross-entropy");
      EvaluateKl(chunk);
      expect_ordinary("KL divergence and the targets' gradient");
      chunk.targets = log_t.values;
      EvaluateKlOfLogTargets(chunk);
      expect_ordinary("KL divergence of logarithms");
      x.values[0] = kNan;  // of weight 0
      EvaluateKlOfLogTargets(chunk);
      expect_ordinary("NaN of weight 0");
      x.values[0] = 1;
    }
  });
  for (const Loss& loss : kEntryLosses) {
    const testing::Batch batch = EntryBatch(loss, DataType::kFloat32, {2000});
    const Reference truth = testing::Truth(batch);
    testing::ForEachSimdTarget([&](const char* target) {
      const testing::Outcome got = testing::Evaluate(batch).value();
      int rounded_more_than_once = 0;
      for (int64_t i = 0; i < 2000; ++i) {
        const long double want = truth.results.element_loss.value[static_cast<size_t>(i)];
        rounded_more_than_once += got.results.loss.at(i) != static_cast<double>(static_cast<float>(want));
      }
      EXPECT_EQ(rounded_more_than_once > 100, HasFloatEntries()) << target << ' ' << Name(loss);
    });
  }
}

// |got - want| in units of float's last place at `want`, less what `magnitude` excuses.
double FloatUlps(double got, long double want, long double magnitude, int excused_bits) {
  const long double off = std::fabs(got - want) - std::ldexp(magnitude, -excused_bits);
  const int exponent = std::max(std::ilogb(static_cast<double>(want)), -126);
  return static_cast<double>(off / std::ldexp(1.0L, exponent - 23));
}

void ExpectWithinFourUlps(const testing::Batch& batch, int bits, int bits_of_avx2, const std::string& what) {
  const Reference truth = testing::Truth(batch);
  testing::ForEachSimdTarget([&](const char* target) {
    const int excused_bits = std::string(target) == "AVX2" ? bits_of_avx2 : bits;
    const testing::Outcome got = testing::Evaluate(batch).value();
    for (int64_t i = 0; i < batch.logits.size(); ++i) {
      const auto at = static_cast<size_t>(i);
      const auto expect = [&](const char* name, double value, const ReferenceTensor& want) {
        ASSERT_LE(FloatUlps(value, want.value[at], want.magnitude[at], excused_bits), 4)
            << target << ' ' << what << ' ' << name << " of " << batch.logits.at(i) << ", " << batch.targets.at(i)
            << ": " << value << ", " << static_cast<double>(want.value[at]);
      };
      expect("loss", got.results.loss.at(i), truth.results.element_loss);
      expect("logits' gradient", got.results.logits_gradient.at(i), truth.results.logits_gradient);
    }
  });
}

// Digits that floats lose where a target is next to its prediction, and PyTorch's are lost, are here.
TEST(EntriesTest, LossesNextToTheirMinimumKeepDigits) {
  constexpr int64_t kSize = 20000;
  std::mt19937_64 random(9);
  std::uniform_real_distribution<float> uniform(0, 1);
  std::normal_distribution<float> normal(0, 3);
  testing::Batch kl = EntryBatch(KlDivergence{}, DataType::kFloat32, {kSize});
  testing::Batch bce = EntryBatch(BinaryCrossEntropy{}, DataType::kFloat32, {kSize});
  for (int64_t i = 0; i < kSize; ++i) {
    const float p = std::ldexp(0.5F + uniform(random) / 2, -static_cast<int>(i % 40)), x = normal(random);
    const float nearly = i % 4 == 0 ? 1 : 1 + std::ldexp(uniform(random) - 0.5F, -static_cast<int>(i % 23));
    kl.targets.set(i, p);
    kl.logits.set(i, std::log(p) * nearly);
    bce.logits.set(i, x);
    bce.targets.set(i, std::min(1.0F, nearly / (1 + std::exp(-x))));
    if (i % 4 == 0) {  // around 1, where logarithms are small and what they are made of is not
      kl.targets.set(i, 0.9F + 0.3F * uniform(random));
      kl.logits.set(i, std::log(static_cast<float>(kl.targets.at(i))));
    }
  }
  // 8 eps of the terms, the bound of everything in float, would be 20 bits. AVX2 has smaller tables.
  ExpectWithinFourUlps(kl, 29, 28, "KL divergence");
  ExpectWithinFourUlps(bce, 28, 27, "binary cross-entropy");
}

// What is left to doubles is part of the sum too, and the sum does not depend on how entries were cut.
TEST(EntriesTest, PiecesAddUpToTheWhole) {
  constexpr int64_t kSize = 5000;
  for (const Loss& loss : kEntryLosses) {
    testing::Batch batch = EntryBatch(loss, DataType::kFloat32, {kSize});
    batch.spec.reduction = Reduction::kSum;
    batch.spec.outputs = {Output::kElementLoss};
    for (int64_t i = 10; i < kSize; i += 301) batch.logits.set(i, i % 2 == 0 ? 1e13 : -2e13);
    testing::ForEachSimdTarget([&](const char* target) {
      const testing::Outcome whole = testing::Evaluate(batch).value();
      double elements = 0, pieces = 0;
      for (int64_t i = 0; i < kSize; ++i) elements += whole.results.element_loss.at(i);
      for (int64_t first = 0, n = 1; first < kSize; first += n, n = std::min(n * 2 + 1, kSize - first)) {
        testing::Batch piece = EntryBatch(loss, DataType::kFloat32, {n});
        piece.spec.reduction = Reduction::kSum;
        piece.spec.outputs = {};
        for (int64_t i = 0; i < n; ++i) {
          piece.logits.set(i, batch.logits.at(first + i));
          piece.targets.set(i, batch.targets.at(first + i));
        }
        pieces += testing::Evaluate(piece)->summary.loss_sum;
      }
      EXPECT_NEAR(whole.summary.loss_sum, pieces, 1e-12 * std::fabs(pieces)) << target << ' ' << Name(loss);
      EXPECT_NEAR(whole.summary.loss_sum, elements, 1e-7 * std::fabs(elements)) << target << ' ' << Name(loss);
    });
  }
}

// Of an entry of sample weight 0 nothing is left, not even a sign.
TEST(EntriesTest, WeightlessEntriesAreZero) {
  for (const Loss& loss : kEntryLosses) {
    testing::Batch batch = EntryBatch(loss, DataType::kFloat32, {300});
    for (int64_t i = 7; i < 300; i += 30) batch.logits.set(i, i % 4 == 1 ? kNan : kInf);
    batch.sample_weights = testing::OwnedTensor({DataType::kFloat32, {300}});
    batch.upstream_gradient = testing::OwnedTensor({DataType::kFloat32, {300}});
    for (int64_t i = 0; i < 300; ++i) batch.upstream_gradient.set(i, i % 3 == 0 ? 2 : i % 3 == 1 ? kNan : -kInf);
    testing::ForEachSimdTarget([&](const char* target) {
      const testing::Outcome got = testing::Evaluate(batch).value();
      const std::string zeros(300 * sizeof(float), '\0');
      EXPECT_EQ(got.results.loss.Bits(), zeros) << target << ' ' << Name(loss);
      EXPECT_EQ(got.results.logits_gradient.Bits(), zeros) << target << ' ' << Name(loss);
      EXPECT_EQ(got.results.targets_gradient.Bits(), zeros) << target << ' ' << Name(loss);
    });
  }
}

// Where floats would do for the entries, but not for what they are multiplied by.
TEST(EntriesTest, ExtremeUpstreamGradientsOfEntries) {
  for (const Loss& loss : kEntryLosses) {
    for (double upstream : {0.0, 65536.0, 0x1p60, 0x1.8p60, -1e20, 1e39, 1e-18, 1e-30, 1e-44, kInf, kNan}) {
      testing::Batch batch = EntryBatch(loss, DataType::kFloat32, {600});
      batch.spec.reduction = Reduction::kSum;
      batch.sample_weights = testing::OwnedTensor({DataType::kFloat32, {600}});
      for (int64_t i = 0; i < 600; ++i) batch.sample_weights.set(i, i % 3 == 0 ? 0 : 0.75);
      batch.upstream_gradient = testing::OwnedTensor::Doubles({}, {upstream});
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << Name(loss) << ' ' << upstream;
    }
  }
}

// Weights that floats would not do for, beside some that they would.
TEST(EntriesTest, HardPosWeights) {
  const std::vector<double> weights = {1, 0, -0.0, -3, kNan, kInf, 1e-7, 0x1p-20, 0x1p20, 2e6, 1e30, 1e-40};
  const std::vector<double> logits = {0, 3, -3, 60, -60, 1e-20, 100};
  const auto rows = static_cast<int64_t>(logits.size()), columns = static_cast<int64_t>(weights.size());
  for (double target : {0.0, 1.0, 0.3}) {
    for (double smoothing : {0.0, 0.5}) {
      testing::Batch batch = EntryBatch(BinaryCrossEntropy{smoothing}, DataType::kFloat32, {rows, columns});
      batch.spec.outputs = {Output::kLogitsGradient};
      batch.class_weights = testing::OwnedTensor({DataType::kFloat32, {columns}});
      for (int64_t c = 0; c < columns; ++c) batch.class_weights.set(c, weights[static_cast<size_t>(c)]);
      for (int64_t i = 0; i < rows * columns; ++i) {
        batch.logits.set(i, logits[static_cast<size_t>(i / columns)]);
        batch.targets.set(i, target);
      }
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << target << ' ' << smoothing;
    }
  }
}

// The gradient over the logits, which some chunks need twice; and inputs at any alignment.
TEST(EntriesTest, GradientsOfEntriesOverTheirLogits) {
  constexpr int64_t kSize = 3 * kChunkEntries + 13;
  for (const Loss& loss : kEntryLosses) {
    for (DataType type : {DataType::kFloat32, DataType::kBfloat16}) {
      testing::Batch batch = EntryBatch(loss, type, {kSize});
      batch.spec.outputs = {Output::kLogitsGradient};
      for (int64_t i = 300; i < kSize; i += 400) batch.logits.set(i, 1e13);
      testing::ForEachSimdTarget([&](const char* target) {
        const testing::Outcome want = testing::Evaluate(batch).value();
        for (int misalignment : {0, static_cast<int>(SizeOf(type))}) {
          testing::OwnedTensor logits({type, {kSize}}, misalignment), targets({type, {kSize}}, 3 * misalignment);
          std::memcpy(logits.data(), batch.logits.data(), static_cast<size_t>(kSize * SizeOf(type)));
          std::memcpy(targets.data(), batch.targets.data(), static_cast<size_t>(kSize * SizeOf(type)));
          testing::OwnedTensor losses(want.plan.results.loss);
          testing::OwnedTensor scratch({DataType::kInt8, Shape{want.plan.scratch_bytes}});
          Inputs inputs = batch.inputs();
          inputs.logits = logits.view();
          inputs.targets = targets.view();
          std::vector<BlockSummary> blocks(static_cast<size_t>(want.plan.num_blocks));
          const Results results{.loss = losses.mutable_view(), .logits_gradient = logits.mutable_view()};
          EvaluateBlocks(want.plan, inputs, want.weights, {0, want.plan.num_blocks}, results, scratch.data(), blocks);
          EXPECT_EQ(losses.Bits(), want.results.loss.Bits()) << target << ' ' << Name(loss);
          for (int64_t i = 0; i < kSize; ++i) {
            ASSERT_EQ(logits.at(i), want.results.logits_gradient.at(i)) << target << ' ' << Name(loss) << ' ' << i;
          }
        }
      });
    }
  }
}

// ln(1 + exp(-x)) - ln(1 + exp(x)).
TEST(EntriesTest, TargetsGradientOfBinaryCrossEntropyIsMinusX) {
  const std::vector<double> logits = {1e-8, -1e-12, 1e-17, 5e-324, -3e-9, 0.5,   -1.25,
                                      40,   -40,    700,   -700,   1e300, -1e300};
  testing::Batch batch;
  batch.spec.loss = BinaryCrossEntropy();
  batch.spec.reduction = Reduction::kNone;
  batch.spec.outputs = {Output::kTargetsGradient};
  const Shape shape{static_cast<int64_t>(logits.size())};
  batch.logits = testing::OwnedTensor::Doubles(shape, logits);
  batch.targets = testing::OwnedTensor::Doubles(shape, std::vector<double>(logits.size(), 0.25));
  testing::ForEachSimdTarget([&](const char* target) {
    const testing::Outcome outcome = testing::Evaluate(batch).value();
    for (size_t i = 0; i < logits.size(); ++i) {
      EXPECT_EQ(outcome.results.targets_gradient.at(static_cast<int64_t>(i)), -logits[i]) << target;
    }
  });
}

// Whatever a gradient is multiplied by, the loss of an entry is the same, and so is an ordinary entry's beside others.
TEST(EntriesTest, LossesDoNotDependOnTheScaleOfGradients) {
  for (const Loss& loss : kEntryLosses) {
    testing::ForEachSimdTarget([&](const char* target) {
      testing::Batch batch = EntryBatch(loss, DataType::kFloat32, {700});
      const testing::Outcome want = testing::Evaluate(batch).value();
      for (double upstream : {0.0, 1e-30, 1e30, kInf, kNan}) {
        batch.upstream_gradient = testing::OwnedTensor::Doubles({}, {upstream});
        for (const OutputSet& outputs : {OutputSet{}, OutputSet{Output::kLogitsGradient}}) {
          batch.spec.reduction = Reduction::kSum;
          batch.spec.outputs = outputs;
          batch.spec.outputs.Add(Output::kElementLoss);
          const testing::Outcome got = testing::Evaluate(batch).value();
          EXPECT_EQ(got.results.element_loss.Bits(), want.results.loss.Bits())
              << target << ' ' << Name(loss) << upstream;
        }
      }
    });
  }
}

// A smoothing that floats have hardly digits for may be all of a loss.
TEST(EntriesTest, TinySmoothing) {
  for (double smoothing : {1e-42, 1e-46, 1e-20, 0x1p-31, 0x1p-30}) {
    testing::Batch batch = EntryBatch(BinaryCrossEntropy{smoothing}, DataType::kFloat32, {4});
    batch.spec.outputs = {Output::kLogitsGradient};
    batch.class_weights = testing::OwnedTensor({DataType::kFloat32, {4}});
    batch.sample_weights = testing::OwnedTensor({DataType::kFloat32, {4}});
    for (int64_t i = 0; i < 4; ++i) {
      batch.logits.set(i, i % 2 == 0 ? 64 : -64);
      batch.targets.set(i, 1);
      batch.sample_weights.set(i, i < 2 ? 1 : 0x1p20);
    }
    EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << smoothing;
  }
}

TEST(EntriesTest, LossesDoNotDependOnTheSizeOfTheBatch) {
  const auto batch_of = [](const Loss& loss, int64_t size) {
    testing::Batch batch = EntryBatch(loss, DataType::kFloat32, {size});
    batch.spec.reduction = Reduction::kMean;
    batch.spec.outputs = {Output::kLogitsGradient, Output::kElementLoss};
    batch.upstream_gradient = testing::OwnedTensor::Doubles({}, {0x1p-57});
    for (int64_t i = 0; i < size; ++i) {
      batch.logits.set(i, std::sin(static_cast<double>(i)) * 5);
      batch.targets.set(i, std::fabs(std::cos(static_cast<double>(i))));
    }
    return batch;
  };
  for (const Loss& loss : kEntryLosses) {
    testing::ForEachSimdTarget([&](const char* target) {
      const testing::Outcome few = testing::Evaluate(batch_of(loss, 8)).value();
      const testing::Outcome many = testing::Evaluate(batch_of(loss, 800)).value();
      for (int64_t i = 0; i < 8; ++i) {
        ASSERT_EQ(few.results.element_loss.at(i), many.results.element_loss.at(i)) << target << ' ' << Name(loss);
      }
    });
  }
}

// Chunks that begin anywhere in the weights, which have a value for each entry of an axis, of two, or of some.
TEST(EntriesTest, PosWeightsOfEveryShape) {
  const Shape shapes[] = {{},           {1},           {5},          {70, 5},      {70, 1},      {1, 5},
                          {3, 70, 5},   {3, 1, 5},     {3, 70, 1},   {3, 1, 1},    {1, 70, 1},   {2, 3, 70, 5},
                          {2, 1, 1, 1}, {2, 1, 70, 1}, {2, 3, 1, 5}, {1, 3, 1, 1}, {2, 1, 1, 5}, {1, 1, 1, 1}};
  for (const Shape& shape : shapes) {
    std::mt19937_64 random(4);
    testing::Batch batch = EntryBatch(BinaryCrossEntropy{0.1}, DataType::kFloat32, {2, 3, 70, 5});
    batch.class_weights = testing::RandomFloats({DataType::kFloat16, shape}, random, 1, 0.5, true);
    EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << ToString(shape);
    batch.spec.outputs = {Output::kLogitsGradient};
    EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << ToString(shape);
  }
}

// What is larger than the caches goes past them.
TEST(EntriesTest, StreamedGradientsAreTheSame) {
  for (const Loss& loss : {Loss(NegativeLogLikelihood{}), Loss(KlDivergence{false})}) {
    std::mt19937_64 random(6);
    const bool rows = std::holds_alternative<NegativeLogLikelihood>(loss);
    testing::Batch batch = EntryBatch(loss, DataType::kFloat32, {3, 5000});
    batch.spec.outputs = {Output::kLogitsGradient};
    if (rows) batch.targets = testing::OwnedTensor::Indices({3}, {0, 4999, -100});
    const testing::Outcome plain = testing::Evaluate(batch).value();
    testing::ForEachSimdTarget([&](const char* target) {
      for (int misalignment : {0, 4, 20}) {
        Plan plan = plain.plan;
        plan.stream_gradient = true;
        testing::OwnedTensor gradient(plan.results.logits_gradient, misalignment), losses(plan.results.loss);
        testing::OwnedTensor want(plan.results.logits_gradient), scratch({DataType::kInt8, Shape{plan.scratch_bytes}});
        for (bool stream : {false, true}) {
          plan.stream_gradient = stream;
          testing::OwnedTensor& out = stream ? gradient : want;
          const Results results{.loss = losses.mutable_view(), .logits_gradient = out.mutable_view()};
          std::vector<BlockSummary> blocks(static_cast<size_t>(plan.num_blocks));
          EvaluateBlocks(plan, batch.inputs(), plain.weights, {0, plan.num_blocks}, results, scratch.data(), blocks);
        }
        for (int64_t i = 0; i < want.size(); ++i) ASSERT_EQ(gradient.at(i), want.at(i)) << target << ' ' << i;
      }
    });
  }
}

}  // namespace
}  // namespace lossd
