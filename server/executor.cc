#include "server/executor.h"

#include <oneapi/tbb/global_control.h>
#include <oneapi/tbb/parallel_for.h>
#include <oneapi/tbb/task_arena.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <mutex>
#include <utility>

#include "absl/cleanup/cleanup.h"
#include "absl/container/fixed_array.h"

namespace lossd {

namespace tbb = oneapi::tbb;

namespace {

// Indices [next, end).
struct alignas(64) Share {
  std::atomic<int64_t> next;
  int64_t end;
};

thread_local int loops_inside = 0;  // of how many loops a body is on the stack

}  // namespace

struct Executor::Pool {
  // No slot is reserved for outside threads: whoever computes is one of ours. TBB starts no more workers than the
  // machine has cores unless told.
  explicit Pool(int count)
      : threads(count),
        workers(tbb::global_control::max_allowed_parallelism, static_cast<size_t>(count) + 1),
        arena(count, /*reserved_for_masters=*/0) {}

  const int threads;
  tbb::global_control workers;
  tbb::task_arena arena;
  std::mutex mutex;
  std::condition_variable idle;
  int64_t pending = 0;
  // What ForEach() hands over and takes back: released after, acquired before, for tools that cannot see into TBB. It
  // lives here because the caller's stack has been something else before, and they remember.
  alignas(64) std::atomic<uint64_t> handovers = 0;
};

Executor::Executor(int threads) : pool_(std::make_unique<Pool>(threads)) {}

Executor::~Executor() {
  std::unique_lock<std::mutex> lock(pool_->mutex);
  pool_->idle.wait(lock, [this] { return pool_->pending == 0; });
}

int Executor::threads() const { return pool_->threads; }

void Executor::Submit(std::function<void()> work) {
  // TBB frees what is enqueued some time after it ran; `work` and its captures go before it counts as done.
  auto* const handed_over = new std::function<void()>(std::move(work));
  {
    // Also orders the caller's writes before the work for tools that cannot see into TBB.
    std::lock_guard<std::mutex> lock(pool_->mutex);
    ++pool_->pending;
  }
  pool_->arena.enqueue([pool = pool_.get(), handed_over] {
    { std::lock_guard<std::mutex> lock(pool->mutex); }
    (*handed_over)();
    delete handed_over;
    std::lock_guard<std::mutex> lock(pool->mutex);
    if (--pool->pending == 0) pool->idle.notify_all();
  });
}

void Executor::ForEach(int64_t count, int64_t longest, absl::FunctionRef<void(int64_t, int64_t, int)> body) {
  const int workers = static_cast<int>(std::min<int64_t>(count, pool_->threads));
  // Each worker begins with a share of neighbours, whose memory follows one another, and then helps with what is left
  // of the others'.
  absl::FixedArray<Share, 64> shares(static_cast<size_t>(std::max(workers, 1)));
  for (int i = 0; i < workers; ++i) {
    shares[static_cast<size_t>(i)].next = count * i / workers;
    shares[static_cast<size_t>(i)].end = count * (i + 1) / workers;
  }
  std::atomic<uint64_t>& handovers = pool_->handovers;  // captured: pool_ may be read after the hand-over only
  handovers.fetch_add(1, std::memory_order_release);
  const absl::Cleanup take_back = [&] { handovers.fetch_add(1, std::memory_order_acquire); };
  const auto work = [&](int worker) {
    handovers.fetch_add(1, std::memory_order_acquire);
    ++loops_inside;
    const absl::Cleanup hand_back = [&] {
      --loops_inside;
      handovers.fetch_add(1, std::memory_order_release);
    };
    for (int i = 0; i < workers; ++i) {
      Share& share = shares[static_cast<size_t>((worker + i) % workers)];
      for (int64_t begin = share.next; begin < share.end;) {
        const int64_t end = begin + std::clamp<int64_t>((share.end - begin) / 2, 1, longest);
        if (!share.next.compare_exchange_weak(begin, end)) continue;
        body(begin, end, worker);
        begin = share.next;
      }
    }
  };
  if (workers <= 1) return work(0);
  // Workers are numbered here rather than by TBB, whose arenas may have a slot more than they have threads.
  const auto loop = [&] { tbb::parallel_for(0, workers, work, tbb::simple_partitioner()); };
  // Isolated: a thread that waits for its last block must not start somebody else's call meanwhile. But it may help
  // with a loop within its own one.
  if (loops_inside > 0) {
    loop();
  } else {
    tbb::this_task_arena::isolate(loop);
  }
}

void Executor::ForEach(int64_t count, absl::FunctionRef<void(int64_t)> body) {
  ForEach(count, 1, [body](int64_t begin, int64_t end, int) {
    for (; begin < end; ++begin) body(begin);
  });
}

}  // namespace lossd
