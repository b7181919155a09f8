#include "server/health_call.h"

#include "lossd/v1/loss.grpc.pb.h"
#include "server/wire.h"

namespace lossd {
namespace {

constexpr absl::Duration kLook = absl::Milliseconds(100);  // how late a watcher learns of a drain

}  // namespace

void HealthCall::OnRead(std::optional<grpc::ByteBuffer> message) {
  grpc::health::v1::HealthCheckRequest request;
  if (absl::Status status = ParseSmall(message.value_or(grpc::ByteBuffer()), request); !status.ok()) {
    return rpc_.Finish(status);
  }
  known_ = request.service().empty() || request.service() == v1::LossService::service_full_name();
  const Status::ServingStatus status = Current();
  if (watch_) return Tell(status);
  if (status == Status::SERVICE_UNKNOWN) {
    return rpc_.Finish(absl::NotFoundError("service: not one of \"\" and \"lossd.v1.LossService\""));
  }
  Status answer;
  answer.set_status(status);
  rpc_.WriteAndFinish(SerializeSmall(answer));
}

HealthCall::Status::ServingStatus HealthCall::Current() const {
  if (!known_) return Status::SERVICE_UNKNOWN;
  return context_.admission.draining() ? Status::NOT_SERVING : Status::SERVING;
}

void HealthCall::Tell(Status::ServingStatus status) {
  told_ = status;
  Status answer;
  answer.set_status(status);
  rpc_.Write(SerializeSmall(answer));
}

void HealthCall::OnWrite(bool ok) {
  if (!ok) return rpc_.Finish(absl::CancelledError("the client left"));
  rpc_.WakeIn(kLook);
}

void HealthCall::OnWake() {
  if (absl::Status status = rpc_.CheckAlive(); !status.ok()) return rpc_.Finish(status);
  if (const Status::ServingStatus status = Current(); status != told_) return Tell(status);
  rpc_.WakeIn(kLook);
}

}  // namespace lossd
