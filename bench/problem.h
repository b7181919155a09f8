// What every contender of a case computes: one loss, and with Output::kLogitsGradient its gradient.
#ifndef LOSSD_BENCH_PROBLEM_H_
#define LOSSD_BENCH_PROBLEM_H_

#include <functional>

#include "loss/loss.h"

namespace lossd::bench {

struct Problem {
  Spec spec;      // Reduction::kMean; no output but the gradient
  Inputs inputs;  // the same memory for everyone in this process
  // The gradient of lossd: apart from the logits. Peers make their own.
  MutableTensorView gradient;

  bool with_gradient() const { return spec.outputs.Has(Output::kLogitsGradient); }
};

// Computes a problem `calls` times, one after the other, and returns the seconds this took.
using TimedCalls = std::function<double(int calls)>;

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_PROBLEM_H_
