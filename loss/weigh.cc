// What elements weigh: the rules about values, and the denominator.
#include <algorithm>
#include <array>
#include <limits>
#include <numeric>

#include "absl/container/inlined_vector.h"
#include "absl/strings/str_cat.h"
#include "loss/element.h"
#include "loss/elementary.h"
#include "loss/loss.h"
#include "loss/pointwise.h"
#include "loss/targets.h"

namespace lossd {
namespace {

absl::Status BadTarget(const Plan& plan, const TensorView& targets, int64_t position) {
  return absl::InvalidArgumentError(absl::StrCat("targets[", position, "] = ", IntegerAt(targets, position),
                                                 " is outside [0, ", plan.num_classes, ") and is not ignore_index (",
                                                 plan.ignore_index, ")"));
}

// Entries of `range` that count nowhere: those of sample weight 0.
int64_t CountIgnoredEntries(const TensorView& sample_weights, Plan::Range range) {
  int64_t count = 0;
  ChunkBuffer weights;
  for (int64_t first = range.begin; sample_weights && first < range.end; first += kChunkEntries) {
    const int64_t n = std::min(kChunkEntries, range.end - first);
    Widen(sample_weights, first, n, weights);
    count += std::count(weights.values, weights.values + n, 0.0);
  }
  return count;
}

IndexCounts CountTargets(const Plan& plan, const TensorView& targets, Plan::Range range) {
  if (targets.type.data_type == DataType::kInt64) {
    return CountIndices(static_cast<const int64_t*>(targets.data) + range.begin, range.end - range.begin,
                        plan.ignore_index, plan.num_classes);
  }
  IndexCounts counts;
  WithIntegers(targets, [&](const auto& load) {
    for (int64_t element = range.begin; element < range.end; ++element) {
      const int64_t target = load(element);
      const bool ignored = target == plan.ignore_index;
      counts.ignored += ignored;
      counts.outside += !ignored && (target < 0 || target >= plan.num_classes);
    }
  });
  return counts;
}

// What some of the elements weigh.
struct Share {
  double weight_sum = 0;
  int64_t ignored_count = 0;
  int64_t bad_target = -1;  // the position of the first that is no class index
};

// What samples weigh, with the weights of their classes.
void WeighSamples(const Plan& plan, const Inputs& inputs, Plan::Range range, Share& share) {
  const bool indices = plan.target_kind == TargetKind::kClassIndices;
  ChunkBuffer chunk;  // 0 where an element counts nowhere
  double* const weights = chunk.values;
  std::array<double, kTurns> sums{};  // independent ones hide the latency of addition
  for (int64_t first = range.begin; first < range.end; first += kChunkEntries) {
    const int64_t n = std::min(kChunkEntries, range.end - first);
    Widen(inputs.sample_weights, first, n, chunk);
    if (indices) {
      WithIntegers(inputs.targets, [&](const auto& load) {
        for (int64_t i = 0; i < n; ++i) weights[i] = load(first + i) == plan.ignore_index ? 0 : weights[i];
      });
    }
    share.ignored_count += std::count(weights, weights + n, 0.0);
    if (indices && inputs.class_weights) {
      WithFloats(inputs.class_weights, [&](const auto& load) {
        for (int64_t i = 0; i < n; ++i) {
          if (weights[i] != 0) weights[i] *= load(IntegerAt(inputs.targets, first + i));
        }
      });
    }
    for (int64_t i = 0; i < n; ++i) sums[static_cast<size_t>(i) % kTurns] += weights[i];
  }
  share.weight_sum = std::accumulate(sums.begin(), sums.end(), 0.0);
}

// The common cases of WeighRows(). False where there is more to do, or to complain about.
bool WeighSimply(const Plan& plan, const Inputs& inputs, Plan::Range range, Share& share) {
  if (plan.target_kind == TargetKind::kSparseProbabilities) return false;
  const int64_t count = range.end - range.begin;
  const bool indices = plan.target_kind == TargetKind::kClassIndices;
  const IndexCounts counts = indices ? CountTargets(plan, inputs.targets, range) : IndexCounts();
  if (counts.outside != 0) return false;
  if (inputs.sample_weights) {
    WeighSamples(plan, inputs, range, share);
    return true;
  }
  share.ignored_count = counts.ignored;
  share.weight_sum = static_cast<double>(count - counts.ignored);
  if (!inputs.class_weights || !indices) return true;
  std::array<double, kTurns> sums{};  // independent ones hide the latency of addition
  WithIntegers(inputs.targets, [&](const auto& target_of) {
    WithFloats(inputs.class_weights, [&](const auto& weight_of) {
      for (int64_t element = range.begin; element < range.end; ++element) {
        const int64_t target = target_of(element);
        if (target != plan.ignore_index) sums[static_cast<size_t>(element) % kTurns] += weight_of(target);
      }
    });
  });
  share.weight_sum = std::accumulate(sums.begin(), sums.end(), 0.0);
  return true;
}

// Rows: the sum of their weights, every class index checked.
void WeighRows(const Plan& plan, const Inputs& inputs, Plan::Range range, Share& share) {
  if (WeighSimply(plan, inputs, range, share)) return;
  for (int64_t element = range.begin; element < range.end; ++element) {
    // Every index is checked, those of elements that are left out too.
    bool live = false;
    double weight = SampleWeight(inputs, element);
    ForEachTarget(plan, inputs, element, [&](int64_t position, int64_t target) {
      live = true;
      if (target < 0 || target >= plan.num_classes) {
        share.bad_target = position;
        return false;
      }
      if (plan.target_kind == TargetKind::kClassIndices) weight *= ClassWeight(inputs, target);
      return true;
    });
    if (share.bad_target >= 0) return;
    live = (live || plan.target_kind == TargetKind::kProbabilities) && SampleWeight(inputs, element) != 0;
    if (live) share.weight_sum += weight;
    if (!live) ++share.ignored_count;
  }
}

Share WeighShare(const Plan& plan, const Inputs& inputs, Plan::Range range) {
  Share share;
  if (std::holds_alternative<KlDivergence>(plan.spec.loss) ||
      std::holds_alternative<BinaryCrossEntropy>(plan.spec.loss)) {
    // Losses of entries divide by how many there are, whatever they weigh.
    share.weight_sum = static_cast<double>(range.end - range.begin);
    share.ignored_count = CountIgnoredEntries(inputs.sample_weights, range);
  } else {
    WeighRows(plan, inputs, range, share);
  }
  return share;
}

}  // namespace

absl::StatusOr<Weights> WeighElements(const Plan& plan, const Inputs& inputs, ParallelFor parallel_for) {
  const int64_t count = (plan.num_elements + kWeighedElements - 1) / kWeighedElements;
  absl::InlinedVector<Share, 1> shares(static_cast<size_t>(count));
  parallel_for(count, [&](int64_t i) {
    const int64_t begin = i * kWeighedElements;
    const Plan::Range range = {begin, std::min(begin + kWeighedElements, plan.num_elements)};
    shares[static_cast<size_t>(i)] = WeighShare(plan, inputs, range);  // not among those that others are adding to
  });
  Weights weights;
  for (const Share& share : shares) {
    if (share.bad_target >= 0) return BadTarget(plan, inputs.targets, share.bad_target);
    weights.weight_sum += share.weight_sum;
    weights.ignored_count += share.ignored_count;
  }
  if (plan.spec.reduction == Reduction::kMean) weights.denominator = plan.spec.normalizer.value_or(weights.weight_sum);
  if (plan.spec.reduction == Reduction::kBatchMean) {
    weights.denominator = static_cast<double>(plan.inputs.logits.shape[0]);
  }
  const TensorView& upstream = inputs.upstream_gradient;
  const double scalar = upstream && upstream.type.shape.rank() == 0 ? FloatAt(upstream, 0) : 1;
  weights.gradient_scale = scalar * plan.unit_scale / weights.denominator;
  if (weights.denominator == 0) weights.gradient_scale = std::numeric_limits<double>::quiet_NaN();
  return weights;
}

}  // namespace lossd
