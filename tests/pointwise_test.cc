// Losses without a softmax: their kernels, and what family_test.cc is too small for, on every SIMD target.
#include "loss/pointwise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "loss/element.h"
#include "loss/elementary.h"
#include "loss/modifiers.h"
#include "loss/row.h"
#include "tests/batch.h"

namespace lossd {
namespace {

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kMax = std::numeric_limits<double>::max();
constexpr double kLeast = std::numeric_limits<double>::denorm_min();

using Kernel = void (*)(const double*, int64_t, double*);
using Truth = long double (*)(long double);

// |y - truth| in units of the last place of the truth.
double UlpError(double y, long double truth) {
  const int exponent = std::max(std::ilogb(static_cast<double>(truth)), -1022);
  return static_cast<double>(std::fabs(y - truth) / std::ldexp(1.0L, exponent - 52));
}

// The bound of log-inl.h, 1 unit, for all of `x`, on every SIMD target.
void ExpectWithinOneUlp(Kernel kernel, Truth truth, const std::vector<double>& x) {
  testing::ForEachSimdTarget([&](const char* target) {
    std::vector<double> y(x.size());
    kernel(x.data(), static_cast<int64_t>(x.size()), y.data());
    double worst = 0;
    for (size_t i = 0; i < x.size(); ++i) {
      const long double want = truth(x[i]);
      if (want == 0) {
        ASSERT_EQ(y[i], 0) << target << ' ' << x[i];
        continue;
      }
      const double error = UlpError(y[i], want);
      worst = std::max(worst, error);
      ASSERT_LE(error, 1.0) << target << ' ' << x[i];
    }
    ::testing::Test::RecordProperty(target, std::to_string(worst));
  });
}

// `low` times powers of two and numbers between, up to `high`.
std::vector<double> Numbers(double low, double high, int count) {
  std::mt19937_64 random(1);
  std::uniform_real_distribution<double> exponent(std::log2(low), std::log2(high));
  std::vector<double> x;
  for (double power = low; power < high; power *= 2) x.insert(x.end(), {power, std::nextafter(power, 0), power * 1.5});
  for (int i = 0; i < count; ++i) x.push_back(std::exp2(exponent(random)));
  return x;
}

TEST(PointwiseTest, LogIsWithinOneUlp) {
  const Truth truth = [](long double x) { return std::log(x); };
  ExpectWithinOneUlp(LogAll, truth, Numbers(kLeast * 2, kMax / 2, 200000));
  ExpectWithinOneUlp(LogAll, truth, Numbers(0.5, 2, 500000));
  std::vector<double> near_one;
  for (double gap = 0x1p-52; gap < 0.5; gap *= 1.0003) near_one.insert(near_one.end(), {1 + gap, 1 - gap});
  ExpectWithinOneUlp(LogAll, truth, near_one);
}

TEST(PointwiseTest, Log1pIsWithinOneUlp) {
  const Truth truth = [](long double x) { return std::log1p(x); };
  ExpectWithinOneUlp(Log1pAll, truth, Numbers(kLeast * 2, kMax / 2, 200000));
  ExpectWithinOneUlp(Log1pAll, truth, Numbers(1e-3, 100, 1000000));
}

TEST(PointwiseTest, LogarithmsAtTheEdges) {
  testing::ForEachSimdTarget([](const char* target) {
    std::vector<double> x = {0, -0.0, kInf, 1, -1, -kInf, kNan, -kLeast, -kNan};
    LogAll(x.data(), 9, x.data());
    EXPECT_EQ(x[0], -kInf) << target;
    EXPECT_EQ(x[1], -kInf) << target;
    EXPECT_EQ(x[2], kInf) << target;
    EXPECT_EQ(x[3], 0) << target;
    for (size_t i = 4; i < 9; ++i) EXPECT_TRUE(std::isnan(x[i])) << target << ' ' << i;

    x = {0, kInf, kNan, kMax, kLeast};
    Log1pAll(x.data(), 5, x.data());
    EXPECT_EQ(x[0], 0) << target;
    EXPECT_EQ(x[1], kInf) << target;
    EXPECT_TRUE(std::isnan(x[2])) << target;
    EXPECT_EQ(x[3], std::log(kMax)) << target;
    EXPECT_EQ(x[4], kLeast) << target;
  });
}

// ---- temperature and softcap ----

// y of all x at once, and of each by itself: the same.
using Modify = void (*)(const double* x, int64_t size, double temperature, double softcap, double* y);
std::vector<double> Modified(Modify modify, const std::vector<double>& x, double temperature, double softcap,
                             std::vector<double> y) {
  for (size_t i = 0; i < std::min<size_t>(x.size(), 100); ++i) {
    double alone = y[i];
    modify(&x[i], 1, temperature, softcap, &alone);
    std::vector<double> few(y.begin(), y.begin() + static_cast<int64_t>(i) + 1);
    modify(x.data(), static_cast<int64_t>(i) + 1, temperature, softcap, few.data());
    EXPECT_EQ(std::bit_cast<int64_t>(alone), std::bit_cast<int64_t>(few[i])) << x[i];
  }
  modify(x.data(), static_cast<int64_t>(x.size()), temperature, softcap, y.data());
  return y;
}

// Of both signs, from what is next to nothing to what saturates everything.
std::vector<double> Logits(double softcap) {
  std::vector<double> x = Numbers(softcap * 0x1p-60, softcap * 60, 60000);
  const std::vector<double> all = Numbers(kLeast * 2, kMax / 2, 20000);
  x.insert(x.end(), all.begin(), all.end());
  for (size_t i = 0; i < x.size(); i += 2) x[i] = -x[i];
  return x;
}

TEST(PointwiseTest, ModifiedLogitsAreWithinFourUlp) {
  testing::ForEachSimdTarget([](const char* target) {
    for (const auto& [temperature, softcap] : {std::pair(1.0, 0.0),
                                               {1.0, 30.0},
                                               {0.7, 50.0},
                                               {3.0, 0.0},
                                               {1e-30, 0.0},
                                               {1e30, 0.0},
                                               {1e6, 1e-200},
                                               {1.0, 1e200}}) {
      const std::vector<double> x = Logits(softcap == 0 ? temperature : temperature * softcap);
      const std::vector<double> y = Modified(ModifyLogits, x, temperature, softcap, std::vector<double>(x.size()));
      for (size_t i = 0; i < x.size(); ++i) {
        const double t = x[i] / temperature;  // which is the logit: whatever comes after it takes it as it is
        if (softcap == 0) {
          ASSERT_EQ(y[i], t) << target << ' ' << x[i] << " / " << temperature;
          continue;
        }
        const long double want = softcap * std::tanh(static_cast<long double>(t) / softcap);
        const double unit = std::ldexp(1.0, std::max(std::ilogb(static_cast<double>(want)), -1022) - 52);
        const double subnormal = 2 * std::max(softcap, 1.0) * kLeast;  // which x / t / c may be
        ASSERT_LE(std::fabs(y[i] - want), 4 * unit + subnormal) << target << ' ' << x[i] << ' ' << temperature;
      }
    }
  });
}

TEST(PointwiseTest, SoftcapChainsGradients) {
  testing::ForEachSimdTarget([](const char* target) {
    for (const auto& [temperature, softcap] : {std::pair(1.0, 30.0), {0.7, 50.0}}) {
      const std::vector<double> x = Logits(temperature * softcap);
      std::vector<double> gradient(x.size());
      for (size_t i = 0; i < x.size(); ++i) gradient[i] = i % 3 == 0 ? 0 : std::sin(static_cast<double>(i));
      const std::vector<double> chained = Modified(ChainSoftcap, x, temperature, softcap, gradient);
      for (size_t i = 0; i < x.size(); ++i) {
        const double t = x[i] / temperature;
        const long double cosh = std::cosh(static_cast<long double>(t) / softcap);
        const long double want = gradient[i] / (cosh * cosh);
        // An error of half a unit in its argument is as many times as large as that is large.
        const double units = 6 + 2 * std::fabs(t / softcap);
        if (std::fabs(want) < 0x1p-1000L) {
          ASSERT_LE(std::fabs(chained[i]), 0x1p-990) << target << ' ' << x[i];
        } else {
          ASSERT_LE(UlpError(chained[i], want), units) << target << ' ' << x[i] << ' ' << temperature << ' ' << softcap;
        }
      }
    }
  });
}

TEST(PointwiseTest, ModifiersAtTheEdges) {
  const auto bits = [](const std::vector<double>& values) {
    std::vector<int64_t> of;
    for (double value : values) of.push_back(std::bit_cast<int64_t>(value));
    return of;
  };
  testing::ForEachSimdTarget([&](const char* target) {
    const std::vector<double> x = {0, -0.0, kInf, -kInf, kNan, kMax, -kMax, kLeast};
    std::vector<double> y(x.size());
    ModifyLogits(x.data(), 8, 1, 30, y.data());
    EXPECT_TRUE(std::isnan(std::exchange(y[4], 0))) << target;
    EXPECT_EQ(bits(y), bits({0, -0.0, 30, -30, 0, 30, -30, 0})) << target;
    ModifyLogits(x.data(), 8, 0.5, 0, y.data());
    EXPECT_TRUE(std::isnan(std::exchange(y[4], 0))) << target;
    EXPECT_EQ(bits(y), bits({0, -0.0, kInf, -kInf, 0, kInf, -kInf, 2 * kLeast})) << target;

    // A gradient of 0 stays what it is beside any logit, and none gets past a saturated one.
    for (const double zero : {0.0, -0.0}) {
      std::vector<double> gradient(8, zero);
      ChainSoftcap(x.data(), 8, 1, 30, gradient.data());
      EXPECT_EQ(bits(gradient), bits(std::vector<double>(8, zero))) << target;
    }
    std::vector<double> gradient(8, 1.0);
    ChainSoftcap(x.data(), 8, 2, 30, gradient.data());
    EXPECT_TRUE(std::isnan(std::exchange(gradient[4], 0))) << target;
    EXPECT_EQ(bits(gradient), bits({1, 1, 0, 0, 0, 0, 0, 1})) << target;
  });
}

// ---- narrowing ----

// Around all that a 16-bit or 32-bit float can round: values, the middles between them, and their neighbours.
std::vector<double> HardToRound() {
  const auto all_ones = std::bit_cast<double>(int64_t{-1});  // a NaN that rounding its bits would carry out of
  std::vector<double> values = {0,    kInf, kNan, all_ones, kMax, kLeast, 65504, 65519.99, 65520, 3.4028235677973366e38,
                                1e-46};
  std::mt19937_64 random(2);
  for (int exponent = -160; exponent < 130; ++exponent) {
    for (double fraction : {1.0, 1 + 0x1p-8, 1 + 0x1p-11, 1 + 0x1p-24, 1 + 0x3p-8, 1 + 0x3p-11, 2 - 0x1p-9}) {
      const double value = std::ldexp(fraction, exponent);
      values.insert(values.end(), {value, std::nextafter(value, 0), std::nextafter(value, kInf)});
    }
    values.push_back(std::ldexp(1 + static_cast<double>(random() >> 11) * 0x1p-53, exponent));
  }
  const size_t size = values.size();
  for (size_t i = 0; i < size; ++i) values.push_back(-values[i]);
  return values;
}

TEST(PointwiseTest, NarrowRoundsOnce) {
  const std::vector<double> values = HardToRound();
  const auto size = static_cast<int64_t>(values.size());
  testing::ForEachSimdTarget([&](const char* target) {
    for (DataType type : {DataType::kFloat32, DataType::kFloat64, DataType::kFloat16, DataType::kBfloat16}) {
      for (bool stream : {false, true}) {
        testing::OwnedTensor got({type, {size}}, static_cast<int>(SizeOf(type))), want({type, {size}});
        for (int64_t first = 0, n = 1; first < size; first += n, n = std::min(n * 2 + 1, kChunkEntries)) {
          n = std::min(n, size - first);
          ChunkBuffer chunk;
          std::copy_n(values.begin() + first, n, chunk.values);
          Narrow(chunk, n, stream, got.mutable_view(), first);
        }
        FlushStreams();
        for (int64_t i = 0; i < size; ++i) {
          const double value = values[static_cast<size_t>(i)];
          want.set(i, value);
          if (type == DataType::kFloat16) StoreElement(want.data(), i, ToFloat16(value));
          if (type == DataType::kBfloat16) StoreElement(want.data(), i, ToBfloat16(value));
          const bool same = got.at(i) == want.at(i) || (std::isnan(got.at(i)) && std::isnan(want.at(i)));
          ASSERT_TRUE(same) << target << ' ' << Name(type) << ' ' << value << ": " << got.at(i) << ", " << want.at(i);
        }
      }
    }
  });
}

// ---- losses of entries ----

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
TEST(PointwiseTest, EveryPairOfHardNumbers) {
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
      const double factors[] = {1, 0, 1e-7, -1e-5, 3, 1e6, -2e6, 1e12, 1e-13, 1e20};
      batch.sample_weights = batch.upstream_gradient;
      for (int64_t i = 0; i < rows * columns; ++i) {
        batch.sample_weights.set(i, factors[i % 10]);
        batch.upstream_gradient.set(i, factors[(i / 10) % 10]);
      }
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << Name(loss) << ' ' << Name(type) << ", weighed";
    }
  }
}

// An entry has the same bits wherever it is, and whatever its neighbours need.
TEST(PointwiseTest, EntriesHaveTheSameBitsBesideAnyOthers) {
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
TEST(PointwiseTest, LargeTargets) {
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

// Kernels of floats are taken, all of a chunk at once.
TEST(PointwiseTest, OrdinaryEntriesAreLeftToFloats) {
  std::mt19937_64 random(8);
  std::normal_distribution<float> normal(0, 5);
  std::uniform_real_distribution<float> uniform(0, 1);
  FloatBuffer x, log_t, t, w, s, losses, gradient;
  for (int64_t i = 0; i < kChunkEntries; ++i) {
    x.values[i] = normal(random);
    t.values[i] = i % 7 == 0 ? 0 : uniform(random);
    log_t.values[i] = -std::fabs(normal(random));
    w.values[i] = i % 5 == 0 ? 0 : 3;
    s.values[i] = i % 3 == 0 ? 0 : -2;
  }
  uint8_t extraordinary[kChunkEntries / 8];
  FloatChunk chunk{.n = kChunkEntries,
                   .logits = x.values,
                   .targets = t.values,
                   .sample_weights = s.values,
                   .upstream = x.values,
                   .losses = losses.values,
                   .logits_gradient = gradient.values,
                   .extraordinary = extraordinary};
  testing::ForEachSimdTarget([&](const char* target) {
    if (!HasFloatEntries()) return;
    chunk.targets = t.values;
    EXPECT_TRUE(EvaluateKl(chunk).all_ordinary) << target;
    chunk.targets = log_t.values;
    EXPECT_TRUE(EvaluateKlOfLogTargets(chunk).all_ordinary) << target;
    chunk.targets = t.values;
    EXPECT_TRUE(EvaluateBinaryCrossEntropy(chunk, 0.1).all_ordinary) << target;
    chunk.pos_weights = w.values;
    EXPECT_TRUE(EvaluateBinaryCrossEntropy(chunk, 0).all_ordinary) << target;
    chunk.pos_weights = nullptr;
    chunk.n = kChunkEntries - 1;
    EXPECT_FALSE(EvaluateKl(chunk).all_ordinary) << target;
    EXPECT_TRUE(std::all_of(extraordinary, std::end(extraordinary), [](uint8_t bits) { return bits == 0; })) << target;
    chunk.n = kChunkEntries;
  });
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
      expect("targets' gradient", got.results.targets_gradient.at(i), truth.results.targets_gradient);
    }
  });
}

// Digits that floats lose where a target is next to its prediction, and PyTorch's are lost, are here.
TEST(PointwiseTest, LossesNextToTheirMinimumKeepDigits) {
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
  }
  // 8 eps of the terms, the bound of everything in float, would be 20 bits. AVX2 has smaller tables.
  ExpectWithinFourUlps(kl, 32, 27, "KL divergence");
  ExpectWithinFourUlps(bce, 28, 27, "binary cross-entropy");
}

// What is left to doubles is part of the sum too, and the sum does not depend on how entries were cut.
TEST(PointwiseTest, PiecesAddUpToTheWhole) {
  constexpr int64_t kSize = 5000;
  for (const Loss& loss : kEntryLosses) {
    testing::Batch batch = EntryBatch(loss, DataType::kFloat32, {kSize});
    batch.spec.reduction = Reduction::kSum;
    batch.spec.outputs = {Output::kElementLoss};
    for (int64_t i = 10; i < kSize; i += 301) batch.logits.set(i, i % 2 == 0 ? 500 : -200);
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
TEST(PointwiseTest, WeightlessEntriesAreZero) {
  for (const Loss& loss : kEntryLosses) {
    testing::Batch batch = EntryBatch(loss, DataType::kFloat32, {300});
    for (int64_t i = 7; i < 300; i += 30) batch.logits.set(i, i % 4 == 1 ? kNan : kInf);
    batch.sample_weights = testing::OwnedTensor({DataType::kFloat32, {300}});
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
TEST(PointwiseTest, ExtremeUpstreamGradientsOfEntries) {
  for (const Loss& loss : kEntryLosses) {
    for (double upstream : {0.0, 65536.0, 0x1p60, 0x1.8p60, -1e20, 1e39, 1e-18, 1e-30, 1e-44}) {
      testing::Batch batch = EntryBatch(loss, DataType::kFloat32, {600});
      batch.spec.reduction = Reduction::kSum;
      batch.upstream_gradient = testing::OwnedTensor::Doubles({}, {upstream});
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << Name(loss) << ' ' << upstream;
    }
  }
}

// Chunks that begin anywhere in the weights, which have a value for each entry of an axis, of two, or of some.
TEST(PointwiseTest, PosWeightsOfEveryShape) {
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

// ---- negative log-likelihood ----

TEST(PointwiseTest, LikelihoodOfManyRows) {
  struct Layout {
    Shape outer;
    int64_t num_classes;
    Shape inner;
  };
  const Layout layouts[] = {{{700}, 3, {}}, {{2}, 5, {300}}, {{90}, 4, {7}}, {{}, 2, {600}}, {{3}, 40000, {}}};
  for (const Layout& layout : layouts) {
    for (DataType type : {DataType::kFloat32, DataType::kFloat16, DataType::kFloat64}) {
      std::mt19937_64 random(5);
      testing::Batch batch = testing::RandomBatch({.type = type,
                                                   .outer = layout.outer,
                                                   .num_classes = layout.num_classes,
                                                   .inner = layout.inner,
                                                   .class_weights = true,
                                                   .sample_weights = true,
                                                   .ignore_some = true},
                                                  random);
      const CrossEntropy indices = std::get<CrossEntropy>(batch.spec.loss);
      batch.spec.loss = NegativeLogLikelihood{indices.ignore_index, indices.class_axis};
      batch.spec.outputs = {Output::kLogitsGradient, Output::kPredictedClass, Output::kTargetLogProbability};
      for (int64_t i = 11; i < batch.logits.size(); i += 997) batch.logits.set(i, i % 2 == 0 ? kNan : kInf);
      for (int64_t i = 0; i < layout.num_classes && layout.inner.rank() == 0; ++i) batch.logits.set(i, -kInf);
      EXPECT_EQ(testing::CompareOnEverySimdTarget(batch), "") << layout.num_classes << ' ' << Name(type);
    }
  }
}

// What is larger than the caches goes past them.
TEST(PointwiseTest, StreamedGradientsAreTheSame) {
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

TEST(ElementaryTest, IndicesAreCountedAtEveryLength) {
  testing::ForEachSimdTarget([](const char* target) {
    constexpr int64_t kLowest = std::numeric_limits<int64_t>::min();
    constexpr int64_t kIndices[] = {0, 9, -100, 10, 3, -1, kLowest, 5, -100, std::numeric_limits<int64_t>::max(), 2};
    std::vector<int64_t> indices;
    IndexCounts want;
    for (int64_t size = 0; size < 70; ++size) {
      const IndexCounts counts = CountIndices(indices.data(), size, -100, 10);
      ASSERT_EQ(counts.ignored, want.ignored) << target << ' ' << size;
      ASSERT_EQ(counts.outside, want.outside) << target << ' ' << size;
      const int64_t next = kIndices[static_cast<size_t>(size) % std::size(kIndices)];
      indices.push_back(next);
      want.ignored += next == -100;
      want.outside += next != -100 && (next < 0 || next >= 10);
    }
  });
}

}  // namespace
}  // namespace lossd
