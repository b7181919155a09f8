#include "server/executor.h"

#include <atomic>
#include <latch>
#include <memory>
#include <new>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

// Submits `work` and waits for it.
void SubmitAndWait(Executor& executor, const std::function<void()>& work) {
  std::latch done(1);
  executor.Submit([&] {
    work();
    done.count_down();
  });
  done.wait();
}

class ExecutorTest : public ::testing::TestWithParam<int> {};
INSTANTIATE_TEST_SUITE_P(Threads, ExecutorTest, ::testing::Values(1, 2, 7));

TEST_P(ExecutorTest, Threads) { EXPECT_EQ(Executor(GetParam()).threads(), GetParam()); }

TEST_P(ExecutorTest, EveryIndexOnce) {
  Executor executor(GetParam());
  for (const int64_t count : {0, 1, 2, 3, 8, 1000, 10007}) {
    for (const int64_t longest : {1, 2, 16, 100000}) {
      SCOPED_TRACE(absl::StrCat(count, " in runs of at most ", longest));
      std::vector<int> calls(static_cast<size_t>(count), 0);  // plain ints: what bodies write is visible after
      std::atomic<int> wrong = 0;
      SubmitAndWait(executor, [&] {
        executor.ForEach(count, longest, [&](int64_t begin, int64_t end, int) {
          wrong += end <= begin || end - begin > longest ? 1 : 0;
          for (int64_t i = begin; i < end; ++i) ++calls[static_cast<size_t>(i)];
        });
      });
      EXPECT_EQ(calls, std::vector<int>(static_cast<size_t>(count), 1));
      EXPECT_EQ(wrong, 0);
    }
  }
}

// Notes which workers are at work, and complains about two at once on the same one.
class Workers {
 public:
  explicit Workers(int threads) : busy_(static_cast<size_t>(threads)) {}

  void Visit(int worker) {
    const bool in_range = worker >= 0 && worker < static_cast<int>(busy_.size());
    if (!in_range) {
      ++out_of_range_;
      return;
    }
    std::atomic<bool>& busy = busy_[static_cast<size_t>(worker)];
    if (busy.exchange(true)) ++shared_;
    std::this_thread::yield();
    busy = false;
  }

  int out_of_range() const { return out_of_range_; }
  int shared() const { return shared_; }

 private:
  std::vector<std::atomic<bool>> busy_;
  std::atomic<int> out_of_range_ = 0, shared_ = 0;
};

TEST_P(ExecutorTest, WorkersAreInRangeAndDistinctAmongConcurrentCalls) {
  Executor executor(GetParam());
  constexpr int kSubmissions = 32;
  std::vector<std::unique_ptr<Workers>> loops;
  std::latch done(kSubmissions);
  for (int i = 0; i < kSubmissions; ++i) {
    Workers& workers = *loops.emplace_back(std::make_unique<Workers>(GetParam()));
    executor.Submit([&] {
      executor.ForEach(100, 1, [&](int64_t, int64_t, int worker) { workers.Visit(worker); });
      done.count_down();
    });
  }
  done.wait();
  for (const auto& workers : loops) {
    EXPECT_EQ(workers->out_of_range(), 0);
    EXPECT_EQ(workers->shared(), 0);
  }
}

// Which thread serves first is a matter of luck, so luck is tried often.
TEST_P(ExecutorTest, TheWorkerIsInRangeInEveryNewExecutor) {
  for (int round = 0; round < 50; ++round) {
    Executor executor(GetParam());
    Workers workers(GetParam());
    SubmitAndWait(executor, [&] {
      executor.ForEach(1, 1, [&](int64_t, int64_t, int worker) { workers.Visit(worker); });
      executor.ForEach(2, 1, [&](int64_t, int64_t, int worker) { workers.Visit(worker); });
    });
    ASSERT_EQ(workers.out_of_range(), 0) << "in round " << round;
  }
}

TEST_P(ExecutorTest, ManySubmissionsEachWithItsLoop) {
  Executor executor(GetParam());
  constexpr int kSubmissions = 200;
  constexpr int64_t kIndices = 50;
  std::vector<int64_t> sums(kSubmissions, 0);
  std::latch done(kSubmissions);
  for (size_t i = 0; i < kSubmissions; ++i) {
    executor.Submit([&, i] {
      std::vector<int64_t> parts(kIndices, 0);
      executor.ForEach(kIndices, 1, [&](int64_t index, int64_t, int) { parts[static_cast<size_t>(index)] = index; });
      for (const int64_t part : parts) sums[i] += part;
      done.count_down();
    });
  }
  done.wait();
  EXPECT_EQ(sums, std::vector<int64_t>(kSubmissions, kIndices * (kIndices - 1) / 2));
}

TEST_P(ExecutorTest, ALoopInEachBodyOfALoop) {
  Executor executor(GetParam());
  constexpr int64_t kOuter = 5, kInner = 40;
  for (int round = 0; round < 50; ++round) {
    std::vector<int64_t> sums(kOuter, 0);
    std::vector<int> nested(static_cast<size_t>(executor.threads()), 0);
    std::atomic<bool> shared = false;
    SubmitAndWait(executor, [&] {
      executor.ForEach(kOuter, 1, [&](int64_t outer, int64_t, int worker) {
        // Meanwhile this worker's memory is nobody else's.
        int& mine = nested[static_cast<size_t>(worker)];
        if (++mine != 1) shared = true;
        std::vector<int64_t> parts(kInner, 0);
        executor.ForEach(kInner, 1, [&](int64_t begin, int64_t end, int) {
          for (; begin < end; ++begin) parts[static_cast<size_t>(begin)] = outer + begin;
        });
        for (const int64_t part : parts) sums[static_cast<size_t>(outer)] += part;
        --mine;
      });
    });
    ASSERT_FALSE(shared) << "in round " << round;
    for (int64_t outer = 0; outer < kOuter; ++outer) {
      ASSERT_EQ(sums[static_cast<size_t>(outer)], outer * kInner + kInner * (kInner - 1) / 2) << "in round " << round;
    }
  }
}

TEST_P(ExecutorTest, WhatABodyThrowsIsThrownByTheLoop) {
  Executor executor(GetParam());
  std::atomic<int> caught = 0;
  SubmitAndWait(executor, [&] {
    for (const int64_t count : {1, 50}) {
      try {
        executor.ForEach(count, 1, [&](int64_t begin, int64_t, int) {
          if (begin == count - 1) executor.ForEach(count, 1, [](int64_t, int64_t, int) { throw std::bad_alloc(); });
        });
      } catch (const std::bad_alloc&) {
        ++caught;
      }
    }
  });
  EXPECT_EQ(caught, 2);
  std::atomic<int64_t> sum = 0;
  SubmitAndWait(executor, [&] { executor.ForEach(50, 1, [&](int64_t i, int64_t, int) { sum += i; }); });
  EXPECT_EQ(sum, 50 * 49 / 2);
}

// A loop waits for its own bodies only: were it to run another submission meanwhile, that one would wait for a loop
// further down its own stack.
TEST_P(ExecutorTest, ALoopNeverRunsAnotherSubmissionInside) {
  Executor executor(GetParam());
  constexpr int kSubmissions = 64;
  std::atomic<int> nested = 0;
  std::latch done(kSubmissions);
  for (int i = 0; i < kSubmissions; ++i) {
    executor.Submit([&] {
      thread_local bool in_loop = false;
      if (in_loop) ++nested;
      in_loop = true;
      executor.ForEach(64, 1, [](int64_t, int64_t, int) { std::this_thread::yield(); });
      in_loop = false;
      done.count_down();
    });
  }
  done.wait();
  EXPECT_EQ(nested, 0);
}

TEST_P(ExecutorTest, SubmitFromManyThreads) {
  Executor executor(GetParam());
  constexpr int kThreads = 4, kEach = 100;
  std::atomic<int> ran = 0;
  std::latch done(kThreads * kEach);
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) {
        executor.Submit([&] {
          ++ran;
          done.count_down();
        });
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
  done.wait();
  EXPECT_EQ(ran, kThreads * kEach);
}

TEST_P(ExecutorTest, TheDestructorWaitsForEverythingSubmitted) {
  constexpr int kSubmissions = 100;
  int ran = 0;
  std::vector<int> loops(kSubmissions, 0);
  {
    Executor executor(GetParam());
    for (size_t i = 0; i < kSubmissions; ++i) {
      executor.Submit([&executor, &loops, i] {
        executor.ForEach(3, 1, [](int64_t, int64_t, int) { std::this_thread::yield(); });
        loops[i] = 1;
      });
    }
  }
  for (const int loop : loops) ran += loop;
  EXPECT_EQ(ran, kSubmissions);
}

TEST_P(ExecutorTest, WhatASubmissionCapturedIsGoneAfterTheDestructor) {
  for (int round = 0; round < 50; ++round) {
    const auto captured = std::make_shared<int>(0);
    {
      Executor executor(GetParam());
      for (int i = 0; i < 10; ++i) executor.Submit([captured] {});
    }
    ASSERT_EQ(captured.use_count(), 1) << "in round " << round;
  }
}

TEST_P(ExecutorTest, TheCallerSeesNothingRunOnItsOwnThread) {
  Executor executor(GetParam());
  std::atomic<bool> mine = false;
  const std::thread::id caller = std::this_thread::get_id();
  SubmitAndWait(executor, [&] {
    executor.ForEach(20, 1, [&](int64_t, int64_t, int) {
      if (std::this_thread::get_id() == caller) mine = true;
    });
  });
  EXPECT_FALSE(mine);
}

TEST(SeveralExecutorsTest, WorkAtOnce) {
  Executor one(1), two(2), seven(7);
  for (Executor* executor : {&one, &two, &seven}) {
    Workers workers(executor->threads());
    SubmitAndWait(*executor,
                  [&] { executor->ForEach(500, 1, [&](int64_t, int64_t, int worker) { workers.Visit(worker); }); });
    EXPECT_EQ(workers.out_of_range(), 0) << executor->threads();
    EXPECT_EQ(workers.shared(), 0) << executor->threads();
  }
}

}  // namespace
}  // namespace lossd
