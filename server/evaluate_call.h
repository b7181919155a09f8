// One Evaluate call: the object that owns everything the call needs, and dies with it.
#ifndef LOSSD_SERVER_EVALUATE_CALL_H_
#define LOSSD_SERVER_EVALUATE_CALL_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/server_callback.h>

#include <atomic>

#include "absl/time/time.h"
#include "server/service.h"
#include "server/wire.h"

namespace lossd {

// Made on the heap by LossService::Evaluate(); deletes itself when gRPC is done with it.
class EvaluateCall final : public grpc::ServerUnaryReactor {
 public:
  EvaluateCall(const ServiceContext& context, grpc::CallbackServerContext* call, const grpc::ByteBuffer* request,
               grpc::ByteBuffer* response);

  // On a gRPC thread: up to the handing over to the executor.
  void Start();

 private:
  absl::Status Prepare();  // decode, plan, admit
  absl::Status Reserve(int64_t bytes);
  void Compute();           // on a thread of the executor
  absl::Status Evaluate();  // values, losses, encode
  absl::Status CheckAlive() const;
  void RecordBatch(const Summary& summary, double loss);
  absl::Status Refuse(const char* reason, absl::Status status);
  absl::Status RefuseForNow(absl::Status status);  // memory: a later try may succeed
  void Complete(const absl::Status& status);

  void OnCancel() override { cancelled_.store(true, std::memory_order_relaxed); }
  void OnDone() override;

  const ServiceContext& context_;
  grpc::CallbackServerContext* const call_;
  const grpc::ByteBuffer* const message_;
  grpc::ByteBuffer* const response_;
  const absl::Time started_ = absl::Now();
  absl::Time prepared_;
  std::atomic<bool> cancelled_ = false;
  absl::StatusCode code_ = absl::StatusCode::kOk;

  Admission::Ticket ticket_;
  Request request_;
  Plan plan_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_EVALUATE_CALL_H_
