// lossd.v1.LossService: decode, plan, admit, compute, encode.
#ifndef LOSSD_SERVER_SERVICE_H_
#define LOSSD_SERVER_SERVICE_H_

#include <grpcpp/support/server_callback.h>

#include "lossd/v1/loss.grpc.pb.h"
#include "server/admission.h"
#include "server/config.h"
#include "server/executor.h"
#include "server/metrics.h"

namespace lossd {

// What every call works with. The members outlive the service.
struct ServiceContext {
  const Config& config;
  Admission& admission;
  Executor& executor;
  Metrics& metrics;
};

// Evaluate takes raw bytes (what they are is wire.h's business); the other methods are small and typed.
using LossServiceBase =
    v1::LossService::WithRawCallbackMethod_Evaluate<v1::LossService::WithCallbackMethod_EvaluateStream<
        v1::LossService::WithCallbackMethod_GetServerInfo<v1::LossService::Service>>>;

// Thread-safe, as gRPC asks of a service. gRPC's threads only decode; losses are evaluated by the executor's.
class LossService final : public LossServiceBase {
 public:
  explicit LossService(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* Evaluate(grpc::CallbackServerContext* call, const grpc::ByteBuffer* request,
                                     grpc::ByteBuffer* response) override;
  grpc::ServerBidiReactor<v1::EvaluateStreamRequest, v1::EvaluateStreamResponse>* EvaluateStream(
      grpc::CallbackServerContext* call) override;
  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* call, const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;

 private:
  const ServiceContext context_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_SERVICE_H_
