#include <google/protobuf/io/coded_stream.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/support/proto_buffer_reader.h>

#include <deque>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "client/cpp/load_lane.h"
#include "lossd/v1/loss.pb.h"

namespace lossd {
namespace {

constexpr char kMethod[] = "/lossd.v1.LossService/EvaluateStream";

// Tags of EvaluateStreamRequest and EvaluateStreamResponse: field number and wire type.
constexpr uint8_t kSequenceTag = 1 << 3 | 0;
constexpr uint8_t kRequestTag = 2 << 3 | 2;
constexpr uint32_t kErrorTag = 3 << 3 | 2;

// Makes EvaluateStreamRequests of one EvaluateRequest: a few bytes in front of its slices.
class StreamRequests {
 public:
  explicit StreamRequests(const grpc::ByteBuffer& request) : request_bytes_(request.Length()) {
    std::vector<grpc::Slice> slices;
    request.Dump(&slices);
    slices_.resize(1);
    slices_.insert(slices_.end(), slices.begin(), slices.end());
  }

  grpc::ByteBuffer Make(int64_t sequence) {
    using google::protobuf::io::CodedOutputStream;
    uint8_t head[2 + 2 * 10];
    uint8_t* end = head;
    *end++ = kSequenceTag;
    end = CodedOutputStream::WriteVarint64ToArray(static_cast<uint64_t>(sequence), end);
    *end++ = kRequestTag;
    end = CodedOutputStream::WriteVarint64ToArray(request_bytes_, end);
    slices_[0] = grpc::Slice(head, static_cast<size_t>(end - head));
    return grpc::ByteBuffer(slices_.data(), slices_.size());
  }

 private:
  const uint64_t request_bytes_;
  std::vector<grpc::Slice> slices_;  // the first is the head's
};

CallOutcome Failure(absl::StatusCode code, std::string message) {
  CallOutcome outcome;
  outcome.code = code;
  outcome.message = std::move(message);
  return outcome;
}

// What an EvaluateStreamResponse says. Of an answer only the head is looked at: sequence comes first, as every
// serialiser writes it.
CallOutcome OutcomeOf(int64_t sequence, grpc::ByteBuffer* response) {
  CallOutcome outcome;
  outcome.received_bytes = static_cast<int64_t>(response->Length());
  grpc::ProtoBufferReader reader(response);
  google::protobuf::io::CodedInputStream input(&reader);
  uint64_t answered = 0;
  if (input.ReadTag() != kSequenceTag || !input.ReadVarint64(&answered) ||
      answered != static_cast<uint64_t>(sequence)) {
    return Failure(absl::StatusCode::kInternal, "the answer is not the next one's");
  }
  if (input.ReadTag() != kErrorTag) return outcome;
  grpc::ProtoBufferReader again(response);
  v1::EvaluateStreamResponse message;
  if (!message.ParseFromZeroCopyStream(&again)) {
    return Failure(absl::StatusCode::kInternal, "the answer is not an EvaluateStreamResponse");
  }
  return Failure(static_cast<absl::StatusCode>(message.error().code()), message.error().message());
}

class StreamLane;

// One EvaluateStream: opened when there is a message for it, and again after it broke. Thread-safe: messages come from
// any thread, events from the lane's.
class MessageStream {
 public:
  struct Event {
    MessageStream* stream;
    void (MessageStream::*handle)(bool ok);
  };

  MessageStream(StreamLane& lane, const grpc::ByteBuffer& request, int window)
      : lane_(lane), requests_(request), window_(static_cast<size_t>(window)) {}

  bool Start(const Arrival& arrival);
  void EndOverdue(int64_t now);
  // REQUIRES: no message waits for an answer, and none is started any more.
  void Close();

 private:
  enum class State { kClosed, kOpening, kOpen, kEnding };

  // The events.
  void Opened(bool ok);
  void Read(bool ok);
  void Written(bool ok);
  void Ended(bool ok);

  // Each with mutex_ held.
  void Proceed();
  void Open();
  void End();
  void FailAll();
  void Finish(const Arrival& arrival, const CallOutcome& outcome);

  StreamLane& lane_;
  std::mutex mutex_;
  StreamRequests requests_;
  const size_t window_;
  State state_ = State::kClosed;
  bool writing_ = false;  // or closing for writes
  bool closing_ = false;
  bool half_closed_ = false;
  bool ended_ = false;
  bool overdue_ = false;
  int64_t last_written_ = 0;     // sequence numbers: those of written_ are the last ones
  std::deque<Arrival> waiting_;  // not yet written
  std::deque<Arrival> written_;  // not yet answered
  std::optional<grpc::ClientContext> context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  grpc::ByteBuffer response_;
  grpc::Status status_;
  Event opened_{this, &MessageStream::Opened};
  Event has_read_{this, &MessageStream::Read};
  Event has_written_{this, &MessageStream::Written};
  Event has_ended_{this, &MessageStream::Ended};
};

class StreamLane final : public LoadLane {
 public:
  StreamLane(const LoadRun& run, const std::shared_ptr<grpc::Channel>& channel, int num_streams, int num_slots)
      : LoadLane(run), stub_(channel) {
    for (int i = 0; i < num_streams; ++i) {
      const int window = (num_slots + num_streams - 1 - i) / num_streams;
      streams_.push_back(std::make_unique<MessageStream>(*this, run.request, window));
    }
    thread_ = std::thread([this] { Reap(); });
  }
  ~StreamLane() override {
    for (auto& stream : streams_) stream->Close();
    open_.AwaitNone(absl::InfiniteDuration());
    queue_.Shutdown();
    thread_.join();
  }

  bool Start(const Arrival& arrival) override {
    const size_t first = next_.fetch_add(1, std::memory_order_relaxed);
    for (size_t i = 0; i < streams_.size(); ++i) {
      if (streams_[(first + i) % streams_.size()]->Start(arrival)) return true;
    }
    return false;
  }

  void EndOverdue(int64_t now) override {
    for (auto& stream : streams_) stream->EndOverdue(now);
  }

 private:
  friend class MessageStream;

  void Reap() {
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) {
      const auto* const event = static_cast<MessageStream::Event*>(tag);
      (event->stream->*event->handle)(ok);
    }
  }

  grpc::GenericStub stub_;
  grpc::CompletionQueue queue_;
  InFlight open_;  // streams
  std::atomic<size_t> next_ = 0;
  std::vector<std::unique_ptr<MessageStream>> streams_;
  std::thread thread_;
};

bool MessageStream::Start(const Arrival& arrival) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (waiting_.size() + written_.size() >= window_) return false;
  lane_.Take();
  waiting_.push_back(arrival);
  Proceed();
  return true;
}

void MessageStream::EndOverdue(int64_t now) {
  std::lock_guard<std::mutex> lock(mutex_);
  const std::deque<Arrival>& oldest = written_.empty() ? waiting_ : written_;
  if (state_ == State::kClosed || oldest.empty()) return;
  if (now - oldest.front().nanos <= absl::ToInt64Nanoseconds(lane_.run_.timeout)) return;
  overdue_ = true;
  context_->TryCancel();
}

void MessageStream::Close() {
  std::lock_guard<std::mutex> lock(mutex_);
  closing_ = true;
  Proceed();
}

void MessageStream::Proceed() {
  if (state_ == State::kClosed && !waiting_.empty()) return Open();
  if (state_ != State::kOpen || writing_ || half_closed_) return;
  if (waiting_.empty() && !closing_) return;
  writing_ = true;
  if (waiting_.empty()) {
    half_closed_ = true;
    return call_->WritesDone(&has_written_);
  }
  written_.push_back(waiting_.front());
  waiting_.pop_front();
  call_->Write(requests_.Make(++last_written_), &has_written_);
}

void MessageStream::Open() {
  state_ = State::kOpening;
  lane_.open_.Add();
  context_.emplace();
  call_ = lane_.stub_.PrepareCall(&*context_, kMethod, &lane_.queue_);
  call_->StartCall(&opened_);
}

void MessageStream::Opened(bool ok) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!ok) return End();
  state_ = State::kOpen;
  call_->Read(&response_, &has_read_);
  Proceed();
}

void MessageStream::Read(bool ok) {
  std::lock_guard<std::mutex> lock(mutex_);
  if (!ok) return End();
  if (written_.empty()) {  // an answer to nothing
    context_->TryCancel();
    return End();
  }
  const int64_t sequence = last_written_ - static_cast<int64_t>(written_.size()) + 1;
  const Arrival arrival = written_.front();
  written_.pop_front();
  Finish(arrival, OutcomeOf(sequence, &response_));
  response_.Clear();
  call_->Read(&response_, &has_read_);
  Proceed();
}

void MessageStream::Written(bool ok) {
  std::lock_guard<std::mutex> lock(mutex_);
  writing_ = false;
  if (ended_) return FailAll();
  if (ok) Proceed();
}

void MessageStream::End() {
  state_ = State::kEnding;
  call_->Finish(&status_, &has_ended_);
}

void MessageStream::Ended(bool) {
  std::lock_guard<std::mutex> lock(mutex_);
  ended_ = true;
  if (!writing_) FailAll();
}

// The stream is over: so is every message it carried. What takes over their slots opens it again.
void MessageStream::FailAll() {
  CallOutcome outcome = Failure(static_cast<absl::StatusCode>(status_.error_code()), status_.error_message());
  if (status_.ok()) outcome = Failure(absl::StatusCode::kInternal, "the stream ended before its answers");
  if (overdue_) outcome = Failure(absl::StatusCode::kDeadlineExceeded, "no answer in the stream within --timeout");
  std::deque<Arrival> lost;
  lost.swap(written_);
  lost.insert(lost.end(), waiting_.begin(), waiting_.end());
  waiting_.clear();
  call_.reset();
  context_.reset();
  half_closed_ = ended_ = overdue_ = false;
  state_ = State::kClosed;
  lane_.open_.Done();
  for (const Arrival& arrival : lost) Finish(arrival, outcome);
  Proceed();
}

void MessageStream::Finish(const Arrival& arrival, const CallOutcome& outcome) {
  if (const std::optional<Arrival> next = lane_.Finished(arrival, outcome)) {
    waiting_.push_back(*next);
  } else {
    lane_.Free();
  }
}

// What an operation on `queue` came to.
bool Await(grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  return queue.Next(&tag, &ok) && ok;
}

}  // namespace

std::unique_ptr<LoadLane> MakeStreamLane(const LoadRun& run, const std::shared_ptr<grpc::Channel>& channel,
                                         int num_streams, int num_slots) {
  return std::make_unique<StreamLane>(run, channel, num_streams, num_slots);
}

grpc::Status StreamOnce(const std::shared_ptr<grpc::Channel>& channel, const grpc::ByteBuffer& request,
                        absl::Duration timeout, grpc::ByteBuffer* response) {
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  grpc::ClientContext context;
  context.set_deadline(absl::ToChronoTime(absl::Now() + timeout));
  const auto call = stub.PrepareCall(&context, kMethod, &queue);
  call->StartCall(nullptr);
  if (Await(queue)) {
    call->Write(StreamRequests(request).Make(1), nullptr);
    Await(queue);
    call->Read(response, nullptr);
    Await(queue);
    call->WritesDone(nullptr);
    Await(queue);
  }
  grpc::Status status;
  call->Finish(&status, nullptr);
  Await(queue);
  return status;
}

}  // namespace lossd
