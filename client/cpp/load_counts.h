// What came of the calls of a load: how many, how fast, and by which code they failed.
#ifndef LOSSD_CLIENT_CPP_LOAD_COUNTS_H_
#define LOSSD_CLIENT_CPP_LOAD_COUNTS_H_

#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cpp/latency_histogram.h"

namespace lossd {

// A point in time of the steady clock, in nanoseconds.
int64_t SteadyNanos();

// How one call ended.
struct CallOutcome {
  absl::StatusCode code = absl::StatusCode::kOk;
  std::string message;                     // of an error
  int64_t received_bytes = 0;              // of the answer's message
  std::optional<absl::Duration> pushback;  // the server said when to retry
};

// Not thread-safe. Plain numbers that add up.
struct LoadCounts {
  static constexpr size_t kNumCodes = 17;

  // A call that was to start at `start` and ended at `end`, both of SteadyNanos().
  void Add(int64_t start, int64_t end, const CallOutcome& outcome);
  void Merge(const LoadCounts& other);

  int64_t num_answered() const { return answered.count(); }
  int64_t num_errors() const { return failed.count(); }
  // From the first start to the last end; 0 where nothing ended.
  double seconds() const;

  LatencyHistogram answered;  // latencies of the calls that were answered with a loss
  LatencyHistogram failed;    // and of those that were not
  std::array<int64_t, kNumCodes> by_code{};
  int64_t num_pushbacks = 0;  // errors that came with grpc-retry-pushback-ms
  int64_t received_bytes = 0;
  int64_t first_start = std::numeric_limits<int64_t>::max();
  int64_t last_end = std::numeric_limits<int64_t>::min();
  std::string first_error;  // the message of one of the errors
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_LOAD_COUNTS_H_
