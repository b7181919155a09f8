#include "server/evaluation.h"

#include <algorithm>
#include <atomic>
#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "wire/metadata.h"

namespace lossd {
namespace {

constexpr int64_t kSmallLogits = 1 << 14;
static_assert(kSmallLogits <= kRowPart && kSmallLogits <= kWeighedElements,
              "a small batch is computed where there is no pool to share it");
constexpr int64_t kWindowBytes = 1 << 19;    // what stays in the L2 cache between the copy and the kernels
constexpr int64_t kMaxBlockBytes = 1 << 20;  // of tensors with larger blocks nothing is gained by copying those alone
// What decoding may ask for before it takes long: 64,000 fields, or a megabyte and what that may grow to. About 1 ms.
constexpr int kMostAsked = 16;
constexpr int64_t kMostAskedBytes = 48 << 20;

double SecondsSince(absl::Time start) { return absl::ToDoubleSeconds(absl::Now() - start); }

int64_t RoundUp(int64_t bytes) {
  constexpr int64_t kAlignment = Buffer::kAlignment;
  return (bytes + kAlignment - 1) / kAlignment * kAlignment;
}

double ScalarOf(const MutableTensorView& tensor) {
  return tensor.type.data_type == DataType::kFloat64 ? *static_cast<const double*>(tensor.data)
                                                     : double{*static_cast<const float*>(tensor.data)};
}

// Of so many blocks' rows of a tensor.
int64_t WindowBytes(const Plan& plan, int64_t num_blocks, const TensorType& type) {
  return num_blocks * plan.block_elements * plan.num_classes * SizeOf(type.data_type);
}

// The tensors that can be read block by block: those with a row for each element, one after the other.
InputSet<bool> RowTensors(const Plan& plan) {
  const auto fits = [&](const TensorType& type) { return WindowBytes(plan, 1, type) <= kMaxBlockBytes; };
  const TensorType &logits = plan.inputs.logits, &targets = plan.inputs.targets;
  InputSet<bool> tensors{};
  if (plan.inner_size != 1) return tensors;
  tensors.logits = fits(logits);
  // Class indices are read before the rows are.
  tensors.targets = IsFloat(targets.data_type) && targets.shape == logits.shape && fits(targets);
  return tensors;
}

// Logits read from the slices of a message.
class Pieces {
 public:
  // `begin`: where the logits begin in the message.
  Pieces(const Slices& message, int64_t begin) : slices_(message), begin_(begin) {}
  Pieces(const Pieces&) = delete;
  const PieceReader* reader() const { return &reader_; }

 private:
  static const void* Read(void* context, int64_t offset, int64_t size, void* room) {
    auto& pieces = *static_cast<Pieces*>(context);
    return pieces.slices_.Read(pieces.begin_ + offset, size, room);
  }

  SliceReader slices_;
  const int64_t begin_;
  const PieceReader reader_{&Read, this};
};

}  // namespace

// Runs a step that may throw what it did not write itself: allocation failures, protobuf. Nothing gets past here.
template <typename Step>
auto BatchEvaluation::Guard(const Step& step) noexcept -> decltype(step()) {
  try {
    return step();
  } catch (const std::bad_alloc&) {
    return Refuse(Refusal::kAllocation, absl::ResourceExhaustedError("no memory for this call; retry later"));
  } catch (...) {
    return absl::InternalError("a bug in lossd, please report it");
  }
}

absl::Status BatchEvaluation::Enter(std::optional<int64_t> declared_bytes) {
  if (absl::Status status = rpc_.CheckAlive(); !status.ok()) return status;
  if (declared_bytes) declared_bytes = std::max<int64_t>(*declared_bytes, 0);
  if (const int64_t limit = context_.config.max_message_bytes; declared_bytes.value_or(0) > limit) {
    return Refuse(Refusal::kTooLarge, absl::ResourceExhaustedError(absl::StrCat(
                                          kRequestBytesKey, ": the request would have ", *declared_bytes,
                                          " bytes and max_message_bytes is ", limit, "; send fewer rows at a time")));
  }
  absl::StatusOr<Admission::Ticket> ticket = context_.admission.Enter(declared_bytes);
  if (!ticket.ok()) {
    return Refuse(absl::IsUnavailable(ticket.status()) ? Refusal::kDraining : Refusal::kQueue, ticket.status());
  }
  ticket_ = *std::move(ticket);
  return Reserve(declared_bytes.value_or(0));
}

absl::Status BatchEvaluation::Prepare(grpc::ByteBuffer message, Patience patience) {
  return PrepareMessage(std::move(message), patience,
                        [](grpc::ByteBuffer bytes, ReserveBytes reserve) { return Decode(std::move(bytes), reserve); });
}

absl::Status BatchEvaluation::PrepareStreamed(grpc::ByteBuffer message, Patience patience) {
  return PrepareMessage(std::move(message), patience, [this](grpc::ByteBuffer bytes, ReserveBytes reserve) {
    return DecodeStreamed(std::move(bytes), reserve, sequence_);
  });
}

template <typename DecodeMessage>
absl::Status BatchEvaluation::PrepareMessage(grpc::ByteBuffer message, Patience patience, const DecodeMessage& decode) {
  return Guard([&]() -> absl::Status {
    takes_long_ = false;
    const absl::Time begin = absl::Now();
    const auto message_bytes = static_cast<int64_t>(message.Length());
    ticket_.Arrived(message_bytes);
    if (absl::Status status = rpc_.CheckAlive(); !status.ok()) return status;
    if (absl::Status status = Reserve(message_bytes - ticket_.bytes()); !status.ok()) return status;
    int num_asked = 0;
    int64_t asked_bytes = 0;
    absl::StatusOr<Request> request = decode(std::move(message), [&](int64_t bytes) -> absl::Status {
      asked_bytes += bytes;
      takes_long_ = patience == Patience::kShort && (++num_asked > kMostAsked || asked_bytes > kMostAskedBytes);
      if (takes_long_) return absl::AbortedError("decoding takes long");
      if (absl::Status status = rpc_.CheckAlive(); !status.ok()) return status;
      return Reserve(bytes);
    });
    if (!request.ok()) return request.status();
    request_ = *std::move(request);
    absl::StatusOr<Plan> plan = MakePlan(request_.spec, TypesOf(request_.inputs));
    if (!plan.ok()) return plan.status();
    plan_ = *std::move(plan);
    if (absl::Status status = CheckContents(request_); !status.ok()) return status;
    if (absl::Status status = Admit(); !status.ok()) return status;
    prepared_ = absl::Now();
    context_.metrics.DecodeSeconds(absl::ToDoubleSeconds(prepared_ - begin));
    return absl::OkStatus();
  });
}

absl::Status BatchEvaluation::Admit() {
  const int64_t limit = context_.config.max_message_bytes;
  if (const int64_t bytes = MaxResponseBytes(plan_); bytes > limit) {
    return Refuse(Refusal::kTooLarge,
                  absl::ResourceExhaustedError(absl::StrCat("outputs: the answer may have up to ", bytes,
                                                            " bytes and max_message_bytes is ", limit,
                                                            "; ask for fewer outputs, or send fewer rows at a time")));
  }
  const InputSet<bool> by_rows = RowTensors(plan_);
  window_ = {};
  window_.logits = by_rows.logits && request_.contents.logits.scattered && !ReadsPieces();
  window_.targets = by_rows.targets && request_.contents.targets.scattered;
  // No thread is given more at once, see Executor::ForEach().
  const int64_t longest = plan_.num_blocks / (2 * context_.executor.threads());
  const int64_t logits_bytes = window_.logits ? WindowBytes(plan_, 1, plan_.inputs.logits) : 0,
                targets_bytes = window_.targets ? WindowBytes(plan_, 1, plan_.inputs.targets) : 0;
  const int64_t fitting = kWindowBytes / std::max<int64_t>({logits_bytes, targets_bytes, 1});
  run_blocks_ = std::max<int64_t>(std::min({plan_.run_blocks, longest, fitting}), 1);
  thread_bytes_ =
      RoundUp(plan_.scratch_bytes) + RoundUp(run_blocks_ * logits_bytes) + RoundUp(run_blocks_ * targets_bytes);
  int64_t bytes = plan_.result_bytes + ScatteredBytes(request_, Gathered());
  if (IsInPlace()) bytes -= request_.contents.logits.bytes;
  return Reserve(bytes + thread_bytes_ * NumWorkers());
}

// Of Executor::ForEach() over the blocks.
int64_t BatchEvaluation::NumWorkers() const {
  return std::clamp<int64_t>(plan_.num_blocks, 1, context_.executor.threads());
}

bool BatchEvaluation::ReadsPieces() const { return plan_.reads_pieces && request_.contents.logits.scattered; }

InputSet<bool> BatchEvaluation::Gathered() const {
  InputSet<bool> gathered;
  ForEachInput(
      [](const char*, const Contents& contents, bool copied, bool& rest) { rest = contents.scattered && !copied; },
      request_.contents, window_, gathered);
  if (ReadsPieces()) gathered.logits = false;
  return gathered;
}

bool BatchEvaluation::IsInPlace() const {
  return Gathered().logits && plan_.results.logits_gradient == plan_.inputs.logits;
}

absl::Status BatchEvaluation::Reserve(int64_t bytes) {
  absl::Status status = ticket_.Reserve(bytes);
  if (status.ok()) return status;
  missed_bytes_ = ticket_.bytes() + bytes;
  return Refuse(ticket_.CouldEverReserve(bytes) ? Refusal::kMemory : Refusal::kTooLarge, std::move(status));
}

absl::Status BatchEvaluation::Refuse(Refusal refusal, absl::Status status) {
  refusal_ = refusal;
  return status;
}

void BatchEvaluation::CountRefusal() const {
  static constexpr const char* kReasons[] = {nullptr, "draining", "queue", "memory", "memory", "too_large"};
  if (const char* reason = kReasons[static_cast<size_t>(refusal_)]) context_.metrics.Rejected(reason);
}

bool BatchEvaluation::IsSmall() const {
  return plan_.num_blocks <= 1 && plan_.num_elements * plan_.num_classes <= kSmallLogits;
}

absl::StatusOr<MessageWriter> BatchEvaluation::Evaluate() {
  return Guard([this] { return EvaluateOrThrow(); });
}

absl::StatusOr<MessageWriter> BatchEvaluation::EvaluateOrThrow() {
  const absl::Time begin = absl::Now();
  ticket_.LeaveBacklog();
  if (absl::Status status = rpc_.CheckAlive(); !status.ok()) return status;
  if (absl::Status status = Gather(Gathered(), request_); !status.ok())
    return Refuse(Refusal::kMemory, std::move(status));
  absl::StatusOr<Weights> weights = WeighElements(plan_, request_.inputs, ParallelForOn(context_.executor));
  if (!weights.ok()) return weights.status();

  Answer answer;
  answer.types = plan_.results;
  Results results;
  if (absl::Status status = AllocateResults(answer, results); !status.ok())
    return Refuse(Refusal::kMemory, std::move(status));
  absl::StatusOr<std::vector<BlockSummary>> blocks = Compute(*weights, results);
  if (!blocks.ok()) return blocks.status();

  answer.summary = Summarize(plan_, *weights, *blocks, results);
  answer.queue_seconds = absl::ToDoubleSeconds(begin - prepared_);
  answer.compute_seconds = SecondsSince(begin);
  context_.metrics.QueueSeconds(answer.queue_seconds);
  context_.metrics.ComputeSeconds(answer.compute_seconds);
  RecordBatch(answer.summary, plan_.spec.reduction == Reduction::kNone ? 0 : ScalarOf(results.loss));
  request_ = {};  // its slices may go while the answer is sent
  return Encode(std::move(answer));
}

// Allocates the tensors of the answer, and lets `results` see them.
absl::Status BatchEvaluation::AllocateResults(Answer& answer, Results& results) {
  if (IsInPlace()) answer.buffers.logits_gradient = std::move(request_.gathered.logits);
  absl::Status status;
  ForEachResult(
      [&status](const char*, const TensorType& type, Buffer& buffer, MutableTensorView& view) {
        if (!type || !status.ok()) return;
        if (!buffer) {
          absl::StatusOr<Buffer> memory = Buffer::Allocate(NumElements(type.shape) * SizeOf(type.data_type));
          status = memory.status();
          if (!status.ok()) return;
          buffer = *std::move(memory);
        }
        view = {buffer.data(), type};
      },
      plan_.results, answer.buffers, results);
  return status;
}

absl::StatusOr<std::vector<BlockSummary>> BatchEvaluation::Compute(const Weights& weights, const Results& results) {
  absl::StatusOr<Buffer> scratch = Buffer::Allocate(thread_bytes_ * NumWorkers());
  if (!scratch.ok()) return Refuse(Refusal::kMemory, scratch.status());
  std::vector<BlockSummary> blocks(static_cast<size_t>(plan_.num_blocks));
  std::atomic<bool> skipped = false;
  const auto parallel_for = ParallelForOn(context_.executor);
  context_.executor.ForEach(plan_.num_blocks, run_blocks_, [&](int64_t begin, int64_t end, int worker) {
    if (!rpc_.CheckAlive().ok()) skipped.store(true, std::memory_order_relaxed);
    if (skipped.load(std::memory_order_relaxed)) return;
    std::byte* const mine = scratch->data() + worker * thread_bytes_;
    const Plan::Range run = {begin, end};
    Inputs inputs = ReadWindow(run, mine + RoundUp(plan_.scratch_bytes));
    Pieces pieces(request_.message, request_.contents.logits.scattered.value_or(0));
    if (ReadsPieces()) inputs.logits.pieces = pieces.reader();
    EvaluateBlocks(plan_, inputs, weights, run, results, mine, blocks, parallel_for);
  });
  // What was skipped stays skipped, even if the clock has been set back since.
  if (skipped.load(std::memory_order_relaxed)) {
    const absl::Status status = rpc_.CheckAlive();
    return status.ok() ? absl::DeadlineExceededError("the deadline passed before the answer was ready") : status;
  }
  return blocks;
}

// The inputs as a run of blocks sees them: of the tensors that are read by rows, its rows only, copied to `memory`.
Inputs BatchEvaluation::ReadWindow(Plan::Range blocks, std::byte* memory) const {
  Inputs inputs = request_.inputs;
  const int64_t begin = plan_.ElementsOf(blocks.begin).begin, end = plan_.ElementsOf(blocks.end - 1).end;
  const auto read = [&](bool wanted, const Contents& contents, TensorView& view) {
    if (!wanted) return;
    const int64_t row_bytes = plan_.num_classes * SizeOf(view.type.data_type), offset = begin * row_bytes;
    request_.message.CopyTo(*contents.scattered + offset, (end - begin) * row_bytes, memory);
    // Rows are found from where the tensor begins, wherever that would be.
    view.data = reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(memory) - static_cast<uintptr_t>(offset));
    memory += RoundUp(WindowBytes(plan_, run_blocks_, view.type));
  };
  read(window_.logits, request_.contents.logits, inputs.logits);
  read(window_.targets, request_.contents.targets, inputs.targets);
  return inputs;
}

// A job's loss is the mean over its batch, whatever it asked for; where it asked for that mean, the very number it got.
void BatchEvaluation::RecordBatch(const Summary& summary, double loss) {
  const bool own_mean = plan_.spec.reduction == Reduction::kMean && !plan_.spec.normalizer;
  const int64_t live = summary.element_count - summary.ignored_count;
  BatchRecord batch;
  batch.job = request_.job;
  batch.step = request_.step;
  batch.loss_name = Name(plan_.spec.loss);
  if (live > 0) batch.mean_loss = own_mean ? loss : summary.loss_sum / summary.weight_sum;
  batch.rows = summary.element_count;
  if (summary.correct_count && live > 0) {
    batch.accuracy = static_cast<double>(*summary.correct_count) / static_cast<double>(live);
  }
  batch.nonfinite_count = summary.nonfinite_count;
  context_.metrics.Evaluated(batch);
}

}  // namespace lossd
