#include "client/cpp/chunks.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <string>
#include <utility>
#include <variant>

#include "absl/strings/str_cat.h"
#include "client/cpp/batch_inputs.h"
#include "client/cpp/messages.h"
#include "loss/element.h"

namespace lossd {
namespace {

bool HasEntries(const Spec& spec) {
  return std::holds_alternative<KlDivergence>(spec.loss) || std::holds_alternative<BinaryCrossEntropy>(spec.loss);
}

struct SetClassAxis {
  void operator()(CrossEntropy& loss) const { loss.class_axis = 1; }
  void operator()(NegativeLogLikelihood& loss) const { loss.class_axis = 1; }
  void operator()(KlDivergence&) const {}
  void operator()(BinaryCrossEntropy&) const {}
};

Shape WithOuter(int64_t outer, const Shape& axes) {
  Shape shape{outer};
  for (const int64_t extent : axes.dims()) shape.push_back(extent);
  return shape;
}

}  // namespace

absl::StatusOr<Chunks> Chunks::Cut(const Batch& batch) {
  const Inputs inputs = InputsOf(batch);
  const absl::StatusOr<Plan> plan = MakePlan(batch.spec, TypesOf(inputs));
  if (!plan.ok()) return plan.status();
  const absl::StatusOr<Weights> weights = WeighElements(*plan, inputs);
  if (!weights.ok()) return weights.status();
  Chunks chunks(batch, *plan, *weights);
  chunks.ChooseShapes();
  chunks.ChooseSpec();
  return chunks;
}

// Rows: (outer, C) or (outer, C, inner). Entries: all in one axis, but that those of pos_weight stay as they are.
void Chunks::ChooseShapes() {
  if (!HasEntries(batch_.spec)) {
    inner_axes_.push_back(plan_.num_classes);
    if (plan_.inner_size == 1) return;
    inner_axes_.push_back(plan_.inner_size);
    element_axes_.push_back(plan_.inner_size);
    return;
  }
  const Shape& logits = batch_.logits.type.shape;
  for (int i = logits.rank() - batch_.class_weights.type.shape.rank(); i < logits.rank(); ++i) {
    inner_axes_.push_back(logits[i]);
    element_axes_.push_back(logits[i]);
  }
}

// A mean divides by the denominator of the whole. Where that is no normalizer, the scale of the gradient is brought
// about in another way, with the same bits; the loss is worked out here anyway.
void Chunks::ChooseSpec() {
  spec_ = batch_.spec;
  std::visit(SetClassAxis(), spec_.loss);
  if (spec_.reduction == Reduction::kSum || spec_.reduction == Reduction::kNone) return;
  const double denominator = weights_.denominator;
  spec_.reduction = Reduction::kMean;
  spec_.normalizer = std::fabs(denominator);
  if (std::isfinite(denominator) && denominator > 0) return;
  has_upstream_ = true;
  if (std::isfinite(denominator) && denominator < 0) {
    // -u / |d| is u / d, bit for bit.
    upstream_ = batch_.upstream_gradient ? -FloatAt(batch_.upstream_gradient, 0) : -1;
    return;
  }
  // Zero or NaN, which no unit changes.
  spec_.reduction = Reduction::kSum;
  spec_.normalizer.reset();
  upstream_ = weights_.gradient_scale;
}

Plan::Range Chunks::ElementsOf(int64_t chunk) const {
  const int64_t begin = chunk * plan_.segment_elements;
  return {begin, std::min(begin + plan_.segment_elements, plan_.num_elements)};
}

int64_t Chunks::bytes(int64_t chunk) const {
  const auto [begin, end] = ElementsOf(chunk);
  return (end - begin) * plan_.num_classes * SizeOf(batch_.logits.type.data_type);
}

Batch Chunks::operator[](int64_t chunk) const {
  const auto [begin, end] = ElementsOf(chunk);
  const int64_t outer = (end - begin) / NumElements(element_axes_);
  const Shape elements = WithOuter(outer, element_axes_), logits = WithOuter(outer, inner_axes_);
  const auto cut = [&, first = begin](TensorView& view, const Shape& shape) {
    if (!view) return;
    const int64_t element_bytes = NumElements(view.type.shape) / plan_.num_elements * SizeOf(view.type.data_type);
    view.data = static_cast<const std::byte*>(view.data) + first * element_bytes;
    view.type.shape = shape;
  };
  Batch part = batch_;
  part.spec = spec_;
  Shape targets = plan_.target_kind == TargetKind::kProbabilities ? logits : elements;
  if (plan_.target_kind == TargetKind::kSparseProbabilities) targets.push_back(plan_.sparse_size);
  cut(part.logits, logits);
  cut(part.targets, targets);
  cut(part.target_probabilities, targets);
  cut(part.sample_weights, elements);
  if (part.upstream_gradient.type.shape.rank() > 0) cut(part.upstream_gradient, elements);
  if (has_upstream_) part.upstream_gradient = {&upstream_, {DataType::kFloat64, {}}};
  return part;
}

absl::Status Chunks::CheckFits(int64_t max_message_bytes) const {
  const Batch largest = (*this)[0];
  const absl::StatusOr<int64_t> request = RequestBytes(largest);
  const int64_t elements = ElementsOf(0).end;
  const std::string least = absl::StrCat("logits: the batch cannot be cut into less than ", elements,
                                         elements == 1 ? " element" : " elements");
  if (!request.ok()) {
    return absl::Status(request.status().code(), absl::StrCat(least, ", and ", request.status().message()));
  }
  const absl::StatusOr<Plan> part = MakePlan(largest.spec, TypesOf(InputsOf(largest)));
  if (!part.ok()) return part.status();
  for (const auto& [what, bytes] :
       {std::pair("", *request), {"the answer to ", part->result_bytes + kMaxSmallFieldsBytes}}) {
    if (bytes <= max_message_bytes) continue;
    return absl::ResourceExhaustedError(absl::StrCat(least, ", and ", what, "these may have ", bytes,
                                                     " bytes; the server's max_message_bytes is ", max_message_bytes));
  }
  return absl::OkStatus();
}

}  // namespace lossd
