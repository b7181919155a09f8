// The connections of one client.
#ifndef LOSSD_CLIENT_CPP_CHANNELS_H_
#define LOSSD_CLIENT_CPP_CHANNELS_H_

#include <grpcpp/grpcpp.h>

#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cpp/lent_memory.h"

namespace lossd {

// Thread-safe.
class Channels {
 public:
  explicit Channels(std::string target) : target_(std::move(target)) {}

  // Channel `index` of this client, made when it is first asked for; each has a connection of its own. REQUIRES: 0 <=
  // index.
  std::shared_ptr<grpc::Channel> Get(int index = 0) const;
  // A new one in its place, with a new connection: a balancer that still led to a server that drains now may lead
  // elsewhere. Calls on the old one go on.
  std::shared_ptr<grpc::Channel> Renew(int index) const;

 private:
  std::shared_ptr<grpc::Channel> Make() const;

  const std::string target_;
  mutable std::mutex mutex_;
  mutable std::vector<std::shared_ptr<grpc::Channel>> channels_;
};

// Waits until all of `memory` is back, after the calls that sent it have ended, and ends `queue`, which drove them.
// Nearly always it is back already. What a connection is just writing stays out until the other end reads on, or the
// connection is given up: over TCP after 20 s, over a unix socket when the server goes on or ends.
void AwaitReturn(const LentMemory& memory, grpc::CompletionQueue& queue);

// The same code and message.
absl::Status ToAbslStatus(const grpc::Status& status);

// From now. gRPC takes a deadline in the infinite past for one in the infinite future: this does not.
absl::Time DeadlineAfter(absl::Duration timeout);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_CHANNELS_H_
