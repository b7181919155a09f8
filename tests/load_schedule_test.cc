#include "client/cpp/load_schedule.h"

#include <atomic>
#include <cstdint>
#include <optional>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace lossd {
namespace {

constexpr int64_t kSecond = 1'000'000'000;

TEST(LoadScheduleTest, WarmUpThenDuration) {
  LoadSchedule schedule(absl::Seconds(1), absl::Seconds(2), std::nullopt);
  const int64_t start = schedule.start_nanos();
  const struct {
    int64_t after;
    bool arrives, counted;
  } cases[] = {
      {0, true, false},
      {kSecond - 1, true, false},
      {kSecond, true, true},
      {3 * kSecond - 1, true, true},
      {3 * kSecond, false, false},
      {100 * kSecond, false, false},
  };
  for (const auto& c : cases) {
    const std::optional<Arrival> arrival = schedule.Claim(start + c.after);
    ASSERT_EQ(arrival.has_value(), c.arrives) << c.after;
    if (!arrival) continue;
    EXPECT_EQ(arrival->nanos, start + c.after);
    EXPECT_EQ(arrival->counted, c.counted) << c.after;
  }
}

TEST(LoadScheduleTest, AWarmUpThatTookLongerTakesNothingFromTheDuration) {
  LoadSchedule schedule(absl::Seconds(1), absl::Seconds(2), std::nullopt);
  const int64_t late = schedule.start_nanos() + 10 * kSecond;
  for (int64_t after : {int64_t{0}, 2 * kSecond - 1}) {
    const std::optional<Arrival> arrival = schedule.Claim(late + after);
    ASSERT_TRUE(arrival.has_value());
    EXPECT_TRUE(arrival->counted);
  }
  EXPECT_FALSE(schedule.Claim(late + 2 * kSecond).has_value());
}

TEST(LoadScheduleTest, CountLeavesTheWarmUpOut) {
  LoadSchedule schedule(absl::Seconds(1), absl::InfiniteDuration(), 2);
  const int64_t start = schedule.start_nanos();
  for (int i = 0; i < 5; ++i) EXPECT_TRUE(schedule.Claim(start).has_value());
  EXPECT_TRUE(schedule.Claim(start + kSecond).has_value());
  EXPECT_TRUE(schedule.Claim(start + 1000000 * kSecond).has_value());
  for (int i = 0; i < 5; ++i) EXPECT_FALSE(schedule.Claim(start + kSecond).has_value());
}

TEST(LoadScheduleTest, TheCountIsSharedByThreads) {
  LoadSchedule schedule(absl::ZeroDuration(), absl::InfiniteDuration(), 1000);
  std::atomic<int> claimed = 0;
  std::vector<std::thread> threads;
  for (int i = 0; i < 4; ++i) {
    threads.emplace_back([&] {
      while (schedule.Claim(schedule.start_nanos())) ++claimed;
    });
  }
  for (std::thread& thread : threads) thread.join();
  EXPECT_EQ(claimed, 1000);
}

TEST(InFlightTest, WaitsUntilAllAreDone) {
  InFlight in_flight;
  EXPECT_TRUE(in_flight.AwaitNone(absl::ZeroDuration()));
  in_flight.Add();
  in_flight.Add();
  in_flight.Done();
  EXPECT_FALSE(in_flight.AwaitNone(absl::ZeroDuration()));
  std::thread last([&] { in_flight.Done(); });
  EXPECT_TRUE(in_flight.AwaitNone(absl::Minutes(10)));
  last.join();
}

}  // namespace
}  // namespace lossd
