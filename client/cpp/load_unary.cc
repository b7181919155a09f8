#include <grpcpp/alarm.h>
#include <grpcpp/client_context.h>
#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/generic_stub.h>

#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "absl/time/clock.h"
#include "client/cpp/load_lane.h"
#include "client/cpp/unary_call.h"
#include "wire/metadata.h"

namespace lossd {
namespace {

constexpr char kMethod[] = "/lossd.v1.LossService/Evaluate";

// One unary call, and the memory of the next one in its slot.
class UnaryCall {
 public:
  // `tag` comes out of `queue` when the call has ended.
  void Start(grpc::GenericStub& stub, const grpc::ByteBuffer& request, absl::Duration timeout,
             grpc::CompletionQueue* queue, void* tag) {
    context_.emplace();
    context_->set_deadline(absl::ToChronoTime(absl::Now() + timeout));
    context_->AddMetadata(kRequestBytesKey, std::to_string(request.Length()));
    reader_ = stub.PrepareUnaryCall(&*context_, kMethod, request, queue);
    reader_->StartCall();
    reader_->Finish(&response_, &status_, tag);
  }

  CallOutcome Outcome() const {
    CallOutcome outcome;
    outcome.code = static_cast<absl::StatusCode>(status_.error_code());
    if (status_.ok()) {
      outcome.received_bytes = static_cast<int64_t>(response_.Length());
    } else {
      outcome.message = status_.error_message();
      outcome.pushback = PushbackOf(*context_);
    }
    return outcome;
  }

  const grpc::Status& status() const { return status_; }
  grpc::ByteBuffer& response() { return response_; }

 private:
  std::optional<grpc::ClientContext> context_;
  std::unique_ptr<grpc::GenericClientAsyncResponseReader> reader_;
  grpc::ByteBuffer response_;
  grpc::Status status_;
};

class UnaryLane final : public LoadLane {
 public:
  UnaryLane(const LoadRun& run, const std::shared_ptr<grpc::Channel>& channel, int num_slots)
      : LoadLane(run), stub_(channel), slots_(static_cast<size_t>(num_slots)) {
    for (Slot& slot : slots_) free_.push_back(&slot);
    thread_ = std::thread([this] { Reap(); });
  }
  ~UnaryLane() override {
    queue_.Shutdown();
    thread_.join();
  }

  bool Start(const Arrival& arrival) override {
    Slot* slot = nullptr;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      if (free_.empty()) return false;
      slot = free_.back();
      free_.pop_back();
    }
    Take();
    Start(slot, arrival);
    return true;
  }

  void EndOverdue(int64_t) override {}  // every call has its deadline

 private:
  struct Slot {
    UnaryCall call;
    Arrival arrival;
    grpc::Alarm alarm;
    bool is_waiting = false;  // as long as the server has asked for
  };

  void Start(Slot* slot, const Arrival& arrival) {
    slot->arrival = arrival;
    slot->call.Start(stub_, run_.request, run_.timeout, &queue_, slot);
  }

  void Reap() {
    void* tag = nullptr;
    bool ok = false;
    while (queue_.Next(&tag, &ok)) End(static_cast<Slot*>(tag));
  }

  void End(Slot* slot) {
    if (!std::exchange(slot->is_waiting, false)) {
      const CallOutcome outcome = slot->call.Outcome();
      Count(slot->arrival, outcome);
      slot->call.response().Clear();
      if (run_.honor_pushback && outcome.pushback) {
        slot->is_waiting = true;
        return slot->alarm.Set(&queue_, absl::ToChronoTime(absl::Now() + *outcome.pushback), slot);
      }
    }
    if (const std::optional<Arrival> next = Next()) return Start(slot, *next);
    {
      std::lock_guard<std::mutex> lock(mutex_);
      free_.push_back(slot);
    }
    Free();
  }

  grpc::GenericStub stub_;
  grpc::CompletionQueue queue_;
  std::vector<Slot> slots_;
  std::mutex mutex_;
  std::vector<Slot*> free_;
  std::thread thread_;
};

}  // namespace

std::unique_ptr<LoadLane> MakeUnaryLane(const LoadRun& run, const std::shared_ptr<grpc::Channel>& channel,
                                        int num_slots) {
  return std::make_unique<UnaryLane>(run, channel, num_slots);
}

grpc::Status CallOnce(const std::shared_ptr<grpc::Channel>& channel, const grpc::ByteBuffer& request,
                      absl::Duration timeout, grpc::ByteBuffer* response) {
  grpc::GenericStub stub(channel);
  grpc::CompletionQueue queue;
  UnaryCall call;
  call.Start(stub, request, timeout, &queue, &call);
  void* tag = nullptr;
  bool ok = false;
  queue.Next(&tag, &ok);
  response->Swap(&call.response());
  return call.status();
}

}  // namespace lossd
