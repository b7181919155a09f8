#include "client/cpp/client.h"

#include <algorithm>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/messages.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "lossd/v1/loss.grpc.pb.h"

namespace lossd {
namespace {

// Evaluate is pure, so a call that no server took may go to the next one.
constexpr char kServiceConfig[] = R"({
  "methodConfig": [{
    "name": [{"service": "lossd.v1.LossService"}],
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.1s",
      "maxBackoff": "2s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
})";

grpc::ChannelArguments ChannelArguments() {
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(kServiceConfig);
  // gRPC gives up retries, without a word, for requests above 256 KiB.
  arguments.SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, std::numeric_limits<int32_t>::max());
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetCompressionAlgorithm(GRPC_COMPRESS_NONE);
  // Only while a call is out. gRPC sends at most two pings without data, which the default server tolerates.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  return arguments;
}

absl::Status ToAbslStatus(const grpc::Status& status) {
  // The codes of both have the same numbers.
  static_assert(static_cast<int>(grpc::StatusCode::UNAUTHENTICATED) ==
                static_cast<int>(absl::StatusCode::kUnauthenticated));
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

void SetTimeout(absl::Duration timeout, grpc::ClientContext* context) {
  // gRPC takes a deadline in the infinite past for one in the infinite future.
  context->set_deadline(absl::ToChronoTime(absl::Now() + std::max(timeout, absl::ZeroDuration())));
}

}  // namespace

double Tensor::scalar() const {
  if (shape().rank() != 0) return std::numeric_limits<double>::quiet_NaN();
  if (data_type() == DataType::kFloat32) return static_cast<double>(As<float>()[0]);
  if (data_type() == DataType::kFloat64) return As<double>()[0];
  return std::numeric_limits<double>::quiet_NaN();
}

struct Client::Stubs {
  explicit Stubs(const std::shared_ptr<grpc::Channel>& channel)
      : loss(v1::LossService::NewStub(channel)), health(grpc::health::v1::Health::NewStub(channel)) {}

  std::unique_ptr<v1::LossService::Stub> loss;
  std::unique_ptr<grpc::health::v1::Health::Stub> health;
};

Client::Client(const std::string& target)
    : stubs_(std::make_unique<Stubs>(
          grpc::CreateCustomChannel(target, grpc::InsecureChannelCredentials(), ChannelArguments()))) {}

Client::~Client() = default;

absl::StatusOr<Evaluation> Client::Evaluate(const Batch& batch, absl::Duration timeout) const {
  grpc::ClientContext context;
  SetTimeout(timeout, &context);
  v1::EvaluateRequest request;
  if (absl::Status status = FillRequest(batch, &request); !status.ok()) return status;
  v1::EvaluateResponse response;
  const grpc::Status status = stubs_->loss->Evaluate(&context, request, &response);
  if (!status.ok()) return ToAbslStatus(status);
  return TakeEvaluation(batch, &response);
}

absl::StatusOr<ServerInfo> Client::GetServerInfo(absl::Duration timeout) const {
  grpc::ClientContext context;
  SetTimeout(timeout, &context);
  v1::GetServerInfoResponse response;
  const grpc::Status status = stubs_->loss->GetServerInfo(&context, v1::GetServerInfoRequest(), &response);
  if (!status.ok()) return ToAbslStatus(status);
  return ToServerInfo(response);
}

absl::Status Client::CheckHealth(const std::string& service, absl::Duration timeout) const {
  using grpc::health::v1::HealthCheckResponse;
  grpc::ClientContext context;
  SetTimeout(timeout, &context);
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  HealthCheckResponse response;
  const grpc::Status status = stubs_->health->Check(&context, request, &response);
  if (!status.ok()) return ToAbslStatus(status);
  if (response.status() == HealthCheckResponse::SERVING) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(service.empty() ? "the server" : service, " is ",
                                             HealthCheckResponse::ServingStatus_Name(response.status())));
}

}  // namespace lossd
