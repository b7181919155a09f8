#include "client/cpp/load_schedule.h"

#include <limits>

#include "client/cpp/load_counts.h"

namespace lossd {
namespace {

constexpr int64_t kForever = std::numeric_limits<int64_t>::max();
constexpr int64_t kUnknown = std::numeric_limits<int64_t>::min();

int64_t After(int64_t nanos, absl::Duration duration) {
  const int64_t more = absl::ToInt64Nanoseconds(duration);  // saturates
  return more > kForever - nanos ? kForever : nanos + more;
}

}  // namespace

LoadSchedule::LoadSchedule(absl::Duration warmup, absl::Duration duration, std::optional<int64_t> count)
    : start_(SteadyNanos()),
      begin_(After(start_, warmup)),
      duration_(duration),
      end_(kUnknown),
      remaining_(count.value_or(kForever)) {}

std::optional<Arrival> LoadSchedule::Claim(int64_t nanos) {
  if (nanos < begin_) return Arrival{nanos, false};
  int64_t end = kUnknown;
  if (end_.compare_exchange_strong(end, After(nanos, duration_))) end = After(nanos, duration_);
  if (nanos >= end || remaining_.fetch_sub(1, std::memory_order_relaxed) <= 0) return std::nullopt;
  return Arrival{nanos, true};
}

void InFlight::Add() {
  std::lock_guard<std::mutex> lock(mutex_);
  ++count_;
}

void InFlight::Done() {
  std::lock_guard<std::mutex> lock(mutex_);
  if (--count_ == 0) none_.notify_all();
}

bool InFlight::AwaitNone(absl::Duration timeout) {
  std::unique_lock<std::mutex> lock(mutex_);
  const auto none = [this] { return count_ == 0; };
  if (timeout < absl::Hours(1)) return none_.wait_for(lock, absl::ToChronoNanoseconds(timeout), none);
  none_.wait(lock, none);  // no clock reaches that far
  return true;
}

}  // namespace lossd
