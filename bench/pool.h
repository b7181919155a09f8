// The server's own thread pool, with a clock: work runs on it as a call does in lossd.
#ifndef LOSSD_BENCH_POOL_H_
#define LOSSD_BENCH_POOL_H_

#include <chrono>
#include <functional>
#include <semaphore>

#include "server/executor.h"

namespace lossd::bench {

inline double Now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class Pool {
 public:
  explicit Pool(int threads) : executor_(threads) {}

  int threads() const { return executor_.threads(); }

  // Runs `work` on a thread of the pool and returns how long it took, without the way there and back: the time that
  // lossd reports as compute_seconds.
  double Run(const std::function<void(Executor&)>& work) {
    double seconds = 0;
    std::binary_semaphore done(0);
    executor_.Submit([&] {
      const double start = Now();
      work(executor_);
      seconds = Now() - start;
      done.release();
    });
    done.acquire();
    return seconds;
  }

 private:
  Executor executor_;
};

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_POOL_H_
