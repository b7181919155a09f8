#include "client/cpp/latency_histogram.h"

#include <algorithm>
#include <bit>
#include <cmath>

namespace lossd {
namespace {

constexpr double kNano = 1e-9;

}  // namespace

// The number of shifts that leave the highest kBits + 1 bits of a value names its power of two, those bits its bucket.
size_t LatencyHistogram::BucketOf(int64_t value) {
  const auto bits = static_cast<uint64_t>(value);
  const int shift = std::max(0, static_cast<int>(std::bit_width(bits)) - (kBits + 1));
  return (static_cast<size_t>(shift) << kBits) + static_cast<size_t>(bits >> shift);
}

int64_t LatencyHistogram::MiddleOf(size_t bucket) {
  if (bucket < 2 * kPerOctave) return static_cast<int64_t>(bucket);
  const size_t shift = (bucket >> kBits) - 1;
  const size_t highest = bucket - (shift << kBits);
  return static_cast<int64_t>((highest << shift) + (size_t{1} << shift) / 2);
}

void LatencyHistogram::Record(int64_t nanoseconds) {
  const int64_t value = std::max<int64_t>(nanoseconds, 0);
  ++buckets_[BucketOf(value)];
  ++count_;
  smallest_ = std::min(smallest_, value);
  largest_ = std::max(largest_, value);
  sum_ += static_cast<double>(value);
}

void LatencyHistogram::Merge(const LatencyHistogram& other) {
  for (size_t i = 0; i < kNumBuckets; ++i) buckets_[i] += other.buckets_[i];
  count_ += other.count_;
  smallest_ = std::min(smallest_, other.smallest_);
  largest_ = std::max(largest_, other.largest_);
  sum_ += other.sum_;
}

double LatencyHistogram::mean_seconds() const { return count_ == 0 ? 0 : sum_ / static_cast<double>(count_) * kNano; }

double LatencyHistogram::max_seconds() const { return static_cast<double>(largest_) * kNano; }

double LatencyHistogram::PercentileSeconds(double percent) const {
  if (count_ == 0) return 0;
  const auto rank = std::max<int64_t>(1, std::llround(std::ceil(percent / 100 * static_cast<double>(count_))));
  int64_t seen = 0;
  size_t bucket = 0;
  while (bucket + 1 < kNumBuckets && (seen += buckets_[bucket]) < rank) ++bucket;
  return static_cast<double>(std::clamp(MiddleOf(bucket), smallest_, largest_)) * kNano;
}

}  // namespace lossd
