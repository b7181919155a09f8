// When the calls of a load start, which of them count, and how many are out.
#ifndef LOSSD_CLIENT_CPP_LOAD_SCHEDULE_H_
#define LOSSD_CLIENT_CPP_LOAD_SCHEDULE_H_

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <optional>

#include "absl/time/time.h"

namespace lossd {

// A call that is to start.
struct Arrival {
  int64_t nanos = 0;     // when, of SteadyNanos(); its latency counts from here, however late it really started
  bool counted = false;  // false during the warm-up
};

// Calls that start within `warmup` of the construction are not counted; those after it are, until `duration` has passed
// since the first of them, or `count` of them have started. At least one is, however long the warm-up's last call took.
// Thread-safe.
class LoadSchedule {
 public:
  LoadSchedule(absl::Duration warmup, absl::Duration duration, std::optional<int64_t> count);

  int64_t start_nanos() const { return start_; }
  // The call that arrives at `nanos`, or nothing: the load is over. Takes one off the count.
  std::optional<Arrival> Claim(int64_t nanos);

 private:
  const int64_t start_;
  const int64_t begin_;  // of what counts
  const absl::Duration duration_;
  std::atomic<int64_t> end_;  // unknown before the first that counts
  std::atomic<int64_t> remaining_;
};

// The calls that are out, and whatever else a load must wait for. Thread-safe.
class InFlight {
 public:
  void Add();
  void Done();
  // Whether there were none within `timeout`; more than an hour is for ever.
  bool AwaitNone(absl::Duration timeout);

 private:
  std::mutex mutex_;
  std::condition_variable none_;
  int64_t count_ = 0;
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_LOAD_SCHEDULE_H_
