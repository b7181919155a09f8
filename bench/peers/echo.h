// Answers every message of every call with its own bytes: what gRPC costs when nothing is done. The slices that came in
// go out again; nothing is parsed or copied.
#ifndef LOSSD_BENCH_PEERS_ECHO_H_
#define LOSSD_BENCH_PEERS_ECHO_H_

#include <grpcpp/server_builder.h>
#include <grpcpp/support/byte_buffer.h>

#include <deque>
#include <memory>

namespace lossd::bench {

// The path that is answered as a unary call; all others are streams, message by message.
inline constexpr char kUnaryMethod[] = "/lossd.v1.LossService/Evaluate";

class Echo {
 public:
  virtual ~Echo() = default;
  // Before builder.BuildAndStart().
  virtual void AddTo(grpc::ServerBuilder& builder) = 0;
  // After it; returns at once.
  virtual void Start() = 0;
  // After server->Shutdown(); returns when everything has ended.
  virtual void Stop() = 0;
};

// On completion queues of its own, each with a thread.
std::unique_ptr<Echo> MakeQueueEcho(int threads);
// On the threads of gRPC's callback API.
std::unique_ptr<Echo> MakeCallbackEcho();

// One call: what is read, written and ended when. A message is read while another one is written. Not thread-safe.
class EchoCall {
 public:
  virtual ~EchoCall() = default;

 protected:
  void Begin(bool unary) {
    unary_ = unary;
    Proceed();
  }
  void OnRead(bool ok);
  void OnWritten(bool ok);

 private:
  // Each answers with OnRead() or OnWritten(); nothing follows the last two.
  virtual void Read(grpc::ByteBuffer* message) = 0;
  virtual void Write(grpc::ByteBuffer* message) = 0;
  virtual void WriteAndEnd(grpc::ByteBuffer* message) = 0;
  virtual void End() = 0;

  void Proceed();

  bool unary_ = false;
  bool reading_ = false;
  bool writing_ = false;
  bool read_all_ = false;
  bool ending_ = false;
  grpc::ByteBuffer message_;              // being read
  std::deque<grpc::ByteBuffer> waiting_;  // the first is being written
};

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_PEERS_ECHO_H_
