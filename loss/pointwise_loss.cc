// Losses without a softmax: one logit of a row (negative log-likelihood), or one entry at a time (KL divergence, binary
// cross-entropy). Chunk by chunk, through buffers on the stack.
#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>

#include "loss/evaluate.h"
#include "loss/pointwise.h"
#include "loss/row.h"

namespace lossd {
namespace {

// ---- losses of entries ----

// Where entry `index` of a tensor of shape `to` finds its value in one of shape `from`, broadcast from the last axis.
int64_t BroadcastIndex(const Shape& from, const Shape& to, int64_t index) {
  int64_t result = 0, stride = 1;
  const int offset = to.rank() - from.rank();
  for (int axis = to.rank() - 1; axis >= offset; --axis) {
    const int64_t extent = from[axis - offset];
    if (extent != 1) result += index % to[axis] * stride;
    stride *= extent;
    index /= to[axis];
  }
  return result;
}

// pos_weight, entry by entry: a tensor broadcast from the last axis.
class BroadcastWeights {
 public:
  BroadcastWeights(const TensorView& weights, const Shape& shape) : weights_(weights), shape_(shape) {
    const Shape& from = weights.type.shape;
    const int offset = shape.rank() - from.rank();
    const auto extent = [&](int axis) { return axis < offset ? 1 : from[axis - offset]; };
    int64_t size = 1;
    bool alike = true;  // all axes so far, from the last one, are the weights' own, or none is
    for (int axis = shape.rank() - 1; axis >= 0; --axis) {
      if (size == 1) step_ = extent(axis) == 1 ? 0 : 1;
      alike = alike && extent(axis) == (step_ == 0 ? 1 : shape[axis]);
      size *= shape[axis];
      if (alike) run_ = size;
      if (extent(axis) != 1) period_ = size;
    }
  }

  // The weights of entries [first, first + n).
  template <typename T>
  void Read(int64_t first, int64_t n, T* values) const {
    int64_t done = std::min(n, period_);
    for (int64_t i = 0; i < done;) {
      const int64_t count = std::min(done - i, run_ - (first + i) % run_);
      const int64_t at = BroadcastIndex(weights_.type.shape, shape_, first + i);
      for (int64_t k = 0; k < count; ++k) values[i + k] = static_cast<T>(FloatAt(weights_, at + k * step_));
      i += count;
    }
    for (int64_t count = 0; done < n; done += count) {
      count = std::min(done, n - done);
      std::copy_n(values, count, values + done);
    }
  }

 private:
  const TensorView& weights_;
  const Shape& shape_;
  int64_t period_ = 1;  // after so many entries the weights begin again
  int64_t run_ = 1;     // of so many entries the weights lie one after the other, or are the same:
  int64_t step_ = 0;    // 1, or 0
};

// Evaluates all entries of a block by `evaluate`, a kernel of pointwise.h, which gets them chunk by chunk: of floats
// where they are enough, and then of doubles for what was left over; or all of them of doubles.
template <class Evaluate>
class Entries {
 public:
  // `floats`: whether they are enough for what the loss is made of.
  Entries(Block& block, const BroadcastWeights* pos_weights, bool floats, const Evaluate& evaluate)
      : block_(block),
        inputs_(block.inputs),
        results_(block.results),
        pos_weights_(pos_weights),
        floats_are_enough_(floats && FloatsAreEnough()),
        evaluate_(evaluate) {}

  void Run() {
    const bool stream = block_.plan.stream_gradient, floats = floats_are_enough_;
    for (int64_t first = block_.begin, n; first < block_.end; first += n) {
      n = std::min(kChunkEntries, block_.end - first);
      if (floats && EvaluateFloats(first, n)) {
        Write(floats_, first, n, stream);
        continue;
      }
      if (!floats) {
        const ChunkSums sums = EvaluateDoubles(first, n);
        block_.summary.loss_sum += sums.loss_sum;
        block_.summary.nonfinite_count += sums.nonfinite_count;
      }
      Write(doubles_, first, n, stream);
    }
    if (stream) FlushStreams();
  }

 private:
  template <class Buffer>
  struct Buffers {
    Buffer logits, targets, pos_weights, sample_weights, upstream, losses, logits_gradient, targets_gradient;
  };

  bool has_upstream() const { return inputs_.upstream_gradient && inputs_.upstream_gradient.type.shape.rank() > 0; }

  // A matter of what is asked for alone, so that a batch may be cut anywhere.
  bool FloatsAreEnough() const {
    if (!HasFloatEntries() || block_.plan.compute_type != DataType::kFloat32) return false;
    if (pos_weights_ != nullptr && results_.targets_gradient) return false;
    for (const TensorView* tensor : {&inputs_.targets, &inputs_.class_weights, &inputs_.sample_weights}) {
      if (*tensor && tensor->type.data_type == DataType::kFloat64) return false;
    }
    return !has_upstream() || inputs_.upstream_gradient.type.data_type != DataType::kFloat64;
  }

  // Returns whether the results are in floats_, or in doubles_.
  bool EvaluateFloats(int64_t first, int64_t n) {
    const auto floats = [&](const TensorView& tensor, FloatBuffer& buffer) -> const float* {
      if (!tensor) return nullptr;
      if (tensor.type.data_type == DataType::kFloat32 && n == kChunkEntries) {
        return static_cast<const float*>(tensor.data) + first;
      }
      Widen(tensor, first, n, buffer);
      return buffer.values;
    };
    const auto wanted = [](bool is, FloatBuffer& buffer) { return is ? buffer.values : nullptr; };
    const double scale = block_.weights.gradient_scale;
    const bool moderate = scale == 0 || (std::fabs(scale) >= kLeastUpstream && std::fabs(scale) <= kMostUpstream);
    if (pos_weights_ != nullptr) pos_weights_->Read(first, n, floats_.pos_weights.values);
    EntryBits extraordinary;
    block_.summary.loss_sum +=
        evaluate_(FloatChunk{.n = n,
                             .logits = floats(inputs_.logits, floats_.logits),
                             .targets = floats(inputs_.targets, floats_.targets),
                             .pos_weights = wanted(pos_weights_ != nullptr, floats_.pos_weights),
                             .sample_weights = floats(inputs_.sample_weights, floats_.sample_weights),
                             .upstream = has_upstream() ? floats(inputs_.upstream_gradient, floats_.upstream) : nullptr,
                             .unit_scale = static_cast<float>(block_.plan.unit_scale),
                             .gradient_scale = moderate ? static_cast<float>(scale) : 1,
                             .losses = floats_.losses.values,
                             .logits_gradient = wanted(bool{results_.logits_gradient}, floats_.logits_gradient),
                             .targets_gradient = wanted(bool{results_.targets_gradient}, floats_.targets_gradient),
                             .extraordinary = &extraordinary});
    const bool rescale = !moderate && !has_upstream() && (results_.logits_gradient || results_.targets_gradient);
    if (!extraordinary.any() && !rescale) return true;
    const bool scalable = !rescale || std::isfinite(scale);  // entries of weight 0 must not see such a scale
    if (extraordinary.any() || !scalable) EvaluateDoubles(first, n);
    // Entries that floats were enough for take the place of what the doubles have.
    const auto take = [&](const FloatBuffer& from, double factor, ChunkBuffer& to) {
      for (int64_t i = 0; i < n; ++i) {
        const double value = factor * static_cast<double>(from.values[i]);
        to.values[i] = extraordinary.Has(i) ? to.values[i] : value;
      }
    };
    take(floats_.losses, 1, doubles_.losses);
    const double factor = rescale ? scale : 1;
    if (results_.logits_gradient && scalable) take(floats_.logits_gradient, factor, doubles_.logits_gradient);
    if (results_.targets_gradient && scalable) take(floats_.targets_gradient, factor, doubles_.targets_gradient);
    for (int64_t i = 0; i < n; ++i) {
      if (!extraordinary.Has(i)) continue;
      const double loss = doubles_.losses.values[i];
      block_.summary.loss_sum += loss;
      block_.summary.nonfinite_count += std::fabs(loss) < block_.FiniteBelow() ? 0 : 1;
    }
    return false;
  }

  ChunkSums EvaluateDoubles(int64_t first, int64_t n) {
    const auto widen = [&](const TensorView& tensor, ChunkBuffer& buffer) -> const ChunkBuffer* {
      if (!tensor) return nullptr;
      Widen(tensor, first, n, buffer);
      return &buffer;
    };
    if (pos_weights_ != nullptr) pos_weights_->Read(first, n, doubles_.pos_weights.values);
    return evaluate_(
        EntryChunk{.n = n,
                   .logits = widen(inputs_.logits, doubles_.logits),
                   .targets = widen(inputs_.targets, doubles_.targets),
                   .pos_weights = pos_weights_ != nullptr ? &doubles_.pos_weights : nullptr,
                   .sample_weights = widen(inputs_.sample_weights, doubles_.sample_weights),
                   .upstream = has_upstream() ? widen(inputs_.upstream_gradient, doubles_.upstream) : nullptr,
                   .unit_scale = block_.plan.unit_scale,
                   .gradient_scale = block_.weights.gradient_scale,
                   .finite_below = block_.FiniteBelow(),
                   .losses = &doubles_.losses,
                   .logits_gradient = results_.logits_gradient ? &doubles_.logits_gradient : nullptr,
                   .targets_gradient = results_.targets_gradient ? &doubles_.targets_gradient : nullptr});
  }

  template <class Buffer>
  void Write(const Buffers<Buffer>& buffers, int64_t first, int64_t n, bool stream) {
    if (results_.element_loss) Narrow(buffers.losses, n, false, results_.element_loss, first);
    if (block_.plan.spec.reduction == Reduction::kNone) Narrow(buffers.losses, n, false, results_.loss, first);
    if (results_.targets_gradient) Narrow(buffers.targets_gradient, n, stream, results_.targets_gradient, first);
    if (results_.logits_gradient) Narrow(buffers.logits_gradient, n, stream, results_.logits_gradient, first);
  }

  Block& block_;
  const Inputs& inputs_;
  const Results& results_;
  const BroadcastWeights* const pos_weights_;
  const bool floats_are_enough_;
  const Evaluate evaluate_;
  Buffers<FloatBuffer> floats_;
  Buffers<ChunkBuffer> doubles_;
};

// ---- negative log-likelihood ----

// A few rows [first, first + count): what there is one of for each.
class LikelihoodRows {
 public:
  static constexpr int64_t kGradientBytes = 1 << 16;  // of rows that are still in the cache when their points are set
  static constexpr int64_t kStreamedRowBytes = 4096;  // of shorter rows the points would bring back most lines

  explicit LikelihoodRows(Block& block) : block_(block), plan_(block.plan), results_(block.results) {
    const MutableTensorView& gradient = results_.logits_gradient;
    gradient_size_ = SizeOf(gradient.type.data_type);
    row_bytes_ = std::max<int64_t>(plan_.num_classes * gradient_size_, 1);
    stream_ = plan_.stream_gradient && row_bytes_ >= kStreamedRowBytes;
    const bool by_rows = gradient && plan_.inner_size == 1;
    step_ = by_rows ? std::clamp<int64_t>(kGradientBytes / row_bytes_, 1, kChunkEntries) : kChunkEntries;
  }

  void Run() {
    for (first_ = block_.begin; first_ < block_.end; first_ += count_) {
      count_ = std::min(step_, block_.end - first_);
      ReadTargets();
      if (results_.predicted_class) WritePredictedClasses();
      Evaluate();
      if (results_.target_log_probability) Narrow(logits_, count_, false, results_.target_log_probability, first_);
      if (results_.element_loss) Narrow(losses_, count_, false, results_.element_loss, first_);
      if (plan_.spec.reduction == Reduction::kNone) Narrow(losses_, count_, false, results_.loss, first_);
      if (results_.logits_gradient) WriteGradient();
    }
    if (stream_) FlushStreams();
  }

 private:
  static constexpr int64_t kLeftOut = -1;

  void ReadTargets() {
    const Inputs& inputs = block_.inputs;
    for (int64_t i = 0; i < count_; ++i) {
      const int64_t target = IntegerAt(inputs.targets, first_ + i);
      targets_[i] = target == plan_.ignore_index ? kLeftOut : target;
    }
    if (!inputs.sample_weights) return;
    Widen(inputs.sample_weights, first_, count_, sample_weights_);
    for (int64_t i = 0; i < count_; ++i) {
      if (sample_weights_.values[i] == 0) targets_[i] = kLeftOut;
    }
  }

  void WritePredictedClasses() {
    for (int64_t i = 0; i < count_;) {  // up to where `inner_size` rows end
      const int64_t inner = plan_.inner_size, element = first_ + i;
      const int64_t count = inner == 1 ? count_ : std::min(count_ - i, inner - element % inner);
      PredictClasses(block_.inputs.logits, plan_.RowStart(element), plan_.num_classes, inner, count, predicted_ + i);
      i += count;
    }
    for (int64_t i = 0; i < count_; ++i) {
      StoreElement(results_.predicted_class.data, first_ + i, predicted_[i]);
      if (targets_[i] != kLeftOut && predicted_[i] == targets_[i]) ++block_.summary.correct_count;
    }
  }

  // Where the element's target is in the logits.
  int64_t PointAt(int64_t i) const { return plan_.RowStart(first_ + i) + targets_[i] * plan_.inner_size; }

  void Evaluate() {
    const Inputs& inputs = block_.inputs;
    const double limit = block_.FiniteBelow();
    for (int64_t i = 0; i < count_; ++i) {
      logits_.values[i] = losses_.values[i] = 0;
      if (targets_[i] == kLeftOut) continue;
      const double x = FloatAt(inputs.logits, PointAt(i)), w = ClassWeight(inputs, targets_[i]);
      const double s = inputs.sample_weights ? sample_weights_.values[i] : 1;
      const double loss = s * plan_.unit_scale * CrossTerm(w, x);
      block_.summary.loss_sum += loss;
      block_.summary.nonfinite_count += std::fabs(loss) < limit ? 0 : 1;
      logits_.values[i] = x;
      losses_.values[i] = loss;
    }
  }

  // It may be the logits themselves, of which those of these rows are not needed any more.
  void WriteGradient() {
    ZeroGradient();
    for (int64_t i = 0; i < count_; ++i) {
      if (targets_[i] == kLeftOut) continue;
      const double slope = -block_.Upstream(first_ + i) * ClassWeight(block_.inputs, targets_[i]);
      StoreFloat(results_.logits_gradient, PointAt(i), slope);
    }
  }

  void ZeroGradient() {
    const int64_t inner = plan_.inner_size, num_classes = plan_.num_classes;
    for (int64_t element = first_; element < first_ + count_;) {
      const int64_t start = plan_.RowStart(element), left = first_ + count_ - element;
      if (element % inner == 0 && left >= inner) {  // all between these rows is theirs
        const int64_t count = left / inner * inner;
        Zero(start, count * num_classes);
        element += count;
        continue;
      }
      const int64_t count = std::min(left, inner - element % inner);
      for (int64_t c = 0; c < num_classes; ++c) Zero(start + c * inner, count);
      element += count;
    }
  }

  void Zero(int64_t start, int64_t count) {
    char* const to = static_cast<char*>(results_.logits_gradient.data) + start * gradient_size_;
    if (stream_) return StreamZeros(to, count * gradient_size_);
    std::memset(to, 0, static_cast<size_t>(count * gradient_size_));
  }

  Block& block_;
  const Plan& plan_;
  const Results& results_;
  int64_t gradient_size_, row_bytes_, step_;
  bool stream_;
  int64_t first_ = 0, count_ = 0;
  int64_t targets_[kChunkEntries];
  int64_t predicted_[kChunkEntries];
  ChunkBuffer sample_weights_, logits_, losses_;  // logits: those of the targets
};

}  // namespace

void EvaluateNegativeLogLikelihood(Block& block) { LikelihoodRows(block).Run(); }

void EvaluateKlDivergence(Block& block) {
  if (std::get<KlDivergence>(block.plan.spec.loss).log_target) {
    Entries(block, nullptr, true, [](const auto& chunk) { return EvaluateKlOfLogTargets(chunk); }).Run();
  } else {
    Entries(block, nullptr, true, [](const auto& chunk) { return EvaluateKl(chunk); }).Run();
  }
}

void EvaluateBinaryCrossEntropy(Block& block) {
  const double smoothing = std::get<BinaryCrossEntropy>(block.plan.spec.loss).label_smoothing;
  const auto evaluate = [&](const auto& chunk) { return EvaluateBinaryCrossEntropy(chunk, smoothing); };
  // What a mass of smoothing / 2 is multiplied by may be as small as what floats have left.
  const bool floats = smoothing == 0 || smoothing >= 0x1p-30;
  if (!block.inputs.class_weights) return Entries(block, nullptr, floats, evaluate).Run();
  const BroadcastWeights weights(block.inputs.class_weights, block.inputs.logits.type.shape);
  Entries(block, &weights, floats, evaluate).Run();
}

}  // namespace lossd
