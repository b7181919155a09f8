#include "client/cpp/load_lane.h"

namespace lossd {

LoadCounts LoadLane::counts() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return counts_;
}

std::optional<Arrival> LoadLane::Finished(const Arrival& arrival, const CallOutcome& outcome) {
  const int64_t end = SteadyNanos();
  if (arrival.counted) {
    std::lock_guard<std::mutex> lock(mutex_);
    counts_.Add(arrival.nanos, end, outcome);
  }
  return run_.closed_loop ? run_.schedule.Claim(end) : std::nullopt;
}

}  // namespace lossd
