#include "client/cpp/assembly.h"

#include <cstddef>
#include <utility>

#include "absl/strings/str_cat.h"
#include "loss/element.h"

namespace lossd {

Assembly::Assembly(const Chunks& chunks, const EvaluateOptions& options)
    : chunks_(chunks), loss_sums_(static_cast<size_t>(chunks.count())) {
  ForEachResult(
      [&](const char*, const TensorType& type, Tensor& tensor) {
        if (!type) return;
        const bool given = &tensor == &whole_.logits_gradient && !options.logits_gradient.empty();
        tensor = given ? Tensor(type, options.logits_gradient.data()) : Tensor(type);
      },
      chunks.plan().results, whole_);
}

absl::Status Assembly::Add(int64_t chunk, absl::FunctionRef<absl::Status(Place, Evaluation&)> read) {
  const auto [begin, end] = chunks_.ElementsOf(chunk);
  const int64_t num_elements = end - begin;
  const bool reduced = chunks_.plan().spec.reduction != Reduction::kNone;
  double loss = 0;  // of this chunk alone, which nobody needs
  const auto place = [&, first = begin](Tensor Evaluation::*field, const TensorType& type) -> std::byte* {
    if (reduced && field == &Evaluation::loss) return reinterpret_cast<std::byte*>(&loss);
    Tensor& tensor = whole_.*field;
    const int64_t element_bytes = tensor.size_bytes() / chunks_.plan().num_elements;
    if (NumElements(type.shape) * SizeOf(type.data_type) != num_elements * element_bytes) return nullptr;
    return tensor.data() + first * element_bytes;
  };
  Evaluation part;
  if (absl::Status status = read(place, part); !status.ok()) return status;
  if (part.summary.element_count != num_elements) {
    return Malformed("summary.element_count", absl::StrCat("is ", part.summary.element_count, ", not ", num_elements));
  }
  loss_sums_[static_cast<size_t>(chunk)] = part.summary.loss_sum;
  whole_.summary.nonfinite_count += part.summary.nonfinite_count;
  correct_count_ += part.summary.correct_count.value_or(0);
  whole_.queue_seconds += part.queue_seconds;
  whole_.compute_seconds += part.compute_seconds;
  ++num_added_;
  elements_added_ += num_elements;
  return absl::OkStatus();
}

Evaluation Assembly::Finish() {
  const Plan& plan = chunks_.plan();
  Summary& summary = whole_.summary;
  for (const double loss_sum : loss_sums_) summary.loss_sum += loss_sum;  // in order, as Summarize() adds segments
  summary.weight_sum = chunks_.weights().weight_sum;
  summary.element_count = plan.num_elements;
  summary.ignored_count = chunks_.weights().ignored_count;
  if (plan.results.predicted_class && plan.target_kind == TargetKind::kClassIndices) {
    summary.correct_count = correct_count_;
  }
  if (plan.spec.reduction != Reduction::kNone) {
    StoreFloat({whole_.loss.data(), whole_.loss.type()}, 0, ReduceLoss(chunks_.weights(), summary.loss_sum));
  }
  return std::move(whole_);
}

}  // namespace lossd
