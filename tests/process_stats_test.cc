#include "server/process_stats.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <unistd.h>

#include <chrono>
#include <latch>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace lossd {
namespace {

TEST(ProcessStatsTest, PlausibleNumbers) {
  const ProcessStats stats = ReadProcessStats();
  EXPECT_GE(stats.cpu_seconds, 0);
  EXPECT_GT(stats.resident_memory_bytes, 100 << 10);
  EXPECT_GE(stats.virtual_memory_bytes, stats.resident_memory_bytes);
  EXPECT_GE(stats.threads, 1);
  EXPECT_GE(stats.open_fds, 1);
  rlimit limit{};
  ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
  EXPECT_EQ(stats.max_fds, static_cast<int64_t>(limit.rlim_cur));
}

TEST(ProcessStatsTest, TheStartIsInThePastAndStays) {
  const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
  const double start = ReadProcessStats().start_time_seconds;
  EXPECT_GT(start, 1e9);
  EXPECT_LT(start, now + 2);  // btime is in whole seconds
  EXPECT_EQ(ReadProcessStats().start_time_seconds, start);
}

TEST(ProcessStatsTest, CpuTimeGrowsWithWork) {
  const double before = ReadProcessStats().cpu_seconds;
  volatile double sum = 0;
  while (ReadProcessStats().cpu_seconds < before + 0.05) {
    for (int i = 0; i < 100000; ++i) sum = sum + i;
  }
  SUCCEED();
}

TEST(ProcessStatsTest, OpenFdsFollow) {
  const int64_t before = ReadProcessStats().open_fds;
  std::vector<int> fds;
  for (int i = 0; i < 10; ++i) fds.push_back(open("/dev/null", O_RDONLY | O_CLOEXEC));
  EXPECT_EQ(ReadProcessStats().open_fds, before + 10);
  for (const int fd : fds) close(fd);
  EXPECT_EQ(ReadProcessStats().open_fds, before);
}

TEST(ProcessStatsTest, ThreadsFollow) {
  const int64_t before = ReadProcessStats().threads;
  std::latch may_end(1);
  std::thread thread([&] { may_end.wait(); });
  EXPECT_GT(ReadProcessStats().threads, before);  // sanitizers may add one of their own
  may_end.count_down();
  thread.join();
}

TEST(ProcessStatsTest, MemoryFollows) {
  constexpr int64_t kBytes = 64 << 20;
  const ProcessStats before = ReadProcessStats();
  const std::vector<char> memory(kBytes, 1);
  const ProcessStats after = ReadProcessStats();
  EXPECT_EQ(memory.back(), 1);
  EXPECT_GE(after.virtual_memory_bytes - before.virtual_memory_bytes, kBytes / 2);
  EXPECT_GE(after.resident_memory_bytes - before.resident_memory_bytes, kBytes / 2);
}

}  // namespace
}  // namespace lossd
