#include <grpcpp/generic/async_generic_service.h>

#include <mutex>

#include "bench/peers/echo.h"

namespace lossd::bench {
namespace {

// Reads and writes may be answered at the same time.
class CallbackCall final : public EchoCall, public grpc::ServerGenericBidiReactor {
 public:
  explicit CallbackCall(bool unary) { Begin(unary); }

 private:
  void OnReadDone(bool ok) override {
    std::lock_guard<std::mutex> lock(mutex_);
    OnRead(ok);
  }
  void OnWriteDone(bool ok) override {
    std::lock_guard<std::mutex> lock(mutex_);
    OnWritten(ok);
  }
  void OnDone() override { delete this; }

  void Read(grpc::ByteBuffer* message) override { StartRead(message); }
  void Write(grpc::ByteBuffer* message) override { StartWrite(message); }
  void WriteAndEnd(grpc::ByteBuffer* message) override { StartWriteAndFinish(message, {}, grpc::Status::OK); }
  void End() override { Finish(grpc::Status::OK); }

  std::mutex mutex_;
};

class CallbackEcho final : public Echo, private grpc::CallbackGenericService {
 public:
  void AddTo(grpc::ServerBuilder& builder) override { builder.RegisterCallbackGenericService(this); }
  void Start() override {}
  void Stop() override {}

 private:
  grpc::ServerGenericBidiReactor* CreateReactor(grpc::GenericCallbackServerContext* context) override {
    return new CallbackCall(context->method() == kUnaryMethod);
  }
};

}  // namespace

std::unique_ptr<Echo> MakeCallbackEcho() { return std::make_unique<CallbackEcho>(); }

}  // namespace lossd::bench
