#include "server/job_table.h"

#include <cmath>
#include <limits>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

BatchRecord BatchOf(const std::string& job) {
  BatchRecord batch;
  batch.job = job;
  batch.loss_name = "cross_entropy";
  batch.rows = 1;
  return batch;
}

std::vector<std::string> NamesOf(const JobTable& table) {
  std::vector<std::string> names;
  for (const JobStatus& job : table.Snapshot()) names.push_back(job.job);
  return names;
}

// Every field said.
BatchRecord FullBatch() {
  BatchRecord batch = BatchOf("digits");
  batch.step = 7;
  batch.mean_loss = 2.5;
  batch.rows = 32;
  batch.accuracy = 0.25;
  batch.nonfinite_count = 3;
  return batch;
}

TEST(JobTableTest, OneJob) {
  JobTable table(10);
  table.Add(FullBatch(), 1000);
  const std::vector<JobStatus> jobs = table.Snapshot();
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0].job, "digits");
  EXPECT_EQ(jobs[0].step, 7);
  EXPECT_EQ(jobs[0].loss, 2.5);
  EXPECT_EQ(jobs[0].rows, 32);
  EXPECT_EQ(jobs[0].accuracy, 0.25);
  EXPECT_EQ(jobs[0].nonfinite_count, 3);
  EXPECT_EQ(jobs[0].last_seen_seconds, 1000);
}

TEST(JobTableTest, CountsAddUpAndTheRestIsTheLastBatchs) {
  JobTable table(10);
  table.Add(FullBatch(), 1000);
  BatchRecord second = BatchOf("digits");  // says neither step nor accuracy: the last known ones stay
  second.mean_loss = 1.5;
  second.rows = 8;
  second.nonfinite_count = 1;
  table.Add(second, 1001);
  const std::vector<JobStatus> jobs = table.Snapshot();
  ASSERT_EQ(jobs.size(), 1u);
  EXPECT_EQ(jobs[0].step, 7);
  EXPECT_EQ(jobs[0].loss, 1.5);
  EXPECT_EQ(jobs[0].rows, 40);
  EXPECT_EQ(jobs[0].accuracy, 0.25);
  EXPECT_EQ(jobs[0].nonfinite_count, 4);
  EXPECT_EQ(jobs[0].last_seen_seconds, 1001);
}

TEST(JobTableTest, ALossThatIsNotANumberIsShown) {
  JobTable table(10);
  BatchRecord batch = BatchOf("digits");
  batch.mean_loss = std::numeric_limits<double>::quiet_NaN();
  table.Add(batch, 1);
  EXPECT_TRUE(std::isnan(table.Snapshot()[0].loss));
}

// A piece of a batch may be all padding.
TEST(JobTableTest, WhereNoElementCountsTheLastLossStays) {
  JobTable table(10);
  BatchRecord batch = BatchOf("digits");
  batch.mean_loss.reset();
  table.Add(batch, 1);
  EXPECT_TRUE(std::isnan(table.Snapshot()[0].loss));
  table.Add(FullBatch(), 2);
  table.Add(batch, 3);
  EXPECT_EQ(table.Snapshot()[0].loss, 2.5);
  EXPECT_EQ(table.Snapshot()[0].last_seen_seconds, 3);
}

TEST(JobTableTest, WhoStays) {
  struct Case {
    const char* name;
    size_t max_jobs;
    std::vector<std::string> batches;  // in this order
    std::vector<std::string> want;     // the most recently seen first
  };
  const Case cases[] = {
      {"nobody came", 2, {}, {}},
      {"no job", 2, {"", ""}, {}},
      {"no room for any", 0, {"a", "b"}, {}},
      {"room for one", 1, {"a", "b", "c"}, {"c"}},
      {"one and again", 1, {"a", "a"}, {"a"}},
      {"room for all", 3, {"a", "b", "c"}, {"c", "b", "a"}},
      {"the first goes", 2, {"a", "b", "c"}, {"c", "b"}},
      {"the least recently seen goes, not the oldest", 2, {"a", "b", "a", "c"}, {"c", "a"}},
      {"seen again in the middle", 3, {"a", "b", "c", "b"}, {"b", "c", "a"}},
      {"one that went comes back", 2, {"a", "b", "c", "a"}, {"a", "c"}},
      {"no job pushes nobody out", 1, {"a", ""}, {"a"}},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    JobTable table(test.max_jobs);
    double now = 0;
    for (const std::string& job : test.batches) table.Add(BatchOf(job), ++now);
    EXPECT_EQ(NamesOf(table), test.want);
  }
}

TEST(JobTableTest, OneThatComesBackStartsAtZero) {
  JobTable table(1);
  for (const char* job : {"a", "a", "b", "a"}) table.Add(BatchOf(job), 1);
  EXPECT_EQ(table.Snapshot()[0].rows, 1);
}

TEST(JobTableTest, NeverMoreThanMaxJobs) {
  JobTable table(100);
  for (int i = 0; i < 10000; ++i) {
    table.Add(BatchOf("job" + std::to_string(i * 7919 % 1000)), i);
    ASSERT_LE(table.Snapshot().size(), 100u);
  }
  EXPECT_EQ(table.Snapshot().size(), 100u);
}

TEST(JobTableTest, ManyThreadsLoseNothing) {
  JobTable table(4);
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([&table, t] {
      for (int i = 0; i < 1000; ++i) table.Add(BatchOf("job" + std::to_string((i + t) % 4)), i);
    });
  }
  for (std::thread& thread : threads) thread.join();
  int64_t rows = 0;
  for (const JobStatus& job : table.Snapshot()) rows += job.rows;
  EXPECT_EQ(rows, 4000);
  EXPECT_EQ(table.Snapshot().size(), 4u);
}

}  // namespace
}  // namespace lossd
