#include "client/cpp/load_counts.h"

#include <algorithm>
#include <chrono>

namespace lossd {

int64_t SteadyNanos() {
  const auto since_boot = std::chrono::steady_clock::now().time_since_epoch();
  return std::chrono::duration_cast<std::chrono::nanoseconds>(since_boot).count();
}

void LoadCounts::Add(int64_t start, int64_t end, const CallOutcome& outcome) {
  const bool ok = outcome.code == absl::StatusCode::kOk;
  (ok ? answered : failed).Record(end - start);
  ++by_code[std::min(static_cast<size_t>(outcome.code), kNumCodes - 1)];
  num_pushbacks += outcome.pushback ? 1 : 0;
  received_bytes += outcome.received_bytes;
  first_start = std::min(first_start, start);
  last_end = std::max(last_end, end);
  if (!ok && first_error.empty()) first_error = outcome.message;
}

void LoadCounts::Merge(const LoadCounts& other) {
  answered.Merge(other.answered);
  failed.Merge(other.failed);
  for (size_t i = 0; i < kNumCodes; ++i) by_code[i] += other.by_code[i];
  num_pushbacks += other.num_pushbacks;
  received_bytes += other.received_bytes;
  first_start = std::min(first_start, other.first_start);
  last_end = std::max(last_end, other.last_end);
  if (first_error.empty()) first_error = other.first_error;
}

double LoadCounts::seconds() const {
  return last_end > first_start ? static_cast<double>(last_end - first_start) * 1e-9 : 0;
}

}  // namespace lossd
