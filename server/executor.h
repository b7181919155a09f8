// The compute pool: whole calls are handed over by gRPC threads, and their blocks spread over the pool's threads.
#ifndef LOSSD_SERVER_EXECUTOR_H_
#define LOSSD_SERVER_EXECUTOR_H_

#include <cstdint>
#include <functional>
#include <memory>

#include "absl/functional/function_ref.h"

namespace lossd {

// Thread-safe.
class Executor {
 public:
  // REQUIRES: threads >= 1.
  explicit Executor(int threads);
  // Waits for everything submitted.
  ~Executor();
  Executor(const Executor&) = delete;
  Executor& operator=(const Executor&) = delete;

  int threads() const;

  // Runs `work` on a thread of the pool, soon, roughly in the order of submission. `work` must not throw.
  void Submit(std::function<void()> work);

  // Calls body(begin, end, worker) for runs of neighbours that make up [0, count), on as many threads as are free, and
  // returns when all calls have returned. A run is shorter than `longest` where others would have nothing left to do.
  // Two calls of one loop at the same time have different workers in [0, threads()); everything the caller wrote before
  // is visible to them, and what they wrote is visible after. If calls throw, the rest may not run, and one of the
  // exceptions is thrown here. A single index runs on the calling thread, and wakes nobody. REQUIRES: longest >= 1;
  // called from `work` of Submit(), or from a `body`.
  void ForEach(int64_t count, int64_t longest, absl::FunctionRef<void(int64_t begin, int64_t end, int worker)> body);
  // The same with body(index).
  void ForEach(int64_t count, absl::FunctionRef<void(int64_t index)> body);

 private:
  struct Pool;
  std::unique_ptr<Pool> pool_;
};

// The executor as the ParallelFor of loss.h. It is referred to, and outlives what is returned.
inline auto ParallelForOn(Executor& executor) {
  return [&executor](int64_t count, absl::FunctionRef<void(int64_t)> body) { executor.ForEach(count, body); };
}

}  // namespace lossd

#endif  // LOSSD_SERVER_EXECUTOR_H_
