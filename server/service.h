// Who answers which method: lossd.v1.LossService, and health and reflection beside it.
#ifndef LOSSD_SERVER_SERVICE_H_
#define LOSSD_SERVER_SERVICE_H_

#include <memory>
#include <string>

#include "server/call.h"

namespace lossd {

// The handler of a call of any method; of one that is not ours, one that says so.
std::unique_ptr<RpcHandler> MakeHandler(const ServiceContext& context, const std::string& method, Rpc& rpc);

}  // namespace lossd

#endif  // LOSSD_SERVER_SERVICE_H_
