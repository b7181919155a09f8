// grpc.health.v1.Health, for the server as a whole ("") and lossd.v1.LossService: SERVING until it drains.
//
// gRPC's own health service, like its reflection, brings threads that poll for themselves. Each event of a call may
// then be found by a thread that has to wake another one: measured, a fifth of the latency of a small batch and a
// quarter of its throughput. So both are served here as all else is, by the one queue.
#ifndef LOSSD_SERVER_HEALTH_CALL_H_
#define LOSSD_SERVER_HEALTH_CALL_H_

#include <mutex>
#include <optional>

#include "grpc/health/v1/health.pb.h"
#include "server/call.h"
#include "server/rpc.h"

namespace lossd {

// Check answers once; Watch answers at once and again when the answer changes, until the client leaves.
class HealthCall final : public RpcHandler {
 public:
  HealthCall(const ServiceContext& context, Rpc& rpc, bool watch) : context_(context), rpc_(rpc), watch_(watch) {}

  void OnStart() override { rpc_.Read(); }
  void OnRead(std::optional<grpc::ByteBuffer> message) override;
  void OnWrite(bool ok) override;
  void OnWake() override;
  void OnEnd(absl::StatusCode) override {}

 private:
  using Status = grpc::health::v1::HealthCheckResponse;

  Status::ServingStatus Current() const;
  void Tell(Status::ServingStatus status);

  const ServiceContext& context_;
  Rpc& rpc_;
  const bool watch_;
  bool known_ = false;  // the service that is asked about
  Status::ServingStatus told_ = Status::UNKNOWN;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_HEALTH_CALL_H_
