#include "client/cpp/command_line.h"

#include <algorithm>
#include <cstddef>

#include "absl/flags/commandlineflag.h"
#include "absl/flags/reflection.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "absl/strings/strip.h"

namespace lossd {
namespace {

absl::CommandLineFlag* Find(const Subcommand& subcommand, absl::string_view name) {
  const bool takes_it = std::any_of(subcommand.flags.begin(), subcommand.flags.end(),
                                    [name](absl::string_view flag) { return flag == name; });
  return takes_it ? absl::FindCommandLineFlag(name) : nullptr;
}

// One argument, taken apart.
struct Argument {
  absl::CommandLineFlag* flag = nullptr;
  absl::string_view name;
  absl::string_view value;
  bool has_value = false;
};

Argument TakeApart(const Subcommand& subcommand, absl::string_view text) {
  Argument argument;
  const size_t equals = text.find('=');
  argument.name = text.substr(0, equals);
  argument.has_value = equals != absl::string_view::npos;
  if (argument.has_value) argument.value = text.substr(equals + 1);
  argument.flag = Find(subcommand, argument.name);
  absl::string_view positive = argument.name;
  if (argument.flag == nullptr && !argument.has_value && absl::ConsumePrefix(&positive, "no")) {
    argument.flag = Find(subcommand, positive);
    argument.value = "false";
    argument.has_value = true;
    if (argument.flag != nullptr && !argument.flag->IsOfType<bool>()) argument.flag = nullptr;
  } else if (argument.flag != nullptr && !argument.has_value && argument.flag->IsOfType<bool>()) {
    argument.value = "true";
    argument.has_value = true;
  }
  return argument;
}

absl::Status UsageError(const Subcommand& subcommand, absl::string_view what) {
  return absl::InvalidArgumentError(absl::StrCat(what, "; see 'lossctl help ", subcommand.name, "'"));
}

}  // namespace

absl::Status SetFlags(const Subcommand& subcommand, std::span<const char* const> arguments) {
  for (size_t i = 0; i < arguments.size(); ++i) {
    absl::string_view text = arguments[i];
    if (!absl::ConsumePrefix(&text, "--")) {
      return UsageError(subcommand, absl::StrCat("'", text, "' is not a flag"));
    }
    Argument argument = TakeApart(subcommand, text);
    if (argument.flag == nullptr) {
      return UsageError(subcommand, absl::StrCat("'lossctl ", subcommand.name, "' has no flag --", argument.name));
    }
    if (!argument.has_value) {
      if (++i == arguments.size()) return UsageError(subcommand, absl::StrCat("--", argument.name, " needs a value"));
      argument.value = arguments[i];
    }
    std::string error;
    if (!argument.flag->ParseFrom(argument.value, &error)) return UsageError(subcommand, absl::StripSuffix(error, "."));
  }
  return absl::OkStatus();
}

std::string DescribeFlags(const Subcommand& subcommand) {
  std::string text;
  for (const char* name : subcommand.flags) {
    const absl::CommandLineFlag* flag = absl::FindCommandLineFlag(name);
    absl::StrAppend(&text, "  --", name, "=", flag->DefaultValue(), "\n      ", flag->Help(), "\n");
  }
  return text;
}

}  // namespace lossd
