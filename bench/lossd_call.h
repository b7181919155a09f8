// lossd's kernels in this process, called as server/evaluate_call.cc calls them.
#ifndef LOSSD_BENCH_LOSSD_CALL_H_
#define LOSSD_BENCH_LOSSD_CALL_H_

#include <memory>
#include <string>
#include <vector>

#include "bench/memory.h"
#include "bench/pool.h"
#include "bench/problem.h"

namespace lossd::bench {

class LossdCall {
 public:
  // `simd_target`: one of Highway's, or 0 for the best. Dies with a message where the problem is not valid.
  LossdCall(Pool& pool, const Problem& problem, int64_t simd_target);
  LossdCall(const LossdCall&) = delete;
  LossdCall& operator=(const LossdCall&) = delete;

  // MakePlan() to Summarize(), `calls` times. The loss and the gradient stay where they are.
  double Run(int calls);

  double loss() const;

 private:
  void EvaluateOnce(Executor& executor);

  Pool& pool_;
  const Problem problem_;
  const int64_t simd_target_;
  double loss_storage_ = 0;
  Results results_;
  std::vector<BlockSummary> blocks_;
  Memory scratch_;
};

// Whether this build and this machine have a target.
bool HasSimdTarget(int64_t simd_target);

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_LOSSD_CALL_H_
