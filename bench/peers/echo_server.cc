// The limit that lossd is measured against: a server that moves bytes and does nothing else. Once it serves, it prints
// "echo ready grpc=ADDRESS"; it ends with SIGTERM.
#include <grpc/grpc.h>
#include <grpcpp/grpcpp.h>
#include <malloc.h>
#include <pthread.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdio>
#include <memory>
#include <string>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/synchronization/mutex.h"
#include "bench/peers/echo.h"

ABSL_FLAG(std::string, grpc_listen, "127.0.0.1:0", "host:port, port 0 picks one; or unix:path");
ABSL_FLAG(std::string, api, "queue", "queue: completion queues of its own; callback: gRPC's threads");
ABSL_FLAG(int, threads, 1, "of --api=queue, each with its queue");
ABSL_FLAG(int, frame_bytes, 0, "HTTP/2 frames may have so many bytes; 0: as gRPC has it");

namespace lossd::bench {
namespace {

// What server/server.cc sets and what bears on speed.
void Configure(grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(-1);
  builder.SetMaxSendMessageSize(-1);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, 1024);
  if (const int bytes = absl::GetFlag(FLAGS_frame_bytes); bytes > 0) {
    builder.AddChannelArgument(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, bytes);
  }
  for (auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
}

// As the server does: memory that is given back after each call is faulted in again by the next one.
void KeepFreedMemory() {
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 1 << 20);
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
}

std::unique_ptr<Echo> EchoFromFlags() {
  // One queue with one thread is the fastest of all where it was measured: its defaults are the limit.
  if (absl::GetFlag(FLAGS_api) == "callback") return MakeCallbackEcho();
  return MakeQueueEcho(std::max(absl::GetFlag(FLAGS_threads), 1));
}

int Run() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGTERM);
  sigaddset(&signals, SIGINT);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);  // before any thread exists, so that all inherit it

  const std::string address = absl::GetFlag(FLAGS_grpc_listen);
  const std::unique_ptr<Echo> echo = EchoFromFlags();
  grpc::ServerBuilder builder;
  Configure(builder);
  int port = 0;
  builder.AddListeningPort(address, grpc::InsecureServerCredentials(), &port);
  echo->AddTo(builder);
  const std::unique_ptr<grpc::Server> server = builder.BuildAndStart();
  if (server == nullptr || port == 0) {
    std::fprintf(stderr, "echo_server: cannot listen on --grpc_listen=%s\n", address.c_str());
    return 1;
  }
  echo->Start();
  const bool is_path = address.starts_with("unix:");
  std::printf("echo ready grpc=%s\n",
              is_path ? address.c_str() : (address.substr(0, address.rfind(':') + 1) + std::to_string(port)).c_str());
  std::fflush(stdout);

  int signal = 0;
  sigwait(&signals, &signal);
  server->Shutdown(std::chrono::system_clock::now());
  echo->Stop();
  return 0;
}

}  // namespace
}  // namespace lossd::bench

int main(int argc, char** argv) {
  // Debian's gRPC and Abseil are assertion builds: every lock would go through one process-wide lock.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  lossd::bench::KeepFreedMemory();
  absl::SetProgramUsageMessage("answers every gRPC message with its own bytes");
  absl::ParseCommandLine(argc, argv);
  return lossd::bench::Run();
}
