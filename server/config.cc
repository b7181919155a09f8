#include "server/config.h"

#include <sched.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <fstream>
#include <limits>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/reflection.h"
#include "absl/flags/usage.h"
#include "absl/flags/usage_config.h"
#include "absl/strings/ascii.h"
#include "absl/strings/match.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"

ABSL_FLAG(std::vector<std::string>, grpc_listen, lossd::Config().grpc_listen,
          "Where to serve gRPC: host:port or unix:path, several separated by commas. Port 0 picks a free one.");
ABSL_FLAG(std::string, http_listen, lossd::Config().http_listen,
          "Where to serve /metrics, /healthz, /readyz and the status page. Port 0 picks a free one.");
ABSL_FLAG(int, threads, lossd::Config().threads, "Compute threads; 0 is one for each core.");
ABSL_FLAG(int64_t, max_message_bytes, lossd::Config().max_message_bytes,
          "Largest request and largest response, in bytes; at most 2147483647, gRPC's own limit.");
ABSL_FLAG(int64_t, memory_budget_bytes, lossd::Config().memory_budget_bytes,
          "What all calls in flight may hold together, in bytes; 0 is half the memory of the machine or container.");
ABSL_FLAG(int, drain_seconds, static_cast<int>(absl::ToInt64Seconds(lossd::Config().drain)),
          "After SIGTERM, how long calls in flight may take to finish.");
ABSL_FLAG(int, max_jobs, lossd::Config().max_jobs,
          "Jobs with metrics of their own; the least recently seen one makes room for a new one.");
ABSL_FLAG(bool, channelz, lossd::Config().channelz, "Serve grpc.channelz.v1, for debugging connections.");
ABSL_FLAG(std::string, log_format, "text", "text or json, one line an event, on standard error.");
ABSL_FLAG(std::string, log_level, lossd::Config().log_level, "debug, info, warning or error.");

namespace lossd {
namespace {

constexpr const char* kFlags[] = {"grpc_listen",         "http_listen",   "threads",  "max_message_bytes",
                                  "memory_budget_bytes", "drain_seconds", "max_jobs", "channelz",
                                  "log_format",          "log_level"};

constexpr int64_t kMostMemoryBytes = int64_t{1} << 50;

// Of versions to come. On the command line they are unknown; here they would be taken for heeded.
constexpr const char* kLaterFlags[] = {"tls_cert", "tls_key", "tls_client_ca", "auth_tokens_file"};

template <typename Value>
absl::Status Refuse(const char* flag, const Value& value, const char* allowed) {
  return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", value, " is not allowed; it must be ", allowed));
}

std::string VariableOf(const char* flag) { return absl::StrCat("LOSSD_", absl::AsciiStrToUpper(flag)); }

absl::Status ReadEnvironment() {
  for (const char* name : kLaterFlags) {
    const std::string variable = VariableOf(name);
    if (std::getenv(variable.c_str()) == nullptr) continue;
    return absl::InvalidArgumentError(
        absl::StrCat("environment variable ", variable,
                     " is set, and this version has neither TLS nor tokens; unset it, and "
                     "see SECURITY.md for what to put in front"));
  }
  for (const char* name : kFlags) {
    const std::string variable = VariableOf(name);
    const char* value = std::getenv(variable.c_str());
    if (value == nullptr) continue;
    std::string error;
    if (!absl::FindCommandLineFlag(name)->ParseFrom(value, &error)) {
      return absl::InvalidArgumentError(absl::StrCat("environment variable ", variable, "=", value,
                                                     " does not parse; it sets --", name, ": ", error));
    }
  }
  return absl::OkStatus();
}

// The first word of a file, as a number; -1 where there is none ("max", or no such file).
int64_t ReadNumber(const char* path) {
  std::ifstream file(path);
  int64_t value = -1;
  return file >> value ? value : -1;
}

bool IsAddress(const std::string& address, bool allow_unix) {
  if (allow_unix && absl::StartsWith(address, "unix:")) return address.size() > 5;
  const size_t colon = address.rfind(':');
  int port = -1;
  return colon != std::string::npos && colon > 0 && absl::SimpleAtoi(address.substr(colon + 1), &port) && port >= 0 &&
         port <= 65535;
}

absl::Status CheckAddresses(const Config& config) {
  if (config.grpc_listen.empty()) return Refuse("grpc_listen", "", "at least one host:port or unix:path");
  for (const std::string& address : config.grpc_listen) {
    if (!IsAddress(address, true)) return Refuse("grpc_listen", address, "host:port (0 to 65535) or unix:path");
  }
  if (!IsAddress(config.http_listen, false)) {
    return Refuse("http_listen", config.http_listen, "host:port (0 to 65535)");
  }
  return absl::OkStatus();
}

absl::Status CheckNumbers(const Config& config) {
  if (config.threads < 0 || config.threads > 1024) return Refuse("threads", config.threads, "from 0 to 1024");
  if (config.max_message_bytes < 1024 || config.max_message_bytes > std::numeric_limits<int32_t>::max()) {
    return Refuse("max_message_bytes", config.max_message_bytes, "from 1024 to 2147483647");
  }
  if (config.memory_budget_bytes != 0 &&
      (config.memory_budget_bytes < config.max_message_bytes || config.memory_budget_bytes > kMostMemoryBytes)) {
    return Refuse("memory_budget_bytes", config.memory_budget_bytes,
                  "0, or at least --max_message_bytes and at most 2^50");
  }
  if (config.drain < absl::ZeroDuration() || config.drain > absl::Hours(24)) {
    return Refuse("drain_seconds", absl::ToInt64Seconds(config.drain), "from 0 to 86400");
  }
  if (config.max_jobs < 0 || config.max_jobs > 1000000) return Refuse("max_jobs", config.max_jobs, "from 0 to 1000000");
  const std::string& level = config.log_level;
  if (level != "debug" && level != "info" && level != "warning" && level != "error") {
    return Refuse("log_level", level, "debug, info, warning or error");
  }
  return absl::OkStatus();
}

}  // namespace

int AvailableCores() {
  cpu_set_t set;
  CPU_ZERO(&set);
  int cores = sched_getaffinity(0, sizeof(set), &set) == 0 ? CPU_COUNT(&set) : 1;
  std::ifstream file("/sys/fs/cgroup/cpu.max");
  int64_t quota = 0, period = 0;
  if (file >> quota >> period && quota > 0 && period > 0) {
    cores = static_cast<int>(std::min<int64_t>(cores, (quota + period - 1) / period));
  }
  return std::max(cores, 1);
}

int64_t AvailableMemoryBytes() {
  int64_t bytes = int64_t{sysconf(_SC_PHYS_PAGES)} * sysconf(_SC_PAGESIZE);
  for (const char* path : {"/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes"}) {
    if (const int64_t limit = ReadNumber(path); limit > 0) bytes = std::min(bytes, limit);
  }
  return bytes;
}

absl::StatusOr<Config> Resolve(Config config) {
  if (absl::Status status = CheckAddresses(config); !status.ok()) return status;
  if (absl::Status status = CheckNumbers(config); !status.ok()) return status;
  if (config.threads == 0) config.threads = AvailableCores();
  if (config.memory_budget_bytes == 0) {
    config.memory_budget_bytes = std::max(AvailableMemoryBytes() / 2, config.max_message_bytes);
  }
  return config;
}

absl::StatusOr<Config> ReadConfig(int argc, char** argv) {
  absl::SetProgramUsageMessage(
      "lossd, a loss-evaluation service: gRPC in, losses and gradients out.\n"
      "Each flag can also be set as LOSSD_NAME in the environment; the command line wins.");
  absl::FlagsUsageConfig usage;
  usage.version_string = [] { return "lossd " LOSSD_VERSION "\n"; };
  usage.contains_help_flags = [](absl::string_view file) { return absl::EndsWith(file, "server/config.cc"); };
  absl::SetFlagsUsageConfig(usage);
  if (absl::Status status = ReadEnvironment(); !status.ok()) return status;
  const std::vector<char*> rest = absl::ParseCommandLine(argc, argv);
  if (rest.size() > 1) {
    return absl::InvalidArgumentError(absl::StrCat("'", rest[1], "' is not a flag; see lossd --help"));
  }

  Config config;
  config.grpc_listen = absl::GetFlag(FLAGS_grpc_listen);
  config.http_listen = absl::GetFlag(FLAGS_http_listen);
  config.threads = absl::GetFlag(FLAGS_threads);
  config.max_message_bytes = absl::GetFlag(FLAGS_max_message_bytes);
  config.memory_budget_bytes = absl::GetFlag(FLAGS_memory_budget_bytes);
  config.drain = absl::Seconds(absl::GetFlag(FLAGS_drain_seconds));
  config.max_jobs = absl::GetFlag(FLAGS_max_jobs);
  config.channelz = absl::GetFlag(FLAGS_channelz);
  config.log_level = absl::GetFlag(FLAGS_log_level);
  const std::string format = absl::GetFlag(FLAGS_log_format);
  if (format != "text" && format != "json") return Refuse("log_format", format, "text or json");
  config.log_format = format == "json" ? LogFormat::kJson : LogFormat::kText;
  return Resolve(std::move(config));
}

}  // namespace lossd
