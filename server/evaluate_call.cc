#include "server/evaluate_call.h"

#include <new>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/log.h"

namespace lossd {
namespace {

constexpr char kPushback[] = "grpc-retry-pushback-ms";
constexpr char kPushbackMilliseconds[] = "100";

// Runs a step that may throw what it did not write itself: allocation failures, protobuf. Nothing gets past here.
template <typename Step>
absl::Status Guard(const Step& step) noexcept {
  try {
    return step();
  } catch (const std::bad_alloc&) {
    return absl::ResourceExhaustedError("no memory for this call; retry later");
  } catch (...) {
    return absl::InternalError("a bug in lossd, please report it");
  }
}

double SecondsSince(absl::Time start) { return absl::ToDoubleSeconds(absl::Now() - start); }

// Allocates the tensors of `types` and lets `views` see them.
absl::Status AllocateResults(const ResultTypes& types, ResultSet<Buffer>& buffers, Results& views) {
  absl::Status status;
  ForEachResult(
      [&status](const char*, const TensorType& type, Buffer& buffer, MutableTensorView& view) {
        if (!type || !status.ok()) return;
        absl::StatusOr<Buffer> memory = Buffer::Allocate(NumElements(type.shape) * SizeOf(type.data_type));
        if (!memory.ok()) {
          status = memory.status();
          return;
        }
        buffer = *std::move(memory);
        view = {buffer.data(), type};
      },
      types, buffers, views);
  return status;
}

double ScalarOf(const MutableTensorView& tensor) {
  return tensor.type.data_type == DataType::kFloat64 ? *static_cast<const double*>(tensor.data)
                                                     : double{*static_cast<const float*>(tensor.data)};
}

}  // namespace

EvaluateCall::EvaluateCall(const ServiceContext& context, grpc::CallbackServerContext* call,
                           const grpc::ByteBuffer* request, grpc::ByteBuffer* response)
    : context_(context), call_(call), message_(request), response_(response) {}

void EvaluateCall::Start() {
  context_.metrics.CallStarted("Evaluate");
  const absl::Status status = Guard([this] {
    if (absl::Status prepared = Prepare(); !prepared.ok()) return prepared;
    prepared_ = absl::Now();
    context_.metrics.DecodeSeconds(absl::ToDoubleSeconds(prepared_ - started_));
    context_.executor.Submit([this] { Compute(); });
    return absl::OkStatus();
  });
  if (!status.ok()) Complete(status);
}

absl::Status EvaluateCall::Prepare() {
  const auto message_bytes = static_cast<int64_t>(message_->Length());
  const int64_t limit = context_.config.max_message_bytes;
  context_.metrics.ReceivedBytes(message_bytes);

  absl::StatusOr<Admission::Ticket> ticket = context_.admission.Enter();
  if (!ticket.ok()) return Refuse("draining", ticket.status());
  ticket_ = *std::move(ticket);
  if (absl::Status status = CheckAlive(); !status.ok()) return status;
  if (absl::Status status = Reserve(message_bytes); !status.ok()) return status;

  absl::StatusOr<Request> request = Decode(*message_);
  // Everything is in the request now: gRPC need not keep the bytes until the call ends.
  const_cast<grpc::ByteBuffer*>(message_)->Clear();
  if (!request.ok()) return request.status();
  request_ = *std::move(request);
  // Typed contents grow when they are parsed.
  if (const int64_t grown = request_.storage_bytes - message_bytes; grown > 0) {
    if (absl::Status status = Reserve(grown); !status.ok()) return status;
  }
  absl::StatusOr<Plan> plan = MakePlan(request_.spec, TypesOf(request_.inputs));
  if (!plan.ok()) return plan.status();
  plan_ = *std::move(plan);
  if (absl::Status status = CheckContents(request_); !status.ok()) return status;

  if (const int64_t bytes = MaxResponseBytes(plan_); bytes > limit) {
    return Refuse("too_large", absl::ResourceExhaustedError(absl::StrCat(
                                   "outputs: the answer would have ", bytes, " bytes and max_message_bytes is ", limit,
                                   "; ask for fewer outputs, or send fewer rows at a time")));
  }
  return Reserve(plan_.result_bytes + plan_.scratch_bytes * context_.executor.threads());
}

absl::Status EvaluateCall::Reserve(int64_t bytes) {
  absl::Status status = ticket_.Reserve(bytes);
  if (status.ok()) return status;
  return ticket_.CouldEverReserve(bytes) ? RefuseForNow(status) : Refuse("too_large", status);
}

absl::Status EvaluateCall::RefuseForNow(absl::Status status) {
  call_->AddTrailingMetadata(kPushback, kPushbackMilliseconds);
  return Refuse("memory", std::move(status));
}

void EvaluateCall::Compute() {
  Complete(Guard([this] { return Evaluate(); }));
}

absl::Status EvaluateCall::Evaluate() {
  const absl::Time begin = absl::Now();
  if (absl::Status status = CheckAlive(); !status.ok()) return status;
  absl::StatusOr<Weights> weights = WeighElements(plan_, request_.inputs);
  if (!weights.ok()) return weights.status();

  Answer answer;
  answer.types = plan_.results;
  Results results;
  if (absl::Status status = AllocateResults(plan_.results, answer.buffers, results); !status.ok()) {
    return RefuseForNow(status);
  }
  absl::StatusOr<Buffer> scratch = Buffer::Allocate(plan_.scratch_bytes * context_.executor.threads());
  if (!scratch.ok()) return RefuseForNow(scratch.status());

  std::vector<BlockSummary> blocks(static_cast<size_t>(plan_.num_blocks));
  std::atomic<bool> skipped = false;
  context_.executor.ForEach(plan_.num_blocks, [&](int64_t block, int worker) {
    if (!CheckAlive().ok()) skipped.store(true, std::memory_order_relaxed);
    if (skipped.load(std::memory_order_relaxed)) return;
    std::byte* const mine = scratch->data() + worker * plan_.scratch_bytes;
    blocks[static_cast<size_t>(block)] = EvaluateBlock(plan_, request_.inputs, *weights, block, results, mine);
  });
  // What was skipped stays skipped, even if the clock has been set back since.
  if (skipped.load(std::memory_order_relaxed)) {
    const absl::Status status = CheckAlive();
    return status.ok() ? absl::DeadlineExceededError("the deadline passed before the answer was ready") : status;
  }

  answer.summary = Summarize(plan_, *weights, blocks, results);
  answer.queue_seconds = absl::ToDoubleSeconds(begin - prepared_);
  answer.compute_seconds = SecondsSince(begin);
  context_.metrics.QueueSeconds(answer.queue_seconds);
  context_.metrics.ComputeSeconds(answer.compute_seconds);
  RecordBatch(answer.summary, plan_.spec.reduction == Reduction::kNone ? 0 : ScalarOf(results.loss));
  *response_ = Encode(std::move(answer));
  context_.metrics.SentBytes(static_cast<int64_t>(response_->Length()));
  return absl::OkStatus();
}

absl::Status EvaluateCall::CheckAlive() const {
  if (cancelled_.load(std::memory_order_relaxed)) return absl::CancelledError("the client cancelled the call");
  if (absl::FromChrono(call_->deadline()) <= absl::Now()) {
    return absl::DeadlineExceededError("the deadline passed before the answer was ready");
  }
  return absl::OkStatus();
}

// A job's loss is the mean over its batch, whatever it asked for; where it asked for that mean, the very number it got.
void EvaluateCall::RecordBatch(const Summary& summary, double loss) {
  const bool own_mean = plan_.spec.reduction == Reduction::kMean && !plan_.spec.normalizer;
  const int64_t live = summary.element_count - summary.ignored_count;
  BatchRecord batch;
  batch.job = request_.job;
  batch.step = request_.step;
  batch.loss_name = Name(plan_.spec.loss);
  batch.mean_loss = own_mean ? loss : summary.loss_sum / summary.weight_sum;
  batch.rows = summary.element_count;
  if (summary.correct_count && live > 0) {
    batch.accuracy = static_cast<double>(*summary.correct_count) / static_cast<double>(live);
  }
  batch.nonfinite_count = summary.nonfinite_count;
  context_.metrics.Evaluated(batch);
}

absl::Status EvaluateCall::Refuse(const char* reason, absl::Status status) {
  context_.metrics.Rejected(reason);
  return status;
}

void EvaluateCall::Complete(const absl::Status& status) {
  code_ = status.code();
  if (code_ == absl::StatusCode::kInternal) {
    LogError(absl::StrCat("Evaluate failed: ", status.message()));
  } else if (!status.ok()) {
    LogDebug(absl::StrCat("Evaluate refused, ", CodeName(code_), ": ", status.message()));
  }
  Finish(ToGrpcStatus(status));
}

void EvaluateCall::OnDone() {
  // A call that was cancelled was not answered, whatever we had to say: its client left, or never sent all of it.
  if (cancelled_.load(std::memory_order_relaxed) && code_ != absl::StatusCode::kDeadlineExceeded) {
    const bool late = absl::FromChrono(call_->deadline()) <= absl::Now();
    code_ = late ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kCancelled;
  }
  context_.metrics.CallHandled("Evaluate", CodeName(code_), SecondsSince(started_));
  delete this;
}

}  // namespace lossd
