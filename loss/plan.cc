#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numbers>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "loss/element.h"
#include "loss/loss.h"
#include "loss/scratch.h"

namespace lossd {
namespace {

constexpr int64_t kRunLogits = 1 << 20;    // in blocks that are evaluated together
constexpr int64_t kBlockLogits = 1 << 16;  // logits in one unit of parallel work: long enough to pay for handing it out
constexpr int64_t kSegmentLogits = 1 << 20;  // logits in a segment, about: enough to pay for a message of its own
constexpr int64_t kStreamedBytes = 1 << 24;  // a result this large would push everything else out of the caches
constexpr int64_t kMaxTensorBytes = int64_t{1}
                                    << 46;   // whatever is made of a tensor's size, for all threads, fits int64
constexpr double kLeastTemperature = 1e-30;  // below, x / t overflows for ordinary x
constexpr double kSmallest = std::numeric_limits<double>::denorm_min();

// A number with as many digits as it takes to tell it from every other.
std::string Exactly(double value) {
  for (const int digits : {6, 15}) {
    std::string text = absl::StrFormat("%.*g", digits, value);
    if (std::strtod(text.c_str(), nullptr) == value || std::isnan(value)) return text;
  }
  return absl::StrFormat("%.17g", value);
}

template <typename Part>
const Part& Exactly(const Part& part) {
  return part;
}

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(Exactly(parts)...));
}

std::string Describe(const TensorType& tensor) {
  return absl::StrCat(Name(tensor.data_type), " of shape ", ToString(tensor.shape));
}

// ---- options ----

absl::Status CheckRange(const char* name, double value, double low, double high, const char* allowed) {
  if (value >= low && value <= high) return absl::OkStatus();  // NaN is not
  return Invalid("loss.", name, " = ", value, " is not allowed; it must be ", allowed);
}

absl::Status FirstError(std::initializer_list<absl::Status> checks) {
  for (const absl::Status& check : checks) {
    if (!check.ok()) return check;
  }
  return absl::OkStatus();
}

absl::Status CheckOptions(const CrossEntropy& loss) {
  constexpr double kMax = std::numeric_limits<double>::max();
  return FirstError({
      CheckRange("cross_entropy.label_smoothing", loss.label_smoothing, 0, 1, "in [0, 1]"),
      CheckRange("cross_entropy.z_loss", loss.z_loss, 0, kMax, "finite and >= 0"),
      CheckRange("cross_entropy.softcap", loss.softcap, 0, kMax, "finite and >= 0 (0 is off)"),
      CheckRange("cross_entropy.temperature", loss.temperature, kLeastTemperature, kMax, "finite and at least 1e-30"),
      CheckRange("cross_entropy.focal_gamma", loss.focal_gamma, 0, kMax, "finite and >= 0"),
      CheckRange("cross_entropy.poly_epsilon", loss.poly_epsilon, -kMax, kMax, "finite"),
  });
}
absl::Status CheckOptions(const NegativeLogLikelihood&) { return absl::OkStatus(); }
absl::Status CheckOptions(const KlDivergence&) { return absl::OkStatus(); }
absl::Status CheckOptions(const BinaryCrossEntropy& loss) {
  return CheckRange("binary_cross_entropy.label_smoothing", loss.label_smoothing, 0, 1, "in [0, 1]");
}

absl::Status CheckReduction(const Spec& spec, const Shape& logits) {
  if (spec.reduction == Reduction::kBatchMean) {
    if (!std::holds_alternative<KlDivergence>(spec.loss)) {
      return Invalid("loss.reduction = REDUCTION_BATCH_MEAN belongs to kl_divergence; ", Name(spec.loss),
                     " takes REDUCTION_MEAN, REDUCTION_SUM or REDUCTION_NONE");
    }
    if (logits.rank() == 0) {
      return Invalid(
          "loss.reduction = REDUCTION_BATCH_MEAN divides by logits.shape[0], and logits.shape is []; use "
          "REDUCTION_MEAN or REDUCTION_SUM");
    }
  }
  if (!spec.normalizer) return absl::OkStatus();
  if (spec.reduction != Reduction::kMean) {
    return Invalid("loss.normalizer = ", *spec.normalizer,
                   " goes with REDUCTION_MEAN only; leave it out, or use REDUCTION_MEAN, which divides by it");
  }
  return CheckRange("normalizer", *spec.normalizer, kSmallest, std::numeric_limits<double>::max(), "finite and > 0");
}

// Focal and poly losses bend the loss of one class; with a distribution over classes there is no such thing.
absl::Status CheckModifiers(const Plan& plan) {
  const CrossEntropy& loss = plan.cross_entropy;
  for (const auto& [name, value] : {std::pair("focal_gamma", loss.focal_gamma), {"poly_epsilon", loss.poly_epsilon}}) {
    if (value == 0) continue;
    if (loss.label_smoothing != 0) {
      return Invalid("loss.cross_entropy.", name, " = ", value,
                     " does not go with label_smoothing = ", loss.label_smoothing, "; set one of them to 0");
    }
    if (plan.target_kind != TargetKind::kClassIndices) {
      return Invalid("loss.cross_entropy.", name, " = ", value,
                     " does not go with probability targets; send class indices, or set it to 0");
    }
  }
  return absl::OkStatus();
}

// Which outputs a loss has; all of them have its gradients and ELEMENT_LOSS.
absl::Status CheckOutputs(const Plan& plan) {
  const OutputSet& outputs = plan.spec.outputs;
  const char* loss = Name(plan.spec.loss);
  const bool indices = plan.target_kind == TargetKind::kClassIndices;
  const bool softmax = std::holds_alternative<CrossEntropy>(plan.spec.loss);
  const bool rows = softmax || std::holds_alternative<NegativeLogLikelihood>(plan.spec.loss);
  if (outputs.Has(Output::kTargetsGradient) && indices) {
    return Invalid("outputs: OUTPUT_TARGETS_GRADIENT needs probability targets; class indices have no gradient");
  }
  if (outputs.Has(Output::kTargetLogProbability) && !indices) {
    return Invalid(
        "outputs: OUTPUT_TARGET_LOG_PROBABILITY needs class indices; for other targets ask for "
        "OUTPUT_LOG_PROBABILITIES");
  }
  if (outputs.Has(Output::kPredictedClass) && !rows) {
    return Invalid("outputs: OUTPUT_PREDICTED_CLASS does not go with ", loss,
                   ", which has no class axis; leave it out");
  }
  for (Output output : {Output::kLogSumExp, Output::kEntropy, Output::kProbabilities, Output::kLogProbabilities}) {
    if (softmax || !outputs.Has(output)) continue;
    return Invalid("outputs: ", Name(output), " does not go with ", loss,
                   ", which takes no softmax; ask for it with cross_entropy");
  }
  return absl::OkStatus();
}

// ---- tensors, each by itself ----

absl::Status CheckTensor(const char* name, const TensorType& tensor) {
  for (int axis = 0; axis < tensor.shape.rank(); ++axis) {
    if (tensor.shape[axis] < 0) {
      return Invalid(name, ".shape[", axis, "] = ", tensor.shape[axis], " is negative; every extent must be >= 0");
    }
  }
  // An empty axis does not excuse the others: strides are made of them.
  int64_t bytes = SizeOf(tensor.data_type);
  for (int64_t extent : tensor.shape.dims()) {
    if (extent > 0 && __builtin_mul_overflow(bytes, extent, &bytes)) {
      return Invalid(name, ".shape = ", ToString(tensor.shape), ": the size in bytes exceeds ",
                     std::numeric_limits<int64_t>::max());
    }
  }
  if (bytes <= kMaxTensorBytes) return absl::OkStatus();
  return Invalid(name, ".shape = ", ToString(tensor.shape), ": ", bytes, " bytes; at most ", kMaxTensorBytes,
                 " are allowed");
}

absl::Status CheckFloat(const char* name, const TensorType& tensor) {
  if (IsFloat(tensor.data_type)) return absl::OkStatus();
  return Invalid(name, ".data_type is ", Name(tensor.data_type),
                 "; it must be a float type (float32, float64, float16 or bfloat16)");
}

// An optional float tensor that must have exactly this shape.
absl::Status CheckShape(const char* name, const TensorType& tensor, const Shape& want, const char* what) {
  if (!tensor) return absl::OkStatus();
  if (absl::Status status = CheckFloat(name, tensor); !status.ok()) return status;
  if (tensor.shape == want) return absl::OkStatus();
  return Invalid(name, ".shape = ", ToString(tensor.shape), " does not fit; it must be ", what, ", ", ToString(want));
}

absl::Status CheckPresent(const InputTypes& inputs) {
  if (!inputs.logits) return Invalid("logits: missing; send a float tensor");
  if (!inputs.targets) return Invalid("targets: missing; send class indices, or class probabilities");
  absl::Status status;
  ForEachInput(
      [&status](const char* name, const TensorType& tensor) {
        if (tensor) status.Update(CheckTensor(name, tensor));
      },
      inputs);
  if (status.ok()) status = CheckFloat("logits", inputs.logits);
  return status;
}

// ---- tensors, against each other ----

// Rows along a class axis.
absl::Status LayOutRows(const std::optional<int32_t>& class_axis, Plan& plan, Shape& element_shape) {
  const Shape& shape = plan.inputs.logits.shape;
  const int rank = shape.rank();
  if (rank == 0) return Invalid("logits.shape = []: a scalar has no class axis; send at least (C)");
  const int64_t wanted = class_axis.value_or(rank == 1 ? 0 : 1);
  const int64_t axis = wanted < 0 ? wanted + rank : wanted;
  if (axis < 0 || axis >= rank) {
    return Invalid("loss.", Name(plan.spec.loss), ".class_axis = ", wanted, " is outside [", -rank, ", ", rank,
                   ") for logits of shape ", ToString(shape));
  }
  plan.num_classes = shape[static_cast<int>(axis)];
  if (plan.num_classes == 0) {
    return Invalid("logits.shape = ", ToString(shape), ": axis ", axis,
                   " is the class axis and has no classes; it must have at least 1");
  }
  plan.outer_size = plan.inner_size = 1;
  for (int i = 0; i < axis; ++i) plan.outer_size *= shape[i];
  for (int i = static_cast<int>(axis) + 1; i < rank; ++i) plan.inner_size *= shape[i];
  plan.num_elements = plan.outer_size * plan.inner_size;
  element_shape = shape.Without(static_cast<int>(axis));
  return absl::OkStatus();
}

// Every entry an element of its own.
absl::Status LayOutEntries(Plan& plan, Shape& element_shape) {
  element_shape = plan.inputs.logits.shape;
  plan.outer_size = plan.num_elements = NumElements(element_shape);
  plan.num_classes = plan.inner_size = 1;
  return absl::OkStatus();
}

// Integer targets with target_probabilities: (element shape..., K).
absl::Status CheckSparseTargets(Plan& plan, const Shape& element_shape) {
  const TensorType& targets = plan.inputs.targets;
  const TensorType& probabilities = plan.inputs.target_probabilities;
  plan.target_kind = TargetKind::kSparseProbabilities;
  if (!IsInteger(targets.data_type)) {
    return Invalid("target_probabilities go with targets of an integer type, and targets is ", Describe(targets),
                   "; send class indices, or leave target_probabilities out");
  }
  const int last = targets.shape.rank() - 1;
  if (last < 0 || targets.shape.Without(last) != element_shape) {
    return Invalid("targets is ", Describe(targets), "; with target_probabilities it must have the element shape ",
                   ToString(element_shape), " and one more axis, K");
  }
  plan.sparse_size = targets.shape[last];
  return CheckShape("target_probabilities", probabilities, targets.shape, "the shape of targets");
}

absl::Status CheckProbabilityTargets(const Plan& plan) {
  const TensorType& targets = plan.inputs.targets;
  if (IsFloat(targets.data_type) && targets.shape == plan.inputs.logits.shape) return absl::OkStatus();
  return Invalid("targets is ", Describe(targets), "; probabilities must have the logits' shape, ",
                 ToString(plan.inputs.logits.shape), ", and a float type; class indices an integer type");
}

absl::Status CheckIndexTargets(const Plan& plan, const Shape& element_shape) {
  const TensorType& targets = plan.inputs.targets;
  if (!IsInteger(targets.data_type)) {
    return Invalid("targets.data_type is ", Name(targets.data_type), "; class indices need an integer type",
                   plan.spec.loss.index() == 0 ? ", probabilities a float type" : "");
  }
  if (targets.shape == element_shape) return absl::OkStatus();
  const bool sparse = targets.shape.rank() == element_shape.rank() + 1;
  const Shape& logits = plan.inputs.logits.shape;
  const bool last = logits.rank() > 2 && targets.shape == logits.Without(logits.rank() - 1);
  return Invalid("targets is ", Describe(targets),
                 "; class indices must have the logits' shape without the class axis, ", ToString(element_shape),
                 sparse ? "; for several classes an element send target_probabilities too" : "",
                 last ? "; where the classes are the last axis set class_axis to -1" : "");
}

absl::Status CheckCrossEntropyTargets(Plan& plan, const Shape& element_shape) {
  const std::optional<int64_t>& ignore_index = plan.cross_entropy.ignore_index;
  plan.ignore_index = ignore_index.value_or(kDefaultIgnoreIndex);
  if (plan.inputs.target_probabilities) return CheckSparseTargets(plan, element_shape);
  if (!IsFloat(plan.inputs.targets.data_type)) return CheckIndexTargets(plan, element_shape);
  plan.target_kind = TargetKind::kProbabilities;
  if (ignore_index) {
    return Invalid("loss.cross_entropy.ignore_index = ", *ignore_index,
                   " does not go with probability targets; to leave an element out, give it sample weight 0");
  }
  return CheckProbabilityTargets(plan);
}

absl::Status CheckNoSparse(const Plan& plan) {
  if (!plan.inputs.target_probabilities) return absl::OkStatus();
  return Invalid("target_probabilities do not go with ", Name(plan.spec.loss),
                 "; use cross_entropy, or leave them out");
}

absl::Status CheckPosWeight(const Plan& plan) {
  const TensorType& weights = plan.inputs.class_weights;
  const Shape& logits = plan.inputs.logits.shape;
  if (!weights) return absl::OkStatus();
  const int offset = logits.rank() - weights.shape.rank();
  bool fits = offset >= 0;
  for (int i = 0; fits && i < weights.shape.rank(); ++i) {
    fits = weights.shape[i] == 1 || weights.shape[i] == logits[offset + i];
  }
  if (!fits) {
    return Invalid("class_weights.shape = ", ToString(weights.shape),
                   " does not fit; pos_weight is broadcast from the last axis against the logits, ", ToString(logits));
  }
  return CheckFloat("class_weights", weights);
}

// Layout, targets and class weights: what differs from loss to loss.
absl::Status CheckLoss(const CrossEntropy& loss, Plan& plan, Shape& element_shape) {
  plan.cross_entropy = loss;
  absl::Status status = LayOutRows(loss.class_axis, plan, element_shape);
  if (status.ok()) status = CheckCrossEntropyTargets(plan, element_shape);
  if (status.ok()) status = CheckModifiers(plan);
  return status;
}

absl::Status CheckLoss(const NegativeLogLikelihood& loss, Plan& plan, Shape& element_shape) {
  plan.ignore_index = loss.ignore_index.value_or(kDefaultIgnoreIndex);
  absl::Status status = LayOutRows(loss.class_axis, plan, element_shape);
  if (status.ok()) status = CheckNoSparse(plan);
  if (status.ok()) status = CheckIndexTargets(plan, element_shape);
  return status;
}

absl::Status CheckLoss(const KlDivergence&, Plan& plan, Shape& element_shape) {
  plan.target_kind = TargetKind::kProbabilities;
  absl::Status status = LayOutEntries(plan, element_shape);
  if (status.ok()) status = CheckNoSparse(plan);
  if (status.ok()) status = CheckProbabilityTargets(plan);
  if (status.ok() && plan.inputs.class_weights) {
    status = Invalid("class_weights do not go with kl_divergence, which has no class axis; use sample_weights");
  }
  return status;
}

absl::Status CheckLoss(const BinaryCrossEntropy&, Plan& plan, Shape& element_shape) {
  plan.target_kind = TargetKind::kProbabilities;
  absl::Status status = LayOutEntries(plan, element_shape);
  if (status.ok()) status = CheckNoSparse(plan);
  if (status.ok()) status = CheckProbabilityTargets(plan);
  if (status.ok()) status = CheckPosWeight(plan);
  return status;
}

absl::Status CheckWeights(const Plan& plan, const Shape& element_shape) {
  const InputTypes& inputs = plan.inputs;
  const bool broadcast = std::holds_alternative<BinaryCrossEntropy>(plan.spec.loss);
  const bool per_element = plan.spec.reduction == Reduction::kNone && inputs.upstream_gradient.shape.rank() > 0;
  return FirstError({
      broadcast
          ? absl::OkStatus()
          : CheckShape("class_weights", inputs.class_weights, Shape{plan.num_classes}, "one weight for each class"),
      CheckShape("sample_weights", inputs.sample_weights, element_shape, "the element shape"),
      // A scalar is welcome with every reduction.
      per_element
          ? CheckShape("upstream_gradient", inputs.upstream_gradient, element_shape, "a scalar, or the element shape")
          : CheckShape("upstream_gradient", inputs.upstream_gradient, Shape{}, "a scalar, as the reduced loss is"),
  });
}

// ---- what comes out ----

absl::Status PlanTypes(Plan& plan) {
  DataType& gradient = plan.spec.gradient_type;
  if (gradient == DataType::kUnspecified) gradient = plan.inputs.logits.data_type;
  if (!IsFloat(gradient)) return Invalid("gradient_type = ", Name(gradient), "; gradients need a float type");
  const OutputSet& outputs = plan.spec.outputs;
  const bool has_gradient = outputs.Has(Output::kLogitsGradient) || outputs.Has(Output::kTargetsGradient);
  // Logits that softcap changed are no float32 values any more: rounding them to some would be an error of its own, far
  // larger than a confident row's loss. So are those over a temperature, unless it stays apart from them.
  const CrossEntropy& loss = plan.cross_entropy;
  const bool apart = CanTemper<float>(loss.temperature) && !ScratchLayout::IsByColumns(plan);
  const bool wide = plan.inputs.logits.data_type == DataType::kFloat64 || (loss.temperature != 1 && !apart) ||
                    loss.softcap != 0 || (has_gradient && gradient == DataType::kFloat64);
  plan.compute_type = wide ? DataType::kFloat64 : DataType::kFloat32;
  plan.unit_scale = plan.spec.unit == InformationUnit::kBits ? std::numbers::log2e : 1;
  return absl::OkStatus();
}

absl::Status PlanResults(Plan& plan, const Shape& element_shape) {
  const DataType gradient = plan.spec.gradient_type;
  const Shape& logits = plan.inputs.logits.shape;
  const DataType value = plan.inputs.logits.data_type == DataType::kFloat64 ? DataType::kFloat64 : DataType::kFloat32;
  const TensorType per_element{value, element_shape};
  const auto if_asked = [&plan](Output output, const TensorType& type) {
    return plan.spec.outputs.Has(output) ? type : TensorType{};
  };
  plan.results.loss = plan.spec.reduction == Reduction::kNone ? per_element : TensorType{value, Shape{}};
  plan.results.element_loss = if_asked(Output::kElementLoss, per_element);
  plan.results.log_sum_exp = if_asked(Output::kLogSumExp, per_element);
  plan.results.target_log_probability = if_asked(Output::kTargetLogProbability, per_element);
  plan.results.predicted_class = if_asked(Output::kPredictedClass, {DataType::kInt64, element_shape});
  plan.results.entropy = if_asked(Output::kEntropy, per_element);
  plan.results.probabilities = if_asked(Output::kProbabilities, {value, logits});
  plan.results.log_probabilities = if_asked(Output::kLogProbabilities, {value, logits});
  plan.results.targets_gradient = if_asked(Output::kTargetsGradient, {gradient, plan.inputs.targets.shape});
  plan.results.logits_gradient = if_asked(Output::kLogitsGradient, {gradient, logits});
  bool fits = true;
  ForEachResult(
      [&](const char*, const TensorType& tensor) {
        int64_t bytes = 0;
        if (!tensor) return;
        fits = fits && !__builtin_mul_overflow(NumElements(tensor.shape), SizeOf(tensor.data_type), &bytes) &&
               !__builtin_add_overflow(plan.result_bytes, bytes, &plan.result_bytes);
      },
      plan.results);
  if (fits) return absl::OkStatus();
  return Invalid("outputs: the answer's size in bytes exceeds ", std::numeric_limits<int64_t>::max());
}

// Whole blocks where rows lie one after the other, else whole outer rows.
int64_t SegmentElements(const Plan& plan) {
  int64_t unit = std::max<int64_t>(plan.inner_size, 1);
  const TensorType& weights = plan.inputs.class_weights;
  if (std::holds_alternative<BinaryCrossEntropy>(plan.spec.loss) && weights) {
    const Shape& logits = plan.inputs.logits.shape;
    for (int i = 1; i <= weights.shape.rank(); ++i) unit *= std::max<int64_t>(logits[logits.rank() - i], 1);
  }
  if (unit == 1) unit = plan.block_elements;
  return unit * std::max<int64_t>(kSegmentLogits / plan.num_classes / unit, 1);
}

void PlanBlocks(Plan& plan) {
  plan.block_elements = std::max<int64_t>(kBlockLogits / plan.num_classes, 1);
  // Of what a cache line brings, all is used; for the longest rows that would be too much memory.
  const int64_t together = std::min<int64_t>(ScratchLayout::kGatheredElements, plan.inner_size);
  if (plan.num_classes <= kBlockLogits) plan.block_elements = std::max(plan.block_elements, together);
  if (plan.inner_size > 1 && plan.num_classes <= ScratchLayout::kMaxShortRow) {  // whole tiles
    const int64_t tile = ScratchLayout::ColumnTile(plan.num_classes * SizeOf(plan.compute_type));
    plan.block_elements -= plan.block_elements % tile;
  }
  const TensorType& gradient = plan.results.logits_gradient;
  plan.stream_gradient = gradient && NumElements(gradient.shape) * SizeOf(gradient.data_type) >= kStreamedBytes;
  plan.segment_elements = SegmentElements(plan);
  const int64_t whole = plan.num_elements / plan.segment_elements, rest = plan.num_elements % plan.segment_elements;
  plan.num_blocks = whole * plan.BlocksPerSegment() + (rest + plan.block_elements - 1) / plan.block_elements;
  if (plan.num_blocks == 0) return;
  const ScratchLayout layout(plan);
  plan.scratch_bytes = layout.total_bytes;
  plan.reads_pieces = layout.reads_pieces && std::holds_alternative<CrossEntropy>(plan.spec.loss);
  // What is pending at the end of a run is written with nothing to read meanwhile; what comes first is not copied
  // ahead.
  if (layout.pending || layout.copied) {
    plan.run_blocks = std::max<int64_t>(kRunLogits / (plan.block_elements * plan.num_classes), 1);
  }
}

}  // namespace

InputTypes TypesOf(const Inputs& inputs) {
  InputTypes types;
  ForEachInput([](const char*, const TensorView& view, TensorType& type) { type = view.type; }, inputs, types);
  return types;
}

absl::StatusOr<Plan> MakePlan(const Spec& spec, const InputTypes& inputs) {
  Plan plan;
  plan.spec = spec;
  plan.inputs = inputs;
  Shape element_shape;
  absl::Status status = std::visit([](const auto& loss) { return CheckOptions(loss); }, spec.loss);
  if (status.ok()) status = CheckPresent(inputs);
  if (status.ok()) status = CheckReduction(spec, inputs.logits.shape);
  if (status.ok()) {
    status = std::visit([&](const auto& loss) { return CheckLoss(loss, plan, element_shape); }, spec.loss);
  }
  if (status.ok()) status = CheckWeights(plan, element_shape);
  if (status.ok()) status = CheckOutputs(plan);
  if (status.ok()) status = PlanTypes(plan);
  if (status.ok()) status = PlanResults(plan, element_shape);
  if (!status.ok()) return status;
  PlanBlocks(plan);
  return plan;
}

}  // namespace lossd
