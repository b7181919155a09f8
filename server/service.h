// lossd.v1.LossService: who answers which method.
#ifndef LOSSD_SERVER_SERVICE_H_
#define LOSSD_SERVER_SERVICE_H_

#include <grpcpp/support/server_callback.h>

#include <memory>
#include <string>

#include "lossd/v1/loss.grpc.pb.h"
#include "server/admission.h"
#include "server/config.h"
#include "server/executor.h"
#include "server/metrics.h"
#include "server/rpc.h"

namespace lossd {

// What every call works with. The members outlive the service.
struct ServiceContext {
  const Config& config;
  Admission& admission;
  Executor& executor;
  Metrics& metrics;
};

// Evaluate and EvaluateStream are served generically, by MakeHandler(). GetServerInfo is small, and by being here it
// makes reflection list the service.
class LossService final
    : public v1::LossService::WithGenericMethod_Evaluate<v1::LossService::WithGenericMethod_EvaluateStream<
          v1::LossService::WithCallbackMethod_GetServerInfo<v1::LossService::Service>>> {
 public:
  explicit LossService(const ServiceContext& context) : context_(context) {}

  grpc::ServerUnaryReactor* GetServerInfo(grpc::CallbackServerContext* call, const v1::GetServerInfoRequest* request,
                                          v1::GetServerInfoResponse* response) override;

 private:
  const ServiceContext& context_;
};

// The handler of a call of any method; of one that is not ours, one that says so.
std::unique_ptr<RpcHandler> MakeHandler(const ServiceContext& context, const std::string& method, Rpc& rpc);

// Tells the log of a call or a batch that has no result: an error if it is a bug of ours, else for debugging.
void LogRefusal(const char* method, const absl::Status& status);

}  // namespace lossd

#endif  // LOSSD_SERVER_SERVICE_H_
