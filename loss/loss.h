// The public face of loss/: losses and gradients of a batch that is in memory.
//
//   absl::StatusOr<Plan> plan = MakePlan(spec, TypesOf(inputs));          // rules about options, types and shapes
//   absl::StatusOr<Weights> weights = WeighElements(*plan, inputs);       // rules about values; the denominator
//   for (int64_t b = 0; b < plan->num_blocks; ++b)                        // any order, any number of threads
//     EvaluateBlocks(*plan, inputs, *weights, {b, b + 1}, results, scratch, blocks);
//   Summary summary = Summarize(*plan, *weights, blocks, results);
//
// The result has the same bits for every order and number of threads. Everything here is stateless and thread-safe;
// what follows a successful WeighElements() never fails, and allocates nothing of its own. What each loss is:
// docs/numerics.md.
#ifndef LOSSD_LOSS_LOSS_H_
#define LOSSD_LOSS_LOSS_H_

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <span>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "loss/spec.h"
#include "loss/types.h"

namespace lossd {

// The tensors a batch consists of; absent ones are false. C classes, E the element shape: the logits' shape without the
// class axis, or the logits' shape itself for KL divergence and binary cross-entropy.
template <typename Member>
struct InputSet {
  Member logits{};                // x: float
  Member targets{};               // class indices: integer E; sparse: integer [E, K]; else float, the logits' shape
  Member target_probabilities{};  // sparse: float [E, K]
  Member class_weights{};         // w: float [C]; binary cross-entropy: pos_weight, broadcast against the logits
  Member sample_weights{};        // s: float E
  Member upstream_gradient{};     // float: [] or, with Reduction::kNone, E
};
using InputTypes = InputSet<TensorType>;
using Inputs = InputSet<TensorView>;

// Calls visit("logits", sets.logits...), and so on for every member, named as in the contract.
template <typename Visit, typename... Sets>
void ForEachInput(const Visit& visit, Sets&... sets) {
  visit("logits", sets.logits...);
  visit("targets", sets.targets...);
  visit("target_probabilities", sets.target_probabilities...);
  visit("class_weights", sets.class_weights...);
  visit("sample_weights", sets.sample_weights...);
  visit("upstream_gradient", sets.upstream_gradient...);
}

InputTypes TypesOf(const Inputs& inputs);

// The tensors an evaluation writes, absent where not asked for. Element values are float64 for float64 logits, else
// float32.
template <typename Member>
struct ResultSet {
  Member loss{};  // [] or, with Reduction::kNone, E
  Member element_loss{};
  Member log_sum_exp{};
  Member target_log_probability{};
  Member predicted_class{};  // int64
  Member entropy{};
  Member probabilities{};      // the logits' shape
  Member log_probabilities{};  // the logits' shape
  Member targets_gradient{};   // the targets' shape, Spec::gradient_type
  Member logits_gradient{};    // the logits' shape, Spec::gradient_type
};
using ResultTypes = ResultSet<TensorType>;
// Buffers for them. logits_gradient may be the very memory of the logits when their types are equal. No other overlap.
using Results = ResultSet<MutableTensorView>;

// As ForEachInput(), in the order of the response's fields; of whatever has these members.
template <typename Visit, typename... Sets>
void ForEachResult(const Visit& visit, Sets&... sets) {
  visit("loss", sets.loss...);
  visit("element_loss", sets.element_loss...);
  visit("log_sum_exp", sets.log_sum_exp...);
  visit("target_log_probability", sets.target_log_probability...);
  visit("predicted_class", sets.predicted_class...);
  visit("entropy", sets.entropy...);
  visit("probabilities", sets.probabilities...);
  visit("log_probabilities", sets.log_probabilities...);
  visit("targets_gradient", sets.targets_gradient...);
  visit("logits_gradient", sets.logits_gradient...);
}

// What the targets are.
enum class TargetKind : uint8_t { kClassIndices, kProbabilities, kSparseProbabilities };

// A request that has been found valid, as far as options, types and shapes go. Made by MakePlan() only.
struct Plan {
  Spec spec;
  CrossEntropy cross_entropy;  // the options of a softmax loss; defaults for the others
  InputTypes inputs;
  ResultTypes results;
  TargetKind target_kind = TargetKind::kClassIndices;
  int64_t ignore_index = kDefaultIgnoreIndex;
  DataType compute_type = DataType::kFloat32;  // what rows are computed in: float32 or float64
  double unit_scale = 1;                       // nats to the unit asked

  // The logits seen as [outer_size, num_classes, inner_size]; element outer * inner_size + inner is one row. Where an
  // element is one entry, num_classes and inner_size are 1.
  int64_t outer_size = 0;
  int64_t num_classes = 0;
  int64_t inner_size = 0;
  int64_t num_elements = 0;
  int64_t sparse_size = 0;  // K of sparse targets

  // How the elements are cut up, which depends on the shape and type of a row only, not on how many there are. A
  // segment is a whole number of the outer rows (inner_size elements each): a batch may be cut at its ends and
  // evaluated in pieces, and has the same bits. A block is the unit of parallel work: so many elements of a segment, or
  // what is left of it.
  int64_t segment_elements = 1;
  int64_t block_elements = 1;
  int64_t num_blocks = 0;
  int64_t run_blocks = 1;  // so many neighbouring blocks are best evaluated together, if there are enough for everybody

  bool stream_gradient = false;  // the logits' gradient is larger than the caches: written past them

  // Logits may be given as TensorView::pieces: a row's block is read at a time, or one entry, and some of them again.
  bool reads_pieces = false;

  int64_t result_bytes = 0;   // of all tensors in `results`
  int64_t scratch_bytes = 0;  // what EvaluateBlocks() needs, for each thread that calls it

  struct Range {
    int64_t begin, end;
  };
  int64_t BlocksPerSegment() const { return (segment_elements + block_elements - 1) / block_elements; }
  // The elements of a block. REQUIRES: 0 <= block < num_blocks.
  Range ElementsOf(int64_t block) const {
    const int64_t segment = block / BlocksPerSegment() * segment_elements;
    const int64_t begin = segment + block % BlocksPerSegment() * block_elements;
    return {begin, std::min({begin + block_elements, segment + segment_elements, num_elements})};
  }

  // Where in the logits an element's row begins; its class c is c * inner_size further.
  int64_t RowStart(int64_t element) const {
    return element / inner_size * num_classes * inner_size + element % inner_size;
  }
};

// Checks everything that can be known without looking at a value. Allocates nothing of the batch's size.
// Errors: kInvalidArgument names the field and both numbers; kUnimplemented names what this build lacks.
absl::StatusOr<Plan> MakePlan(const Spec& spec, const InputTypes& inputs);

// What the elements weigh together.
struct Weights {
  double weight_sum = 0;  // the loss's own denominator
  int64_t ignored_count = 0;
  double denominator = 1;  // what the reduced loss is divided by: weight_sum, the normalizer, or 1
  double gradient_scale =
      1;  // upstream_gradient / denominator in the unit asked, where it is the same for all elements
};

// Calls body(i) for each i in [0, count), in any order, on any threads, several at a time, and returns when all calls
// have returned. They see what the caller wrote, and the caller sees what they did. `body` throws nothing.
using ParallelFor = absl::FunctionRef<void(int64_t count, absl::FunctionRef<void(int64_t i)> body)>;
// In order, on this thread.
void SerialFor(int64_t count, absl::FunctionRef<void(int64_t i)> body);

// Elements are weighed in shares of so many, whose sums are added up in order, whoever takes them.
inline constexpr int64_t kWeighedElements = int64_t{1} << 15;

// Checks the values: every class index is in range or ignore_index. Reads targets and weights, no logits.
// REQUIRES: TypesOf(inputs) is what `plan` was made from. Errors: kInvalidArgument, "targets[17] = 50300 is outside
// ...".
absl::StatusOr<Weights> WeighElements(const Plan& plan, const Inputs& inputs, ParallelFor parallel_for = SerialFor);

// What one block adds to the batch.
struct BlockSummary {
  double loss_sum = 0;
  int64_t correct_count = 0;
  int64_t nonfinite_count = 0;
};

// A row of more classes is evaluated in parts of so many, whose sums are folded in their order: by one thread or by
// many, with the same bits.
inline constexpr int64_t kRowPart = int64_t{1} << 18;

// Evaluates the elements of these blocks into `results` (loss only with Reduction::kNone), and summaries[b] for each.
// `parallel_for` may share a row of more than kRowPart classes among threads; the bits are the same. Nothing is thrown
// but what it throws, and then the results mean nothing.
// REQUIRES: `blocks` in [0, plan.num_blocks); scratch has plan.scratch_bytes, aligned to 64, used by no other call;
// summaries [plan.num_blocks].
void EvaluateBlocks(const Plan& plan, const Inputs& inputs, const Weights& weights, Plan::Range blocks,
                    const Results& results, std::byte* scratch, std::span<BlockSummary> summaries,
                    ParallelFor parallel_for = SerialFor);

// What the sum of the element losses is reduced to: NaN where the denominator is 0, and any NaN is the same one.
double ReduceLoss(const Weights& weights, double loss_sum);

// Adds up the blocks of each segment, then the segments, in order, and writes results.loss unless it is
// Reduction::kNone's.
Summary Summarize(const Plan& plan, const Weights& weights, std::span<const BlockSummary> blocks,
                  const Results& results) noexcept;

// The instruction set the kernels run on, in Highway's names: "AVX3", "AVX2", "NEON", ...
const char* SimdTarget();

}  // namespace lossd

#endif  // LOSSD_LOSS_LOSS_H_
