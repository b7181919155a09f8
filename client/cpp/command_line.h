// The command line of lossctl: a subcommand, then Abseil flags. Abseil's own parser would exit by itself, and would
// accept the flags of every subcommand.
#ifndef LOSSD_CLIENT_CPP_COMMAND_LINE_H_
#define LOSSD_CLIENT_CPP_COMMAND_LINE_H_

#include <span>
#include <string>

#include "absl/status/status.h"

namespace lossd {

// One subcommand. The strings and arrays outlive the program.
struct Subcommand {
  const char* name;
  const char* summary;                 // one line, for the usage screen
  std::span<const char* const> flags;  // the names of those it takes, in the order of its help
  int (*run)();                        // returns the exit code
};

// Sets the flags that `arguments` ("--name=value", "--name value", "--name" and "--noname" for bool) give.
// kInvalidArgument, with a sentence, for anything else, for flags of other subcommands, and for values that do not
// parse; the flags before it stay set. Not thread-safe.
absl::Status SetFlags(const Subcommand& subcommand, std::span<const char* const> arguments);

// Two lines for each flag of `subcommand`: name and default, then its help.
std::string DescribeFlags(const Subcommand& subcommand);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_COMMAND_LINE_H_
