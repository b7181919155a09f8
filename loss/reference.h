// The gold standard: every loss written as its formula, one scalar at a time, in long double. Slow on purpose.
//
// Linked by tests, benches and `lossctl eval --verify` only. Shares no arithmetic with the kernels.
#ifndef LOSSD_LOSS_REFERENCE_H_
#define LOSSD_LOSS_REFERENCE_H_

#include <cstdint>
#include <vector>

#include "loss/loss.h"

namespace lossd {

// One tensor of the truth. `magnitude` is the sum of the absolute values of the terms each value is made of: what its
// rounding errors are relative to.
struct ReferenceTensor {
  std::vector<long double> value, magnitude;
};

// What Evaluate would return with infinite precision, nearly: rounding is 2^-64. All outputs that the loss has, asked
// or not; the others are empty. Gradients are not rounded to gradient_type.
struct Reference {
  ResultSet<ReferenceTensor> results;  // element_loss also where the reduction is NONE; loss is the reduced loss
  long double loss_sum = 0;
  long double weight_sum = 0;
  int64_t ignored_count = 0;
  int64_t correct_count = 0;
  int64_t nonfinite_count = 0;
};

// REQUIRES: `plan` was made from TypesOf(inputs), and WeighElements(plan, inputs) is OK.
Reference EvaluateReference(const Plan& plan, const Inputs& inputs);

// How far a value of this type may be from the truth: docs/numerics.md, "Error bounds". `compute_type` is the plan's.
long double Tolerance(DataType type, DataType compute_type, long double truth, long double magnitude);

}  // namespace lossd

#endif  // LOSSD_LOSS_REFERENCE_H_
