#include "bench/peers/libtorch_peer.h"

#include <ATen/ATen.h>
#include <ATen/Parallel.h>
#include <c10/core/CPUAllocator.h>
#include <torch/version.h>

#include <cmath>
#include <map>
#include <memory>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/pool.h"

namespace lossd::bench {
namespace {

constexpr double kLossTolerance = 1e-4;  // relative

at::ScalarType ScalarTypeOf(DataType type) {
  switch (type) {
    case DataType::kFloat64:
      return at::kDouble;
    case DataType::kFloat16:
      return at::kHalf;
    case DataType::kBfloat16:
      return at::kBFloat16;
    case DataType::kInt64:
      return at::kLong;
    default:
      return at::kFloat;
  }
}

// The very memory of a view.
at::Tensor Wrap(const void* data, const TensorType& type) {
  if (!type) return {};
  const std::span<const int64_t> dims = type.shape.dims();
  return at::from_blob(const_cast<void*>(data), at::IntArrayRef(dims.data(), dims.size()),
                       at::TensorOptions().dtype(ScalarTypeOf(type.data_type)));
}
at::Tensor Wrap(const TensorView& view) { return Wrap(view.data, view.type); }

at::Tensor As(const at::Tensor& tensor, at::ScalarType type) {
  return tensor.defined() && tensor.is_floating_point() ? tensor.to(type) : tensor;
}

// The mean loss of x, as a user of PyTorch would write it.
at::Tensor LossOf(const Problem& problem, const at::Tensor& logits) {
  // PyTorch 1.13 has no softmax of float16 on CPUs: its users convert.
  at::Tensor x = logits.scalar_type() == at::kHalf ? logits.to(at::kFloat) : logits;
  const at::Tensor targets = As(Wrap(problem.inputs.targets), x.scalar_type());
  const at::Tensor weights = As(Wrap(problem.inputs.class_weights), x.scalar_type());
  if (std::holds_alternative<KlDivergence>(problem.spec.loss)) return at::kl_div(x, targets);
  if (std::holds_alternative<BinaryCrossEntropy>(problem.spec.loss)) {
    return at::binary_cross_entropy_with_logits(x, targets);
  }
  if (std::holds_alternative<NegativeLogLikelihood>(problem.spec.loss)) return at::nll_loss_nd(x, targets);
  if (problem.inputs.target_probabilities) {  // sparse
    const at::Tensor probabilities = As(Wrap(problem.inputs.target_probabilities), x.scalar_type());
    return -(at::log_softmax(x, 1).gather(1, targets) * probabilities).sum(1).mean();
  }
  const auto& options = std::get<CrossEntropy>(problem.spec.loss);
  if (options.temperature != 1) x = x / options.temperature;
  if (options.softcap != 0) x = options.softcap * at::tanh(x / options.softcap);
  const auto cross_entropy = [&](int64_t reduction) {
    return at::cross_entropy_loss(x, targets, weights, reduction, kDefaultIgnoreIndex, options.label_smoothing);
  };
  const at::Tensor samples = As(Wrap(problem.inputs.sample_weights), x.scalar_type());
  if (!samples.defined() && options.focal_gamma == 0 && options.z_loss == 0) return cross_entropy(at::Reduction::Mean);
  at::Tensor loss = cross_entropy(at::Reduction::None);
  if (options.focal_gamma != 0) loss = at::pow(1 - at::exp(-loss), options.focal_gamma) * loss;
  if (options.z_loss != 0) loss = loss + options.z_loss * at::square(at::logsumexp(x, 1));
  return samples.defined() ? (loss * samples).sum() / samples.sum() : loss.mean();
}

at::Tensor Leaf(const at::Tensor& logits, bool with_gradient) {
  return logits.detach().set_requires_grad(with_gradient);
}

// Computes once. The gradient is left in x.grad().
double Evaluate(const Problem& problem, at::Tensor& x) {
  const c10::AutoGradMode mode(problem.with_gradient());
  const at::Tensor loss = LossOf(problem, x);
  if (problem.with_gradient()) loss.backward();
  return loss.item<double>();
}

// Keeps what is freed for the next tensor of the same size.
class KeepingAllocator : public at::Allocator {
 public:
  at::DataPtr allocate(size_t bytes) const override {
    const std::lock_guard<std::mutex> lock(mutex_);
    std::vector<at::DataPtr>& kept = kept_[bytes];
    if (kept.empty()) kept.push_back(c10::GetDefaultCPUAllocator()->allocate(bytes));
    auto* const block = new Block{this, bytes, std::move(kept.back())};
    kept.pop_back();
    return {block->memory.get(), block, &GiveBack, at::Device(at::kCPU)};
  }

 private:
  struct Block {
    const KeepingAllocator* owner;
    size_t bytes;
    at::DataPtr memory;
  };
  static void GiveBack(void* given) {
    const std::unique_ptr<Block> block(static_cast<Block*>(given));
    const std::lock_guard<std::mutex> lock(block->owner->mutex_);
    block->owner->kept_[block->bytes].push_back(std::move(block->memory));
  }

  mutable std::mutex mutex_;
  mutable std::map<size_t, std::vector<at::DataPtr>> kept_;
};

// Of an entry of the gradient.
struct Tolerance {
  double relative, of_largest, absolute;
};

Tolerance ToleranceOf(DataType gradient_type) {
  switch (gradient_type) {
    case DataType::kBfloat16:
      return {0x1p-8, 1e-7, 0};
    case DataType::kFloat16:
      return {0x1p-10, 1e-7, 0x1p-24};  // one step of subnormal numbers
    default:
      return {kLossTolerance, 1e-7, 0};
  }
}

}  // namespace

void StartLibtorch(int threads) { at::set_num_threads(threads); }

std::string LibtorchVersion() { return "PyTorch " TORCH_VERSION; }

TimedCalls LibtorchCalls(const Problem& problem, bool keep_memory) {
  const auto keeping = keep_memory ? std::make_shared<KeepingAllocator>() : nullptr;
  return [problem, keeping](int calls) {
    if (keeping) c10::SetCPUAllocator(keeping.get());
    at::Tensor x = Leaf(Wrap(problem.inputs.logits), problem.with_gradient());
    double seconds = 0;
    for (int call = 0; call < calls; ++call) {
      const double start = Now();
      Evaluate(problem, x);
      seconds += Now() - start;
      x.mutable_grad().reset();  // not timed
    }
    c10::SetCPUAllocator(c10::GetDefaultCPUAllocator());
    return seconds;
  };
}

struct Truth {
  double loss;
  at::Tensor gradient;  // float32: enough for a tolerance
};

std::shared_ptr<const Truth> TruthByLibtorch(const Problem& problem) {
  at::Tensor x = Leaf(As(Wrap(problem.inputs.logits), at::kDouble), problem.with_gradient());
  const double loss = Evaluate(problem, x);
  return std::make_shared<Truth>(Truth{loss, As(x.grad(), at::kFloat)});
}

std::string CompareWithTruth(const Problem& problem, double loss, const Truth& truth) {
  if (!(std::fabs(loss - truth.loss) <= kLossTolerance * std::fabs(truth.loss))) {
    return absl::StrCat("the loss is ", loss, ", and ", truth.loss, " in PyTorch");
  }
  if (!problem.with_gradient()) return "";
  const Tolerance tolerance = ToleranceOf(problem.gradient.type.data_type);
  const at::Tensor difference =
      (As(Wrap(problem.gradient.data, problem.gradient.type), at::kFloat) - truth.gradient).abs();
  const at::Tensor allowed = truth.gradient.abs() * tolerance.relative +
                             truth.gradient.abs().max() * tolerance.of_largest + tolerance.absolute;
  const at::Tensor wrong = at::logical_not(difference <= allowed);  // NaN too
  if (!wrong.any().item<bool>()) return "";
  return absl::StrCat(wrong.sum().item<int64_t>(), " entries of the gradient differ from PyTorch's, by up to ",
                      difference.max().item<double>());
}

}  // namespace lossd::bench
