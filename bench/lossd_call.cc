#include "bench/lossd_call.h"

#include <hwy/highway.h>

#include <cstdio>
#include <cstdlib>

#include "loss/element.h"

namespace lossd::bench {
namespace {

[[noreturn]] void Die(const absl::Status& status) {
  std::fprintf(stderr, "bench: %s\n", status.ToString().c_str());
  std::exit(1);
}

template <typename T>
T ValueOrDie(absl::StatusOr<T> result) {
  if (!result.ok()) Die(result.status());
  return *std::move(result);
}

void UseSimdTarget(int64_t target) {
  hwy::SetSupportedTargetsForTest(target);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace

LossdCall::LossdCall(Pool& pool, const Problem& problem, int64_t simd_target)
    : pool_(pool), problem_(problem), simd_target_(simd_target) {
  const Plan plan = ValueOrDie(MakePlan(problem_.spec, TypesOf(problem_.inputs)));
  results_.loss = {&loss_storage_, plan.results.loss};
  if (problem_.with_gradient()) results_.logits_gradient = {problem_.gradient.data, plan.results.logits_gradient};
  blocks_.resize(static_cast<size_t>(plan.num_blocks));
  scratch_ = Memory(static_cast<size_t>(plan.scratch_bytes * pool_.threads()));
}

void LossdCall::EvaluateOnce(Executor& executor) {
  const Plan plan = ValueOrDie(MakePlan(problem_.spec, TypesOf(problem_.inputs)));
  const auto parallel_for = ParallelForOn(executor);
  const Weights weights = ValueOrDie(WeighElements(plan, problem_.inputs, parallel_for));
  executor.ForEach(plan.num_blocks, plan.run_blocks, [&](int64_t begin, int64_t end, int worker) {
    std::byte* const mine = scratch_.data() + worker * plan.scratch_bytes;
    EvaluateBlocks(plan, problem_.inputs, weights, {begin, end}, results_, mine, blocks_, parallel_for);
  });
  Summarize(plan, weights, blocks_, results_);
}

double LossdCall::Run(int calls) {
  if (simd_target_ != 0) UseSimdTarget(simd_target_);
  const double seconds = pool_.Run([&](Executor& executor) {
    for (int call = 0; call < calls; ++call) EvaluateOnce(executor);
  });
  if (simd_target_ != 0) UseSimdTarget(0);
  return seconds;
}

double LossdCall::loss() const { return FloatAt({results_.loss.data, results_.loss.type}, 0); }

bool HasSimdTarget(int64_t simd_target) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    if (target == simd_target) return true;
  }
  return false;
}

}  // namespace lossd::bench
