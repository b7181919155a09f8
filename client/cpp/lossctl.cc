#include "client/cpp/lossctl.h"

#include <cstdio>
#include <string>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_replace.h"
#include "absl/strings/string_view.h"
#include "absl/synchronization/mutex.h"

ABSL_FLAG(std::string, target, "localhost:50051", "The server: host:port, dns:///name:port, unix:/path.");
ABSL_FLAG(absl::Duration, timeout, absl::Seconds(30), "For each call: 500ms, 30s, 2m.");
ABSL_FLAG(bool, json, false,
          "Prints one JSON object. Doubles have 17 digits; NaN and infinities are strings, as in protobuf's JSON.");
ABSL_FLAG(uint64_t, seed, 1, "For everything random. The same seed gives the same numbers on every machine.");
ABSL_FLAG(std::optional<std::string>, job, std::nullopt,
          "The label of this job in the server's metrics. train calls itself digits, the others have none.");

namespace lossd {
namespace {

constexpr const Subcommand* kSubcommands[] = {&kEvalSubcommand, &kTrainSubcommand, &kBenchSubcommand, &kInfoSubcommand,
                                              &kHealthSubcommand};

int PrintError(absl::string_view message, int exit_code) {
  absl::FPrintF(stderr, "lossctl: %s\n", absl::StrReplaceAll(message, {{"\n", " "}}));
  return exit_code;
}

const Subcommand* FindSubcommand(absl::string_view name) {
  for (const Subcommand* subcommand : kSubcommands) {
    if (name == subcommand->name) return subcommand;
  }
  return nullptr;
}

void PrintUsage(FILE* file) {
  absl::FPrintF(
      file, "lossctl asks a lossd server for losses and gradients.\n\nUsage: lossctl COMMAND [--flag=value ...]\n\n");
  for (const Subcommand* subcommand : kSubcommands) {
    absl::FPrintF(file, "  %-8s %s\n", subcommand->name, subcommand->summary);
  }
  absl::FPrintF(file, "%s", R"(  help     This page. 'lossctl help COMMAND' lists the flags of a command.

Every command takes --target=localhost:50051 and --timeout=30s.

Examples:
  lossctl info
  lossctl train
  lossctl eval --generate=256x1000 --verify
  lossctl eval --logits=logits.npy --targets=targets.npy --gradient=gradient.npy
  lossctl bench --generate=1024x1000 --outputs=logits_gradient --concurrency=4

Exit code: 0 done, 1 the call failed or the answer is no, 2 wrong usage.
)");
}

void PrintHelp(const Subcommand& subcommand) {
  absl::PrintF("lossctl %s: %s\n\n%s", subcommand.name, subcommand.summary, DescribeFlags(subcommand));
}

bool IsHelp(absl::string_view word) { return word == "help" || word == "--help" || word == "-h"; }

int Help(std::span<const char* const> arguments) {
  if (arguments.empty()) {
    PrintUsage(stdout);
    return kSuccess;
  }
  const Subcommand* subcommand = FindSubcommand(arguments[0]);
  if (subcommand == nullptr)
    return PrintError(absl::StrCat("no command '", arguments[0], "'; see 'lossctl help'"), kUsage);
  PrintHelp(*subcommand);
  return kSuccess;
}

int Run(std::span<const char* const> arguments) {
  if (arguments.empty()) {
    PrintUsage(stderr);
    return kUsage;
  }
  if (IsHelp(arguments[0])) return Help(arguments.subspan(1));
  const Subcommand* subcommand = FindSubcommand(arguments[0]);
  if (subcommand == nullptr) return Help(arguments);
  for (const char* argument : arguments.subspan(1)) {
    if (IsHelp(argument)) return Help(arguments.first(1));
  }
  absl::Status status = SetFlags(*subcommand, arguments.subspan(1));
  if (!status.ok()) return FailUsage(status);
  if (absl::GetFlag(FLAGS_timeout) <= absl::ZeroDuration()) {
    return FailUsage(absl::InvalidArgumentError("--timeout must be more than 0"));
  }
  return subcommand->run();
}

}  // namespace

int Fail(const absl::Status& status) { return PrintError(absl::string_view(status.message()), kFailure); }

int FailCall(const absl::Status& status) {
  const std::string target = absl::GetFlag(FLAGS_target);
  if (absl::IsUnavailable(status)) {
    return PrintError(absl::StrCat(target, " is not available: ", status.message()), kFailure);
  }
  if (absl::IsDeadlineExceeded(status)) {
    const std::string timeout = absl::FormatDuration(absl::GetFlag(FLAGS_timeout));
    return PrintError(absl::StrCat("no answer from ", target, " within ", timeout, ": ", status.message()), kFailure);
  }
  return PrintError(absl::StrCat(absl::StatusCodeToString(status.code()), ": ", status.message()), kFailure);
}

int FailUsage(const absl::Status& status) { return PrintError(status.message(), kUsage); }

}  // namespace lossd

int main(int argc, char** argv) {
  // Debian's gRPC and Abseil are assertion builds: every lock would go through one process-wide lock.
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  return lossd::Run({argv + 1, static_cast<size_t>(argc > 0 ? argc - 1 : 0)});
}
