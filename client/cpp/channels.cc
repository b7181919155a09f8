#include "client/cpp/channels.h"

#include <algorithm>
#include <limits>
#include <utility>

#include "absl/time/clock.h"

namespace lossd {
namespace {

// Evaluate is pure, so a call that no server took may go to the next one. Streams are not retried here: their chunks
// are, one by one. Nor is RESOURCE_EXHAUSTED: gRPC would also retry a refusal without pushback, which is for ever.
// Of several addresses behind a name all are used: one that drains is not the only one that is tried again.
constexpr char kServiceConfig[] = R"({
  "loadBalancingConfig": [{"round_robin": {}}],
  "methodConfig": [{
    "name": [
      {"service": "lossd.v1.LossService", "method": "Evaluate"},
      {"service": "lossd.v1.LossService", "method": "GetServerInfo"}
    ],
    "retryPolicy": {
      "maxAttempts": 4,
      "initialBackoff": "0.1s",
      "maxBackoff": "2s",
      "backoffMultiplier": 2,
      "retryableStatusCodes": ["UNAVAILABLE"]
    }
  }]
})";

constexpr absl::Duration kPoll = absl::Milliseconds(1);

grpc::ChannelArguments ChannelArguments() {
  grpc::ChannelArguments arguments;
  arguments.SetServiceConfigJSON(kServiceConfig);
  // gRPC gives up retries, without a word, for requests above 256 KiB.
  arguments.SetInt(GRPC_ARG_PER_RPC_RETRY_BUFFER_SIZE, std::numeric_limits<int32_t>::max());
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetCompressionAlgorithm(GRPC_COMPRESS_NONE);
  // A connection of its own, which ends with the channel.
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);
  // Only while a call is out; the timeout is also how long TCP waits for a peer that takes no more. gRPC sends at most
  // two pings without data, which the default server tolerates.
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIME_MS, 60'000);
  arguments.SetInt(GRPC_ARG_KEEPALIVE_TIMEOUT_MS, 20'000);
  return arguments;
}

}  // namespace

std::shared_ptr<grpc::Channel> Channels::Get(int index) const {
  const std::lock_guard lock(mutex_);
  while (channels_.size() <= static_cast<size_t>(index)) channels_.push_back(Make());
  return channels_[static_cast<size_t>(index)];
}

std::shared_ptr<grpc::Channel> Channels::Renew(int index) const {
  std::shared_ptr<grpc::Channel> made = Make();
  const std::lock_guard lock(mutex_);
  return channels_.at(static_cast<size_t>(index)) = std::move(made);
}

std::shared_ptr<grpc::Channel> Channels::Make() const {
  return grpc::CreateCustomChannel(target_, grpc::InsecureChannelCredentials(), ChannelArguments());
}

void AwaitReturn(const LentMemory& memory, grpc::CompletionQueue& queue) {
  void* tag = nullptr;
  bool ok = false;
  // A queue that is waited on lets gRPC get on with its writing.
  while (!memory.all_returned()) queue.AsyncNext(&tag, &ok, absl::ToChronoTime(absl::Now() + kPoll));
  queue.Shutdown();
  while (queue.Next(&tag, &ok)) {
  }
}

absl::Status ToAbslStatus(const grpc::Status& status) {
  // The codes of both have the same numbers.
  static_assert(static_cast<int>(grpc::StatusCode::UNAUTHENTICATED) ==
                static_cast<int>(absl::StatusCode::kUnauthenticated));
  return absl::Status(static_cast<absl::StatusCode>(status.error_code()), status.error_message());
}

absl::Time DeadlineAfter(absl::Duration timeout) { return absl::Now() + std::max(timeout, absl::ZeroDuration()); }

}  // namespace lossd
