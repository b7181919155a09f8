#include "client/cpp/load_lane.h"

namespace lossd {

LoadCounts LoadLane::counts() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return counts_;
}

std::optional<Arrival> LoadLane::Finished(const Arrival& arrival, const CallOutcome& outcome) {
  Count(arrival, outcome);
  return Next();
}

void LoadLane::Count(const Arrival& arrival, const CallOutcome& outcome) {
  if (!arrival.counted) return;
  const int64_t end = SteadyNanos();
  std::lock_guard<std::mutex> lock(mutex_);
  counts_.Add(arrival.nanos, end, outcome);
}

std::optional<Arrival> LoadLane::Next() const {
  return run_.closed_loop ? run_.schedule.Claim(SteadyNanos()) : std::nullopt;
}

}  // namespace lossd
