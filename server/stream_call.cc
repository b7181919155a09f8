#include "server/stream_call.h"

#include <utility>

#include "absl/time/time.h"

namespace lossd {
namespace {

// Batches of one stream that are in the server at once: enough to receive, compute and send at the same time.
constexpr size_t kMaxBatches = 16;
constexpr int64_t kMaxBatchesBytes = 12 << 20;

constexpr absl::Duration kWait = absl::Milliseconds(2);  // until room is looked for again

}  // namespace

void StreamCall::OnStart() {
  std::lock_guard<std::mutex> lock(mutex_);
  Advance();
}

void StreamCall::OnRead(std::optional<grpc::ByteBuffer> message) {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    reading_ = false;
    if (finished_) return;
    if (!message) {
      read_all_ = true;
      return Advance();
    }
    last_bytes_ = static_cast<int64_t>(message->Length());
    context_.metrics.ReceivedBytes(last_bytes_);
    waiting_ = message;
  }
  Begin(*message, BatchEvaluation::Patience::kShort);
}

// The message that is waiting_. Nothing is read meanwhile, so there is only one. While it waits nothing is held for it
// but its bytes, so that streams cannot wait for each other: it is parsed anew each time that there is as much memory
// as was missing.
void StreamCall::Begin(const grpc::ByteBuffer& message, BatchEvaluation::Patience patience) {
  auto batch = std::make_unique<Batch>(Batch{{context_, rpc_}, static_cast<int64_t>(message.Length()), std::nullopt});
  absl::Status status = batch->evaluation.Enter(batch->bytes);
  if (status.ok()) status = batch->evaluation.PrepareStreamed(message, patience);
  if (batch->evaluation.takes_long()) {
    return context_.executor.Submit(
        [this, message, hold = rpc_.Keep()] { Begin(message, BatchEvaluation::Patience::kLong); });
  }
  if (batch->evaluation.refusal() == BatchEvaluation::Refusal::kDraining) return StopReading(status);
  Batch& added = *batch;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (batch->evaluation.fits_later()) {
      missed_bytes_ = batch->evaluation.missed_bytes();
      batch.reset();
      waking_ = true;
      return rpc_.WakeIn(kWait);
    }
    waiting_.reset();
    batches_.push_back(std::move(batch));
    if (status.ok() && !added.evaluation.IsSmall()) {
      context_.executor.Submit([this, &added, hold = rpc_.Keep()] { Compute(added); });
      return Advance();
    }
  }
  if (status.ok()) return Compute(added);
  Answer(added, status);
}

void StreamCall::Compute(Batch& batch) { Answer(batch, batch.evaluation.Evaluate()); }

void StreamCall::Answer(Batch& batch, absl::StatusOr<MessageWriter> answer) {
  context_.metrics.StreamedBatchAnswered(CodeName(answer.status().code()));
  if (!answer.ok()) {
    batch.evaluation.CountRefusal();
    LogRefusal(answer.status(), batch.evaluation.job());
  }
  grpc::ByteBuffer message = EncodeStreamed(batch.evaluation.sequence(), std::move(answer));
  std::lock_guard<std::mutex> lock(mutex_);
  batch.answer = std::move(message);
  Advance();
}

// Answers what has been taken, then ends the stream.
void StreamCall::StopReading(const absl::Status& status) {
  context_.metrics.Rejected("draining");
  std::lock_guard<std::mutex> lock(mutex_);
  waiting_.reset();
  read_all_ = true;
  end_ = status;
  Advance();
}

void StreamCall::OnWrite(bool ok) {
  std::lock_guard<std::mutex> lock(mutex_);
  writing_ = false;
  broken_ = broken_ || !ok;
  batches_.pop_front();
  Advance();
}

void StreamCall::OnWake() {
  std::optional<grpc::ByteBuffer> message;
  {
    std::lock_guard<std::mutex> lock(mutex_);
    waking_ = false;
    if (!waiting_) return Advance();
    const Admission& admission = context_.admission;
    if (!admission.HasRoom(last_bytes_, missed_bytes_) && !admission.draining() && rpc_.CheckAlive().ok()) {
      waking_ = true;
      return rpc_.WakeIn(kWait);
    }
    message = waiting_;
  }
  Begin(*message, BatchEvaluation::Patience::kShort);
}

void StreamCall::OnDrain() {
  std::lock_guard<std::mutex> lock(mutex_);
  EndIfDraining();
}

// A stream that waits for its client's next message would learn of a drain from that, or never.
void StreamCall::EndIfDraining() {
  if (!reading_ || !batches_.empty() || finished_ || !context_.admission.draining()) return;
  finished_ = true;
  rpc_.Finish(Admission::Draining());
}

void StreamCall::Advance() {
  WriteNext();
  ReadNext();
  EndIfDraining();
  if (!read_all_ || reading_ || waiting_ || !batches_.empty() || finished_) return;
  finished_ = true;
  rpc_.Finish(end_);
}

void StreamCall::WriteNext() {
  if (writing_) return;
  while (broken_ && !batches_.empty() && batches_.front()->answer) batches_.pop_front();  // nobody to send it to
  if (batches_.empty() || !batches_.front()->answer) return;
  writing_ = true;
  const grpc::ByteBuffer& answer = *batches_.front()->answer;
  context_.metrics.SentBytes(static_cast<int64_t>(answer.Length()));
  rpc_.Write(answer);
}

void StreamCall::ReadNext() {
  if (reading_ || waiting_ || read_all_ || waking_) return;
  // Whoever drains reads on, and so learns of its client's end or ends by itself.
  if (!HasRoom() && rpc_.CheckAlive().ok() && !(batches_.empty() && context_.admission.draining())) {
    if (!batches_.empty()) return;  // the end of one comes back here
    waking_ = true;
    return rpc_.WakeIn(kWait);
  }
  reading_ = true;
  rpc_.Read();
}

bool StreamCall::HasRoom() const {
  int64_t bytes = last_bytes_;
  for (const auto& batch : batches_) bytes += batch->bytes;
  const bool window = batches_.empty() || (batches_.size() < kMaxBatches && bytes <= kMaxBatchesBytes);
  return window && context_.admission.HasRoom(last_bytes_, last_bytes_);
}

}  // namespace lossd
