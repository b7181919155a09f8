// grpc.reflection.v1alpha.ServerReflection: what this server serves, for grpcurl and its like. Served as all else is,
// by the one queue; health_call.h says why.
#ifndef LOSSD_SERVER_REFLECTION_CALL_H_
#define LOSSD_SERVER_REFLECTION_CALL_H_

#include <optional>

#include "server/rpc.h"

namespace lossd {

// Requests in, answers out, one after the other.
class ReflectionCall final : public RpcHandler {
 public:
  explicit ReflectionCall(Rpc& rpc) : rpc_(rpc) {}

  void OnStart() override { rpc_.Read(); }
  void OnRead(std::optional<grpc::ByteBuffer> message) override;
  void OnWrite(bool ok) override;
  void OnEnd(absl::StatusCode) override {}

 private:
  Rpc& rpc_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_REFLECTION_CALL_H_
