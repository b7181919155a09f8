// One call as gRPC's completion queue sees it, and the queue that serves all of them.
//
// All methods of our service are served generically: headers first, and a message only when it is asked for, as bytes.
// So a call can be refused before its body is read, and unary calls and streams are the same thing. (The callback API
// runs on a pool that sleeps when idle, and hands a unary call over only when all of its body is in memory.)
#ifndef LOSSD_SERVER_RPC_H_
#define LOSSD_SERVER_RPC_H_

#include <grpcpp/alarm.h>
#include <grpcpp/generic/async_generic_service.h>
#include <grpcpp/server_builder.h>
#include <grpcpp/support/byte_buffer.h>

#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"

namespace lossd {

class Rpc;
class RpcQueue;

// What a method does with its call. Events come on any thread of the queue, several at a time; OnStart() comes first.
// Destroyed when no operation is under way and nobody holds an Rpc::Hold.
class RpcHandler {
 public:
  virtual ~RpcHandler() = default;
  // Headers are here, nothing else has been read.
  virtual void OnStart() = 0;
  // The end of Rpc::Read(); without `message` no more will come: the client has sent all, or is gone.
  virtual void OnRead(std::optional<grpc::ByteBuffer> message) = 0;
  // The end of Rpc::Write().
  virtual void OnWrite(bool) {}
  // The end of Rpc::WakeIn().
  virtual void OnWake() {}
  // The call is over; nobody waits for it any more. `code`: how it ended, as far as the server knows.
  virtual void OnEnd(absl::StatusCode code) = 0;
};

// One call. Its operations are asynchronous: one Read, one Write and one WakeIn may be under way at a time, and one of
// the finishing ones ends it, after the last Write.
class Rpc {
 public:
  // Keeps the call and its handler alive while work for it is done elsewhere.
  using Hold = std::shared_ptr<void>;
  Hold Keep();

  void Read();
  void Write(const grpc::ByteBuffer& message);
  void Finish(const absl::Status& status);
  void WriteAndFinish(const grpc::ByteBuffer& message);
  // Calls OnWake() after that time.
  void WakeIn(absl::Duration delay);
  // REQUIRES: before the first Write or Finish.
  void AddTrailingMetadata(const std::string& key, const std::string& value) {
    context_.AddTrailingMetadata(key, value);
  }

  // The value of a header of the request, empty where there is none.
  std::string Metadata(const std::string& key) const;
  // kCancelled or kDeadlineExceeded when nobody waits for the answer any more. Cheap, on any thread.
  absl::Status CheckAlive() const;
  absl::Time started() const { return started_; }

 private:
  friend class RpcQueue;
  using Event = void (Rpc::*)(bool ok);
  // What the queue is given for an operation, and gives back at its end.
  struct Tag {
    Rpc* rpc;
    Event event;
  };

  explicit Rpc(RpcQueue& queue);
  void Accept();
  void Ref() { references_.fetch_add(1, std::memory_order_relaxed); }
  void Unref();
  void Order() { std::lock_guard<std::mutex> lock(mutex_); }
  absl::StatusCode FinalCode() const;
  static void Run(void* tag, bool ok);

  void Accepted(bool ok);
  void Done(bool ok);
  void ReadDone(bool ok);
  void WriteDone(bool ok);
  void Finished(bool ok);
  void Woken(bool ok);

  RpcQueue& queue_;
  grpc::GenericServerContext context_;
  grpc::GenericServerAsyncReaderWriter stream_{&context_};
  grpc::ByteBuffer message_;
  grpc::Alarm alarm_;
  absl::Time started_ = absl::InfiniteFuture();
  absl::Time deadline_ = absl::InfiniteFuture();
  std::atomic<bool> cancelled_ = false;
  absl::StatusCode code_ = absl::StatusCode::kUnknown;  // what we said
  std::atomic<int> references_ = 0;
  // What is written before an operation is seen after it; here, for tools that cannot see into gRPC.
  std::mutex mutex_;
  std::unique_ptr<RpcHandler> handler_;
  Tag accepted_{this, &Rpc::Accepted}, done_{this, &Rpc::Done}, read_{this, &Rpc::ReadDone},
      written_{this, &Rpc::WriteDone}, finished_{this, &Rpc::Finished}, woken_{this, &Rpc::Woken};
};

// The completion queue and its threads. One always waits for events; every further one helps while there are many
// calls: with few, a second thread that waits costs each event a wake-up (1.2 of the latency of a small batch,
// measured), and with many, one thread alone may be the limit.
class RpcQueue {
 public:
  // Makes the handler of a call. `method`: "/package.Service/Method", of any service, known or not.
  using Factory = std::function<std::unique_ptr<RpcHandler>(const std::string& method, Rpc& rpc)>;

  explicit RpcQueue(Factory factory) : factory_(std::move(factory)) {}
  // REQUIRES: Stop() has returned, or Serve() was never called.
  ~RpcQueue();

  // Before the server is built.
  void Register(grpc::ServerBuilder& builder);
  // After it was built: serves from now on.
  void Serve(int threads);
  // After the server has been shut down: returns when every call has ended.
  void Stop();

 private:
  friend class Rpc;
  static constexpr int64_t kCallsPerThread = 4;

  void Run(void* tag, bool ok);
  void Poll();
  void Help(int64_t num_calls);  // while there are at least so many
  void CallAdded();
  void CallEnded();

  const Factory factory_;
  grpc::AsyncGenericService service_;
  std::unique_ptr<grpc::ServerCompletionQueue> queue_;
  std::vector<std::thread> threads_;
  // A call is made on one thread and accepted on another: as Rpc::mutex_, which is itself part of what is handed over.
  std::atomic<uint32_t> order_ = 0;
  std::mutex mutex_;
  std::condition_variable changed_;     // there are many calls, or none
  std::atomic<int64_t> num_calls_ = 0;  // and one that waits to be accepted
  bool stopped_ = false;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_RPC_H_
