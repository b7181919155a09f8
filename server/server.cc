#include "server/server.h"

#include <google/protobuf/stubs/logging.h>
#include <grpc/support/log.h>
#include <grpcpp/ext/channelz_service_plugin.h>
#include <grpcpp/grpcpp.h>
#include <grpcpp/resource_quota.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <mutex>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/strip.h"
#include "loss/loss.h"
#include "server/admission.h"
#include "server/executor.h"
#include "server/http.h"
#include "server/idle_trim.h"
#include "server/log.h"
#include "server/metrics.h"
#include "server/rpc.h"
#include "server/service.h"
#include "server/status_page.h"

namespace lossd {
namespace {

constexpr int kHandshakeTimeoutMs = 10000;
constexpr int kMaxConcurrentStreams = 1024;  // of one connection
constexpr int kMaxMetadataBytes = 16384;
constexpr int kMaxQueueThreads = 8;  // and half as many as compute: a connection is served by one thread at a time
// What is received is gRPC's until it is a whole message: a peer may declare 4 GiB and send them, and gRPC looks at the
// limit of a message's size when all of it is here. Beyond the budget, one message and this, it resets streams.
constexpr int64_t kConnectionBytes = 128 << 20;
constexpr absl::Duration kQuiet = absl::Milliseconds(500);
constexpr auto kShutdownGrace = std::chrono::milliseconds(500);

// gRPC's own messages, as events of our log.
void LogGrpc(gpr_log_func_args* message) {
  if (message->severity != GPR_LOG_SEVERITY_ERROR) return;
  LogWarning(absl::StrCat("grpc: ", message->message));
}

// Once a process, before the first server.
void SetUpGrpc() {
  static std::once_flag once;
  std::call_once(once, [] {
    google::protobuf::SetLogHandler(nullptr);  // what does not parse is answered, not printed
  });
  // A listener that fails is told by its own sentence.
  gpr_set_log_function([](gpr_log_func_args*) {});
}

void Configure(const Config& config, grpc::ServerBuilder& builder) {
  builder.SetMaxReceiveMessageSize(static_cast<int>(config.max_message_bytes));
  builder.SetMaxSendMessageSize(static_cast<int>(config.max_message_bytes));
  grpc::ResourceQuota quota("lossd");
  quota.Resize(static_cast<size_t>(config.memory_budget_bytes + config.max_message_bytes + kConnectionBytes));
  builder.SetResourceQuota(quota);
  builder.AddChannelArgument(GRPC_ARG_ALLOW_REUSEPORT, 0);
  builder.AddChannelArgument(GRPC_ARG_SERVER_HANDSHAKE_TIMEOUT_MS, kHandshakeTimeoutMs);
  builder.AddChannelArgument(GRPC_ARG_MAX_CONCURRENT_STREAMS, kMaxConcurrentStreams);
  builder.AddChannelArgument(GRPC_ARG_MAX_METADATA_SIZE, kMaxMetadataBytes);
  // Clients may ping an idle connection every 10 s; anything faster is sent away.
  builder.AddChannelArgument(GRPC_ARG_HTTP2_MIN_RECV_PING_INTERVAL_WITHOUT_DATA_MS, 10000);
  builder.AddChannelArgument(GRPC_ARG_KEEPALIVE_PERMIT_WITHOUT_CALLS, 1);
  for (auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    builder.SetCompressionAlgorithmSupportStatus(algorithm, false);
  }
}

// What may wait at most: some large requests, whatever the budget is, so that who waits is not kept waiting for long.
int64_t BacklogBytes(const Config& config) {
  return std::min(config.memory_budget_bytes, 2 * config.max_message_bytes);
}

// What was bound, in the form it was asked for.
std::string Bound(const std::string& address, int port) {
  if (absl::StartsWith(address, "unix:")) return address;
  return absl::StrCat(address.substr(0, address.rfind(':')), ":", port);
}

// Whether a server answers at unix:path. gRPC would unlink its socket and take the place without a word.
bool IsTaken(const std::string& address) {
  sockaddr_un to{};
  to.sun_family = AF_UNIX;
  const absl::string_view path = absl::StripPrefix(address, "unix:");
  if (path == address || path.size() >= sizeof(to.sun_path)) return false;
  path.copy(to.sun_path, path.size());
  const int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
  if (fd < 0) return false;
  const bool taken = connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0;
  close(fd);
  return taken;
}

absl::Status CannotListen(const std::string& address) {
  return absl::UnavailableError(
      absl::StrCat("cannot listen on --grpc_listen=", address, ": it is taken, or the address is not this machine's"));
}

}  // namespace

struct Server::State {
  explicit State(const Config& all)
      : config(all),
        admission(config.memory_budget_bytes, BacklogBytes(config)),
        executor(config.threads),
        metrics(config.memory_budget_bytes, config.max_jobs, LOSSD_VERSION, SimdTarget(), [this] { return Read(); }),
        context{config, admission, executor, metrics},
        queue([this](const std::string& method, Rpc& rpc) { return MakeHandler(context, method, rpc); }) {}

  Metrics::Gauges Read() const {
    const Admission::Load load = admission.load();
    return {load.requests, load.bytes, admission.draining()};
  }

  absl::Status StartGrpc();
  absl::Status StartHttp();

  const Config config;
  Admission admission;
  Executor executor;
  Metrics metrics;
  const ServiceContext context;
  RpcQueue queue;
  std::string grpc_address;
  IdleTrim idle_trim{admission};
  std::unique_ptr<HttpServer> http;
  std::unique_ptr<grpc::Server> grpc;  // last: destroyed, and its calls ended, before what they use
};

absl::Status Server::State::StartGrpc() {
  SetUpGrpc();
  if (config.channelz) grpc::channelz::experimental::InitChannelzService();  // for builders that are made later
  grpc::ServerBuilder builder;
  Configure(config, builder);
  std::vector<int> ports(config.grpc_listen.size());
  for (size_t i = 0; i < ports.size(); ++i) {
    if (IsTaken(config.grpc_listen[i])) return CannotListen(config.grpc_listen[i]);
    builder.AddListeningPort(config.grpc_listen[i], grpc::InsecureServerCredentials(), &ports[i]);
  }
  queue.Register(builder);
  grpc = builder.BuildAndStart();
  if (grpc != nullptr) queue.Serve(std::clamp(config.threads / 2, 1, kMaxQueueThreads));
  std::vector<std::string> bound;
  for (size_t i = 0; i < ports.size(); ++i) {
    if (ports[i] == 0) return CannotListen(config.grpc_listen[i]);  // gRPC stops at the first that fails
    bound.push_back(Bound(config.grpc_listen[i], ports[i]));
  }
  gpr_set_log_function(&LogGrpc);
  grpc_address = absl::StrJoin(bound, ",");
  if (grpc == nullptr) return CannotListen(grpc_address);
  return absl::OkStatus();
}

absl::Status Server::State::StartHttp() {
  const auto status_page = [this] {
    const double now = std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
    return HttpResponse{200, "text/html; charset=utf-8",
                        RenderStatusPage({LOSSD_VERSION, SimdTarget(), config.threads, Read(),
                                          config.memory_budget_bytes, metrics.Jobs(), now})};
  };
  const auto ready = [this] {
    return admission.draining() ? HttpResponse{503, "text/plain; charset=utf-8", "draining\n"}
                                : HttpResponse{200, "text/plain; charset=utf-8", "ready\n"};
  };
  HttpServer::Pages pages = {
      {"/", status_page},
      {"/metrics",
       [this] {
         return HttpResponse{200, "text/plain; version=0.0.4; charset=utf-8", metrics.Text()};
       }},
      {"/healthz",
       [] {
         return HttpResponse{200, "text/plain; charset=utf-8", "alive\n"};
       }},
      {"/readyz", ready},
  };
  absl::StatusOr<std::unique_ptr<HttpServer>> started = HttpServer::Start(config.http_listen, std::move(pages));
  if (!started.ok()) return started.status();
  http = *std::move(started);
  return absl::OkStatus();
}

Server::Server() = default;

absl::StatusOr<std::unique_ptr<Server>> Server::Start(const Config& config) {
  auto server = std::unique_ptr<Server>(new Server);
  server->state_ = std::make_unique<State>(config);
  if (absl::Status status = server->state_->StartGrpc(); !status.ok()) return status;
  if (absl::Status status = server->state_->StartHttp(); !status.ok()) return status;
  return server;
}

Server::~Server() {
  if (state_ == nullptr) return;
  StartDraining();
  if (state_->grpc == nullptr) return;
  state_->grpc->Shutdown(std::chrono::system_clock::now() + kShutdownGrace);
  state_->queue.Stop();
}

const std::string& Server::grpc_address() const { return state_->grpc_address; }
const std::string& Server::http_address() const { return state_->http->address(); }

void Server::StartDraining() { state_->admission.StartDraining(); }

bool Server::IsBusy() const { return state_->admission.quiet() < kQuiet; }

bool Server::AwaitIdle(absl::Duration timeout) { return state_->admission.AwaitIdle(timeout); }

}  // namespace lossd
