// What an element's targets and weights are: read once for the denominator and once for the loss. Internal to loss/.
#ifndef LOSSD_LOSS_TARGETS_H_
#define LOSSD_LOSS_TARGETS_H_

#include <cstdint>

#include "loss/element.h"
#include "loss/loss.h"

namespace lossd {

inline double SampleWeight(const Inputs& inputs, int64_t element) {
  return inputs.sample_weights ? FloatAt(inputs.sample_weights, element) : 1;
}

inline double ClassWeight(const Inputs& inputs, int64_t target) {
  return inputs.class_weights ? FloatAt(inputs.class_weights, target) : 1;
}

// Calls visit(position in `targets`, class index) for each of the element's indices that is not ignore_index, until it
// returns false; returns whether it never did. Probabilities have none.
template <typename Visit>
bool ForEachTarget(const Plan& plan, const Inputs& inputs, int64_t element, const Visit& visit) {
  if (plan.target_kind == TargetKind::kProbabilities) return true;
  const int64_t count = plan.target_kind == TargetKind::kSparseProbabilities ? plan.sparse_size : 1;
  for (int64_t position = element * count; position < (element + 1) * count; ++position) {
    const int64_t target = IntegerAt(inputs.targets, position);
    if (target != plan.ignore_index && !visit(position, target)) return false;
  }
  return true;
}

// Whether the element counts nowhere: sample weight 0, or every index it has is ignore_index.
inline bool IsIgnored(const Plan& plan, const Inputs& inputs, int64_t element) {
  if (SampleWeight(inputs, element) == 0) return true;
  if (plan.target_kind == TargetKind::kProbabilities) return false;
  return ForEachTarget(plan, inputs, element, [](int64_t, int64_t) { return false; });  // the first live one stops it
}

}  // namespace lossd

#endif  // LOSSD_LOSS_TARGETS_H_
