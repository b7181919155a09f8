#include "client/cpp/chunk_stream.h"

#include <optional>
#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/messages.h"
#include "lossd/v1/loss.pb.h"
#include "wire/parse.h"
#include "wire/write.h"

namespace lossd {
namespace {

constexpr char kMethod[] = "/lossd.v1.LossService/EvaluateStream";
constexpr size_t kLeastInFlight = 2;  // less would not overlap anything

// Worth another try: a server that drains, or that is full for the moment.
bool IsPassing(const absl::Status& status) { return absl::IsUnavailable(status) || absl::IsResourceExhausted(status); }
// The same of a stream that we have not cancelled: then the server has, as it ends.
bool IsPassingEnd(const absl::Status& status) { return IsPassing(status) || absl::IsCancelled(status); }

}  // namespace

ChunkStream::ChunkStream(ChunkWork& work, const Channels& channels, int index)
    : work_(work), channels_(channels), index_(index) {
  for (size_t i = 0; i < tags_.size(); ++i) tags_[i] = {this, static_cast<Step>(i)};
  ++work_.num_trying;
}

void* ChunkStream::Expect(Step step) {
  ++operations_;
  return &tags_[static_cast<size_t>(step)];
}

void ChunkStream::Begin() {
  open_ = true;
  started_ = writing_ = half_closed_ = read_all_ = finishing_ = false;
  context_ = std::make_unique<grpc::ClientContext>();
  context_->set_deadline(absl::ToChronoTime(work_.deadline));
  const auto channel = has_broken_ ? channels_.Renew(index_) : channels_.Get(index_);
  call_ = grpc::GenericStub(channel).PrepareCall(context_.get(), kMethod, &work_.queue);
  call_->StartCall(Expect(Step::kStarted));
}

void ChunkStream::Advance() {
  if (!open_) {
    if (!pausing_ && !given_up_ && !work_.ended() && !work_.waiting.empty()) Begin();
    return;
  }
  if (read_all_ && !writing_ && !finishing_) {
    finishing_ = true;
    call_->Finish(&status_, Expect(Step::kFinished));
  }
  if (!started_ || read_all_ || writing_ || half_closed_) return;
  if (work_.done()) {
    half_closed_ = writing_ = true;
    call_->WritesDone(Expect(Step::kWritten));
  } else if (work_.failure.ok() && !pausing_ && !given_up_ && !work_.waiting.empty() && HasRoom()) {
    WriteNext();
  }
}

void ChunkStream::On(Step step, bool ok) {
  --operations_;
  switch (step) {
    case Step::kStarted:
      started_ = ok;
      read_all_ = !ok;
      if (ok) Read();
      break;
    case Step::kWritten:  // after a write that failed nothing more can be read
      writing_ = false;
      break;
    case Step::kRead:
      read_all_ = !ok;
      if (!ok) break;
      if (absl::Status status = Take(Slices(std::exchange(received_, {}))); !status.ok()) Fail(status);
      Read();
      break;
    case Step::kFinished:
      Finished();
      break;
    case Step::kAwake:
      pausing_ = false;
      break;
  }
  Advance();
}

void ChunkStream::End() {
  if (pausing_) alarm_.Cancel();
  if (open_ && (!work_.failure.ok() || !started_)) context_->TryCancel();
  Advance();
}

bool ChunkStream::HasRoom() const {
  return sent_.size() < kLeastInFlight ||
         sent_bytes_ + work_.chunks.bytes(*work_.waiting.begin()) <= work_.options.window_bytes;
}

void ChunkStream::WriteNext() {
  const int64_t chunk = work_.waiting.extract(work_.waiting.begin()).value();
  sent_.push_back(chunk);
  sent_bytes_ += work_.chunks.bytes(chunk);
  MessageWriter writer;
  if (absl::Status status = WriteRequest(work_.chunks[chunk], work_.memory, writer); !status.ok()) return Fail(status);
  v1::EvaluateStreamRequest head;
  head.set_sequence(chunk);
  writer.Wrap(head, v1::EvaluateStreamRequest::kRequestFieldNumber);
  writing_ = true;
  call_->Write(writer.Finish(), Expect(Step::kWritten));
}

void ChunkStream::Read() { call_->Read(&received_, Expect(Step::kRead)); }

absl::Status ChunkStream::Take(const Slices& message) {
  v1::EvaluateStreamResponse response;
  const auto reserve = [](int64_t) { return absl::OkStatus(); };
  if (!ParseMessage(message, reserve, response).ok()) {
    return Malformed("EvaluateStreamResponse", absl::StrCat("of ", message.size(), " bytes cannot be parsed"));
  }
  if (sent_.empty() || response.sequence() != sent_.front()) {
    return Malformed("sequence", absl::StrCat("is ", response.sequence(), ", which is not the next"));
  }
  const int64_t chunk = sent_.front();
  sent_.pop_front();
  sent_bytes_ -= work_.chunks.bytes(chunk);
  if (response.has_error()) {
    const auto code = static_cast<absl::StatusCode>(response.error().code());
    return TakeError(chunk, absl::Status(code, response.error().message()));
  }
  const Batch part = work_.chunks[chunk];
  absl::Status status = work_.assembly.Add(chunk, [&](Place place, Evaluation& evaluation) {
    return ReadAnswer(part, response.response(), message, place, evaluation);
  });
  if (!status.ok()) return status;
  backoff_.Reset();
  work_.Report();
  return absl::OkStatus();
}

absl::Status ChunkStream::TakeError(int64_t chunk, const absl::Status& error) {
  if (IsPassing(error)) {
    work_.waiting.insert(chunk);
    Pause(error);
    return absl::OkStatus();
  }
  if (error.ok()) return Malformed("error", "has the code 0");
  const auto [begin, end] = work_.chunks.ElementsOf(chunk);
  return absl::Status(error.code(),
                      absl::StrCat(error.message(), " (in a part of the batch: elements [", begin, ", ", end, "))"));
}

void ChunkStream::Finished() {
  open_ = false;
  call_.reset();
  context_.reset();
  work_.waiting.insert(sent_.begin(), sent_.end());
  sent_.clear();
  sent_bytes_ = 0;
  if (work_.ended()) return;
  absl::Status status = ToAbslStatus(status_);
  if (status.ok()) status = absl::UnavailableError("the server ended a stream before it had answered");
  if (!IsPassingEnd(status)) return Fail(status);
  has_broken_ = true;
  if (!work_.waiting.empty()) Pause(status);
}

void ChunkStream::Pause(const absl::Status& why) {
  if (pausing_ || given_up_) return;
  const std::optional<absl::Duration> pause = backoff_.Next();
  if (!pause || absl::Now() + *pause >= work_.deadline) {
    given_up_ = true;
    if (--work_.num_trying == 0) Fail(why);
    return;
  }
  pausing_ = true;
  alarm_.Set(&work_.queue, absl::ToChronoTime(absl::Now() + *pause), Expect(Step::kAwake));
}

void ChunkStream::Fail(const absl::Status& why) {
  if (work_.failure.ok()) work_.failure = why;
}

}  // namespace lossd
