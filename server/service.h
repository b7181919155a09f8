// Who answers which method: lossd.v1.LossService, and health and reflection beside it.
#ifndef LOSSD_SERVER_SERVICE_H_
#define LOSSD_SERVER_SERVICE_H_

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

// The handler of a call of any method; of one that is not ours, one that says so.
std::unique_ptr<RpcHandler> MakeHandler(const ServiceContext& context, const std::string& method, Rpc& rpc);

// Tells the log of a call or a batch that has no result: an error if it is a bug of ours, else for debugging.
void LogRefusal(const char* method, const absl::Status& status);

}  // namespace lossd

#endif  // LOSSD_SERVER_SERVICE_H_
