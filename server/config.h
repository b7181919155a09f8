// What lossd can be told at start: flags, environment, flagfile. One place for every default and every limit.
#ifndef LOSSD_SERVER_CONFIG_H_
#define LOSSD_SERVER_CONFIG_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace lossd {

enum class LogFormat { kText, kJson };

struct Config {
  std::vector<std::string> grpc_listen = {"0.0.0.0:50051"};  // host:port or unix:path; port 0 picks a free one
  std::string http_listen = "0.0.0.0:9464";                  // host:port; port 0 picks a free one
  int threads = 0;                                           // compute threads; 0: one for each core we may use
  int64_t max_message_bytes = int64_t{256} << 20;            // largest request and largest response
  int64_t memory_budget_bytes = 0;           // requests and answers in flight; 0: half the memory we may use
  absl::Duration drain = absl::Seconds(30);  // how long calls in flight may take after SIGTERM
  int max_jobs = 1000;                       // jobs with metrics of their own
  bool channelz = false;                     // serve grpc.channelz.v1
  LogFormat log_format = LogFormat::kText;
  std::string log_level = "info";  // debug, info, warning, error
};

// Reads LOSSD_NAME environment variables, then the command line, which wins. --help and --version print and exit; an
// unknown flag or one that does not parse prints a sentence and exits with 1, as Abseil flags do.
// Errors: kInvalidArgument, naming the flag, its value and what is allowed. Call once, first in main().
absl::StatusOr<Config> ReadConfig(int argc, char** argv);

// Replaces "choose for me" (0) by what this machine or container allows, and refuses absurd values.
absl::StatusOr<Config> Resolve(Config config);

// Cores this process may use: its affinity mask and its cgroup's CPU quota, rounded up; at least 1.
int AvailableCores();

// Bytes of memory this process may use: the machine's, or its cgroup's limit if that is lower.
int64_t AvailableMemoryBytes();

}  // namespace lossd

#endif  // LOSSD_SERVER_CONFIG_H_
