#include "client/cpp/client.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <limits>
#include <memory>
#include <string>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/channels.h"
#include "client/cpp/chunked_call.h"
#include "client/cpp/chunks.h"
#include "client/cpp/messages.h"
#include "client/cpp/unary_call.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "lossd/v1/loss.grpc.pb.h"

namespace lossd {
namespace {

void SetTimeout(absl::Duration timeout, grpc::ClientContext* context) {
  context->set_deadline(absl::ToChronoTime(DeadlineAfter(timeout)));
}

// At most what an int64_t holds; 0 of an unknown type.
int64_t BytesOf(const Shape& shape, DataType type) {
  const int64_t size = SizeOf(type);
  return size == 0 ? 0 : std::min(NumElements(shape), std::numeric_limits<int64_t>::max() / size) * size;
}

absl::Status CheckDestination(const Batch& batch, const EvaluateOptions& options) {
  const auto have = static_cast<int64_t>(options.logits_gradient.size());
  const int64_t want = BytesOf(batch.logits.type.shape, GradientType(batch));
  if (have == 0 || have == want) return absl::OkStatus();
  return absl::InvalidArgumentError(
      absl::StrCat("EvaluateOptions.logits_gradient has ", have, " bytes, and the gradient of the logits ", want));
}

}  // namespace

struct Client::Connection {
  explicit Connection(const std::string& target) : channels(target) {}

  Channels channels;
  std::atomic<int64_t> max_message_bytes = 0;  // of the server; 0 until it has been asked
};

Client::Client(const std::string& target) : connection_(std::make_unique<Connection>(target)) {}

Client::~Client() = default;

absl::StatusOr<Evaluation> Client::Evaluate(const Batch& batch, absl::Duration timeout) const {
  EvaluateOptions options;
  options.timeout = timeout;
  return Evaluate(batch, options);
}

absl::StatusOr<Evaluation> Client::Evaluate(const Batch& batch, const EvaluateOptions& options) const {
  const absl::Time deadline = DeadlineAfter(options.timeout);
  const absl::Status one_message = RequestBytes(batch).status();
  if (!one_message.ok() && !absl::IsResourceExhausted(one_message)) return one_message;
  if (absl::Status status = CheckDestination(batch, options); !status.ok()) return status;
  const int64_t logits_bytes = BytesOf(batch.logits.type.shape, batch.logits.type.data_type);
  if (one_message.ok() && logits_bytes <= options.chunk_threshold_bytes) {
    return CallEvaluate(connection_->channels, batch, options, deadline);
  }
  return EvaluateInChunks(batch, options, deadline);
}

absl::StatusOr<Evaluation> Client::EvaluateInChunks(const Batch& batch, const EvaluateOptions& options,
                                                    absl::Time deadline) const {
  const absl::StatusOr<Chunks> chunks = Chunks::Cut(batch);
  if (!chunks.ok()) return chunks.status();
  if (chunks->count() == 0) return CallEvaluate(connection_->channels, batch, options, deadline);
  if (absl::Status status = chunks->CheckFits(kMaxMessageBytes); !status.ok()) return status;
  const absl::StatusOr<int64_t> max_message_bytes = MaxMessageBytes(deadline);
  if (!max_message_bytes.ok()) return max_message_bytes.status();
  if (absl::Status status = chunks->CheckFits(*max_message_bytes); !status.ok()) return status;
  if (chunks->count() == 1) return CallEvaluate(connection_->channels, batch, options, deadline);
  return CallInChunks(connection_->channels, *chunks, options, deadline);
}

// Asked once: what it is depends on how the server was started.
absl::StatusOr<int64_t> Client::MaxMessageBytes(absl::Time deadline) const {
  int64_t bytes = connection_->max_message_bytes;
  if (bytes > 0) return bytes;
  const absl::StatusOr<ServerInfo> info = GetServerInfo(deadline - absl::Now());
  if (!info.ok() && !absl::IsUnimplemented(info.status())) return info.status();
  bytes =
      info.ok() && info->max_message_bytes > 0 ? std::min(info->max_message_bytes, kMaxMessageBytes) : kMaxMessageBytes;
  connection_->max_message_bytes = bytes;
  return bytes;
}

absl::StatusOr<ServerInfo> Client::GetServerInfo(absl::Duration timeout) const {
  grpc::ClientContext context;
  SetTimeout(timeout, &context);
  v1::GetServerInfoResponse response;
  const grpc::Status status = v1::LossService::NewStub(connection_->channels.Get())
                                  ->GetServerInfo(&context, v1::GetServerInfoRequest(), &response);
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
  const grpc::Status status =
      grpc::health::v1::Health::NewStub(connection_->channels.Get())->Check(&context, request, &response);
  if (!status.ok()) return ToAbslStatus(status);
  if (response.status() == HealthCheckResponse::SERVING) return absl::OkStatus();
  return absl::UnavailableError(absl::StrCat(service.empty() ? "the server" : service, " is ",
                                             HealthCheckResponse::ServingStatus_Name(response.status())));
}

}  // namespace lossd
