// lossd as an object: both listeners and everything behind them. main() runs one; tests run several.
#ifndef LOSSD_SERVER_SERVER_H_
#define LOSSD_SERVER_SERVER_H_

#include <memory>
#include <string>

#include "absl/status/statusor.h"
#include "server/config.h"

namespace lossd {

class Server {
 public:
  // Serves when it returns. REQUIRES: `config` comes from Resolve() or ReadConfig().
  // Errors: kUnavailable, naming the address that could not be listened on.
  static absl::StatusOr<std::unique_ptr<Server>> Start(const Config& config);
  // Stops at once; calls in flight are cancelled. Drain() first to be kind.
  ~Server();

  // Where it listens, with real ports; several gRPC addresses are separated by commas.
  const std::string& grpc_address() const;
  const std::string& http_address() const;

  // Not ready and not serving from now on, in the words of health checks; new calls are UNAVAILABLE. Idempotent.
  void StartDraining();
  // Waits until the calls in flight are done, at most `timeout`. True if none is left.
  bool AwaitIdle(absl::Duration timeout);
  // Whether some client still sends calls here: they are better refused than met by a closed door.
  bool IsBusy() const;

 private:
  struct State;
  Server();
  std::unique_ptr<State> state_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_SERVER_H_
