// lossd: starts, says where it listens, serves until SIGTERM or SIGINT, drains, exits with 0.
#include <pthread.h>
#include <sys/resource.h>

#include <atomic>
#include <csignal>
#include <cstdio>
#include <string>
#include <thread>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "server/config.h"
#include "server/idle_trim.h"
#include "server/log.h"
#include "server/server.h"

namespace {

constexpr absl::Duration kLinger = absl::Seconds(2);

// A listener that runs out of descriptors once stays deaf (CVE-2023-4785): have as many as we may.
void RaiseDescriptorLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) return;
  limit.rlim_cur = limit.rlim_max;
  setrlimit(RLIMIT_NOFILE, &limit);
}

sigset_t BlockSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread exists, so that all inherit it
  std::signal(SIGPIPE, SIG_IGN);
  return signals;
}

// Waits for the calls in flight, and a little for clients to notice: those that still come are told to go elsewhere.
// A second SIGINT (a person at the terminal) ends the wait; a second SIGTERM does not.
void Drain(lossd::Server& server, absl::Duration timeout, const sigset_t& signals) {
  server.StartDraining();
  const absl::Time begin = absl::Now();
  const timespec poll = {.tv_sec = 0, .tv_nsec = 20'000'000};
  while (absl::Now() - begin < timeout) {
    if (server.AwaitIdle(absl::ZeroDuration()) && (!server.IsBusy() || absl::Now() - begin > kLinger)) return;
    if (sigtimedwait(&signals, nullptr, &poll) == SIGINT) break;
  }
  if (!server.AwaitIdle(absl::ZeroDuration())) lossd::LogWarning("calls still in flight are cancelled");
}

}  // namespace

int main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(
      absl::OnDeadlockCycle::kIgnore);  // a global lock at every lock, in Debian's build
  lossd::IdleTrim::KeepFreedMemory();
  const sigset_t signals = BlockSignals();
  RaiseDescriptorLimit();
  const absl::StatusOr<lossd::Config> config = lossd::ReadConfig(argc, argv);
  if (!config.ok()) {
    std::fprintf(stderr, "lossd: %s\n", std::string(config.status().message()).c_str());
    return 1;
  }
  lossd::StartLog(config->log_format, config->log_level);
  absl::StatusOr<std::unique_ptr<lossd::Server>> server = lossd::Server::Start(*config);
  if (!server.ok()) {
    std::fprintf(stderr, "lossd: %s\n", std::string(server.status().message()).c_str());
    return 1;
  }
  std::printf("lossd ready grpc=%s http=%s\n", (*server)->grpc_address().c_str(), (*server)->http_address().c_str());
  std::fflush(stdout);
  lossd::LogInfo(absl::StrCat("serving with ", config->threads, " compute threads, max_message_bytes=",
                              config->max_message_bytes, ", memory_budget_bytes=", config->memory_budget_bytes));

  int signal = 0;
  sigwait(&signals, &signal);
  lossd::LogInfo(absl::StrCat("signal ", signal, ": draining, at most ", absl::FormatDuration(config->drain)));
  Drain(**server, config->drain, signals);
  server->reset();
  lossd::LogInfo("drained");
  return 0;
}
