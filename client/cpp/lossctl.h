// What the subcommands of lossctl share: the flags they have in common, and how they fail.
#ifndef LOSSD_CLIENT_CPP_LOSSCTL_H_
#define LOSSD_CLIENT_CPP_LOSSCTL_H_

#include <cstdint>
#include <optional>
#include <string>

#include "absl/flags/declare.h"
#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cpp/command_line.h"

ABSL_DECLARE_FLAG(std::string, target);
ABSL_DECLARE_FLAG(absl::Duration, timeout);
ABSL_DECLARE_FLAG(bool, json);
ABSL_DECLARE_FLAG(uint64_t, seed);
ABSL_DECLARE_FLAG(std::optional<std::string>, job);

namespace lossd {

inline constexpr int kSuccess = 0;
inline constexpr int kFailure = 1;  // the call failed, or its answer is no
inline constexpr int kUsage = 2;

// Prints "lossctl: " and the message of `status` to standard error, as one line; returns kFailure.
int Fail(const absl::Status& status);
// The same for a call to --target: kUnavailable and kDeadlineExceeded name it.
int FailCall(const absl::Status& status);
// The same for a wrong use of lossctl; returns kUsage.
int FailUsage(const absl::Status& status);

// The subcommands. Each reads the flags, prints to standard output, and has its name, summary and flags beside it.
extern const Subcommand kEvalSubcommand;
extern const Subcommand kTrainSubcommand;
extern const Subcommand kBenchSubcommand;
extern const Subcommand kInfoSubcommand;
extern const Subcommand kHealthSubcommand;

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_LOSSCTL_H_
