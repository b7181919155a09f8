#include <grpcpp/completion_queue.h>
#include <grpcpp/generic/async_generic_service.h>

#include <thread>
#include <vector>

#include "bench/peers/echo.h"

namespace lossd::bench {
namespace {

// From its wait for a client to its end. All events of a call come from one queue, so from one thread.
class QueueCall final : public EchoCall {
 public:
  struct Event {
    QueueCall* call;
    void (QueueCall::*handle)(bool ok);
  };

  QueueCall(grpc::AsyncGenericService& service, grpc::ServerCompletionQueue* queue)
      : service_(service), queue_(queue), stream_(&context_) {
    service.RequestCall(&context_, &stream_, queue, queue, &accepted_);
  }

 private:
  void Accepted(bool ok) {
    if (!ok) return Ended(false);  // the server shuts down
    new QueueCall(service_, queue_);
    Begin(context_.method() == kUnaryMethod);
  }
  void HasRead(bool ok) { OnRead(ok); }
  void HasWritten(bool ok) { OnWritten(ok); }
  void Ended(bool) { delete this; }

  void Read(grpc::ByteBuffer* message) override { stream_.Read(message, &has_read_); }
  void Write(grpc::ByteBuffer* message) override { stream_.Write(*message, &has_written_); }
  void WriteAndEnd(grpc::ByteBuffer* message) override {
    stream_.WriteAndFinish(*message, {}, grpc::Status::OK, &ended_);
  }
  void End() override { stream_.Finish(grpc::Status::OK, &ended_); }

  grpc::AsyncGenericService& service_;
  grpc::ServerCompletionQueue* const queue_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_;
  Event accepted_{this, &QueueCall::Accepted};
  Event has_read_{this, &QueueCall::HasRead};
  Event has_written_{this, &QueueCall::HasWritten};
  Event ended_{this, &QueueCall::Ended};
};

class QueueEcho final : public Echo {
 public:
  explicit QueueEcho(int threads) : threads_(static_cast<size_t>(threads)) {}

  void AddTo(grpc::ServerBuilder& builder) override {
    builder.RegisterAsyncGenericService(&service_);
    for (size_t i = 0; i < threads_.size(); ++i) queues_.push_back(builder.AddCompletionQueue());
  }

  void Start() override {
    for (size_t i = 0; i < threads_.size(); ++i) {
      grpc::ServerCompletionQueue* const queue = queues_[i].get();
      new QueueCall(service_, queue);
      threads_[i] = std::thread([queue] {
        void* tag = nullptr;
        bool ok = false;
        while (queue->Next(&tag, &ok)) {
          const auto* const event = static_cast<QueueCall::Event*>(tag);
          (event->call->*event->handle)(ok);
        }
      });
    }
  }

  void Stop() override {
    for (auto& queue : queues_) queue->Shutdown();
    for (std::thread& thread : threads_) thread.join();
  }

 private:
  grpc::AsyncGenericService service_;
  std::vector<std::unique_ptr<grpc::ServerCompletionQueue>> queues_;
  std::vector<std::thread> threads_;
};

}  // namespace

std::unique_ptr<Echo> MakeQueueEcho(int threads) { return std::make_unique<QueueEcho>(threads); }

}  // namespace lossd::bench
