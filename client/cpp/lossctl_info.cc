#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "client/cpp/client.h"
#include "client/cpp/json.h"
#include "client/cpp/lossctl.h"

ABSL_FLAG(std::string, service, "",
          "The service whose health is asked, as lossd.v1.LossService; empty is the whole server.");

namespace lossd {
namespace {

std::string InfoJson(const ServerInfo& info) {
  JsonObject json;
  json.Add("version", info.version);
  json.Add("simd_target", info.simd_target);
  json.Add("compute_threads", int64_t{info.compute_threads});
  json.Add("max_message_bytes", info.max_message_bytes);
  json.Add("memory_budget_bytes", info.memory_budget_bytes);
  const auto name = [](auto value) { return JsonString(Name(value)); };
  json.AddJson("losses", JsonArray(info.losses, [](const std::string& loss) { return JsonString(loss); }));
  json.AddJson("data_types", JsonArray(info.data_types, name));
  json.AddJson("outputs", JsonArray(info.outputs, name));
  json.AddJson("extensions", JsonArray(info.extensions, [](const std::string& text) { return JsonString(text); }));
  return json.str();
}

std::string Bytes(int64_t bytes) {
  return absl::StrFormat("%d (%.0f MiB)", bytes, static_cast<double>(bytes) / (1024.0 * 1024.0));
}

std::string OrNone(const std::string& list) { return list.empty() ? "none" : list; }

void PrintInfo(const ServerInfo& info) {
  const auto name = [](std::string* out, auto value) { out->append(Name(value)); };
  absl::PrintF("version          %s\n", info.version);
  absl::PrintF("SIMD target      %s\n", info.simd_target);
  absl::PrintF("compute threads  %d\n", info.compute_threads);
  absl::PrintF("message limit    %s\n", Bytes(info.max_message_bytes));
  absl::PrintF("memory budget    %s\n", Bytes(info.memory_budget_bytes));
  absl::PrintF("losses           %s\n", OrNone(absl::StrJoin(info.losses, ", ")));
  absl::PrintF("logits           %s\n", OrNone(absl::StrJoin(info.data_types, ", ", name)));
  absl::PrintF("outputs          %s\n", OrNone(absl::StrJoin(info.outputs, "\n                 ", name)));
  absl::PrintF("extensions       %s\n", OrNone(absl::StrJoin(info.extensions, ", ")));
}

int RunInfo() {
  const Client client(absl::GetFlag(FLAGS_target));
  absl::StatusOr<ServerInfo> info = client.GetServerInfo(absl::GetFlag(FLAGS_timeout));
  if (!info.ok()) return FailCall(info.status());
  if (absl::GetFlag(FLAGS_json)) {
    absl::PrintF("%s\n", InfoJson(*info));
  } else {
    PrintInfo(*info);
  }
  return kSuccess;
}

int RunHealth() {
  const Client client(absl::GetFlag(FLAGS_target));
  absl::Status status = client.CheckHealth(absl::GetFlag(FLAGS_service), absl::GetFlag(FLAGS_timeout));
  if (!status.ok()) return FailCall(status);
  absl::PrintF("SERVING\n");
  return kSuccess;
}

constexpr const char* kInfoFlags[] = {"target", "timeout", "json"};
constexpr const char* kHealthFlags[] = {"target", "timeout", "service"};

}  // namespace

constexpr Subcommand kInfoSubcommand = {"info", "What the server is and supports.", kInfoFlags, &RunInfo};
constexpr Subcommand kHealthSubcommand = {"health", "Exit code 0 when the server is serving, 1 when it is not.",
                                          kHealthFlags, &RunHealth};

}  // namespace lossd
