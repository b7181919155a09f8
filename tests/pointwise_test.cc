// The vector steps of losses without a softmax, and what family_test.cc is too small for, on every SIMD target.
#include "loss/pointwise.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
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
