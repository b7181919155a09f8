// Latencies counted in buckets of a fixed relative width: percentiles of any number of calls in constant memory.
//
// The buckets are those of Gil Tene's HDR Histogram: each power of two is cut into 128 equal ones, below 256 ns each
// value has its own. A percentile is the middle of its bucket, so it is at most 1/256 (0.4 %) from the latency that an
// exact sort would have found there; count, mean, smallest and largest are exact.
#ifndef LOSSD_CLIENT_CPP_LATENCY_HISTOGRAM_H_
#define LOSSD_CLIENT_CPP_LATENCY_HISTOGRAM_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>

namespace lossd {

// Not thread-safe. 58 KB.
class LatencyHistogram {
 public:
  // A negative latency counts as 0.
  void Record(int64_t nanoseconds);
  // Adds what `other` recorded.
  void Merge(const LatencyHistogram& other);

  int64_t count() const { return count_; }
  double mean_seconds() const;
  double max_seconds() const;
  // What `percent` of the latencies do not exceed: by nearest rank, so 100 is the largest. 0 where nothing was
  // recorded. REQUIRES: 0 <= percent <= 100.
  double PercentileSeconds(double percent) const;

 private:
  static constexpr int kBits = 7;
  static constexpr size_t kPerOctave = size_t{1} << kBits;
  static constexpr size_t kNumBuckets = kPerOctave * (63 - kBits + 1);

  static size_t BucketOf(int64_t value);
  static int64_t MiddleOf(size_t bucket);

  std::array<int64_t, kNumBuckets> buckets_{};
  int64_t count_ = 0;
  int64_t smallest_ = std::numeric_limits<int64_t>::max();
  int64_t largest_ = 0;
  double sum_ = 0;
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_LATENCY_HISTOGRAM_H_
