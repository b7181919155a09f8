#include "client/cpp/latency_histogram.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <limits>
#include <vector>

#include "client/cpp/random.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

constexpr double kNano = 1e-9;
constexpr double kRelativeError = (1 + 1e-12) / 256;  // the bound is met, and doubles round
constexpr double kPercents[] = {0, 0.1, 1, 10, 25, 50, 75, 90, 99, 99.9, 99.99, 100};

// The definition: nearest rank in the sorted latencies.
double Exact(const std::vector<int64_t>& sorted, double percent) {
  const auto rank = static_cast<int64_t>(std::ceil(percent / 100 * static_cast<double>(sorted.size())));
  return static_cast<double>(sorted[static_cast<size_t>(std::max<int64_t>(rank, 1) - 1)]) * kNano;
}

void ExpectAsSorted(std::vector<int64_t> latencies) {
  LatencyHistogram histogram;
  double sum = 0;
  for (int64_t latency : latencies) {
    histogram.Record(latency);
    sum += static_cast<double>(latency);
  }
  std::sort(latencies.begin(), latencies.end());
  for (double percent : kPercents) {
    const double exact = Exact(latencies, percent);
    EXPECT_NEAR(histogram.PercentileSeconds(percent), exact, exact * kRelativeError) << percent << " %";
  }
  EXPECT_EQ(histogram.count(), static_cast<int64_t>(latencies.size()));
  EXPECT_EQ(histogram.max_seconds(), static_cast<double>(latencies.back()) * kNano);
  EXPECT_NEAR(histogram.mean_seconds(), sum / static_cast<double>(latencies.size()) * kNano, 1e-12 * sum);
}

TEST(LatencyHistogramTest, AsAnExactSortFindsIt) {
  Random random(1);
  for (int shift : {62, 55, 47, 40, 33, 20, 8, 1}) {  // from less than 4 ns to centuries
    for (size_t count : {1u, 2u, 3u, 100u, 10000u}) {
      std::vector<int64_t> latencies(count);
      for (int64_t& latency : latencies) latency = static_cast<int64_t>(random.Next() >> shift);
      ExpectAsSorted(latencies);
    }
  }
}

TEST(LatencyHistogramTest, EveryPowerOfTwoAndItsNeighbours) {
  for (int bit = 0; bit < 63; ++bit) {
    for (int64_t off : {-1, 0, 1}) {
      const int64_t latency = std::max<int64_t>((int64_t{1} << bit) + off, 0);
      ExpectAsSorted({latency});
      ExpectAsSorted({0, latency, std::numeric_limits<int64_t>::max()});
    }
  }
}

TEST(LatencyHistogramTest, SmallOnesAreExact) {
  for (int64_t latency = 0; latency < 256; ++latency) {
    LatencyHistogram histogram;
    histogram.Record(0);
    histogram.Record(latency);
    histogram.Record(1000);
    EXPECT_EQ(histogram.PercentileSeconds(50), static_cast<double>(latency) * kNano);
  }
}

TEST(LatencyHistogramTest, NothingRecorded) {
  const LatencyHistogram histogram;
  EXPECT_EQ(histogram.count(), 0);
  EXPECT_EQ(histogram.mean_seconds(), 0);
  EXPECT_EQ(histogram.max_seconds(), 0);
  EXPECT_EQ(histogram.PercentileSeconds(99), 0);
}

TEST(LatencyHistogramTest, NegativeCountsAsZero) {
  LatencyHistogram histogram;
  histogram.Record(-5);
  EXPECT_EQ(histogram.count(), 1);
  EXPECT_EQ(histogram.PercentileSeconds(100), 0);
}

TEST(LatencyHistogramTest, MergingIsRecordingTheBoth) {
  LatencyHistogram one, other, both;
  Random random(2);
  for (int i = 0; i < 1000; ++i) {
    const auto latency = static_cast<int64_t>(random.Below(1'000'000'000));
    (i % 3 == 0 ? one : other).Record(latency);
    both.Record(latency);
  }
  one.Merge(other);
  EXPECT_EQ(one.count(), both.count());
  EXPECT_EQ(one.max_seconds(), both.max_seconds());
  EXPECT_NEAR(one.mean_seconds(), both.mean_seconds(), 1e-12);
  for (double percent : kPercents) EXPECT_EQ(one.PercentileSeconds(percent), both.PercentileSeconds(percent));
}

}  // namespace
}  // namespace lossd
