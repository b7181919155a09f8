// The logarithms of log-inl.h against long double, on every SIMD target.
#include "loss/pointwise.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <limits>
#include <random>
#include <vector>

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
  ExpectWithinOneUlp(LogOf, truth, Numbers(kLeast * 2, kMax / 2, 200000));
  ExpectWithinOneUlp(LogOf, truth, Numbers(0.5, 2, 500000));
  std::vector<double> near_one;
  for (double gap = 0x1p-52; gap < 0.5; gap *= 1.0003) near_one.insert(near_one.end(), {1 + gap, 1 - gap});
  ExpectWithinOneUlp(LogOf, truth, near_one);
}

TEST(PointwiseTest, Log1pIsWithinOneUlp) {
  const Truth truth = [](long double x) { return std::log1p(x); };
  ExpectWithinOneUlp(Log1pOf, truth, Numbers(kLeast * 2, kMax / 2, 200000));
  ExpectWithinOneUlp(Log1pOf, truth, Numbers(1e-3, 100, 1000000));
}

TEST(PointwiseTest, LogarithmsAtTheEdges) {
  testing::ForEachSimdTarget([](const char* target) {
    std::vector<double> x = {0, -0.0, kInf, 1, -1, -kInf, kNan, -kLeast, -kNan};
    LogOf(x.data(), 9, x.data());
    EXPECT_EQ(x[0], -kInf) << target;
    EXPECT_EQ(x[1], -kInf) << target;
    EXPECT_EQ(x[2], kInf) << target;
    EXPECT_EQ(x[3], 0) << target;
    for (size_t i = 4; i < 9; ++i) EXPECT_TRUE(std::isnan(x[i])) << target << ' ' << i;

    x = {0, kInf, kNan, kMax, kLeast};
    Log1pOf(x.data(), 5, x.data());
    EXPECT_EQ(x[0], 0) << target;
    EXPECT_EQ(x[1], kInf) << target;
    EXPECT_TRUE(std::isnan(x[2])) << target;
    EXPECT_EQ(x[3], std::log(kMax)) << target;
    EXPECT_EQ(x[4], kLeast) << target;
  });
}

}  // namespace
}  // namespace lossd
