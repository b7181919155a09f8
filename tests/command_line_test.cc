#include "client/cpp/command_line.h"

#include <cstdint>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/reflection.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

ABSL_FLAG(std::string, word, "none", "A word.");
ABSL_FLAG(int64_t, number, 0, "A number.");
ABSL_FLAG(bool, loud, false, "A switch.");
ABSL_FLAG(bool, foreign, false, "A flag of another subcommand.");

namespace lossd {
namespace {

using ::testing::HasSubstr;

constexpr const char* kFlags[] = {"word", "number", "loud"};
constexpr Subcommand kSpeak = {"speak", "Speaks.", kFlags, nullptr};

TEST(CommandLineTest, TakesEverySpelling) {
  const absl::FlagSaver saver;
  ASSERT_TRUE(SetFlags(kSpeak, std::vector<const char*>{"--word=a=b", "--number", "-3", "--loud"}).ok());
  EXPECT_EQ(absl::GetFlag(FLAGS_word), "a=b");
  EXPECT_EQ(absl::GetFlag(FLAGS_number), -3);
  EXPECT_TRUE(absl::GetFlag(FLAGS_loud));
  ASSERT_TRUE(SetFlags(kSpeak, std::vector<const char*>{"--noloud", "--word="}).ok());
  EXPECT_FALSE(absl::GetFlag(FLAGS_loud));
  EXPECT_EQ(absl::GetFlag(FLAGS_word), "");
}

TEST(CommandLineTest, RefusesWithASentence) {
  const absl::FlagSaver saver;
  const struct {
    std::vector<const char*> arguments;
    const char* message;
  } cases[] = {
      {{"word"}, "'word' is not a flag"},
      {{"-word=a"}, "is not a flag"},
      {{"--words=a"}, "no flag --words"},
      {{"--foreign"}, "no flag --foreign"},
      {{"--noforeign"}, "no flag --noforeign"},
      {{"--nonumber"}, "no flag --nonumber"},
      {{"--"}, "no flag --"},
      {{"--word"}, "--word needs a value"},
      {{"--number=1x"}, "Illegal value '1x'"},
      {{"--loud=perhaps"}, "Illegal value 'perhaps'"},
      {{"--noloud=true"}, "no flag --noloud"},
  };
  for (const auto& c : cases) {
    const absl::Status status = SetFlags(kSpeak, c.arguments);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
    EXPECT_THAT(std::string(status.message()), HasSubstr("; see 'lossctl help speak'"));
  }
}

TEST(CommandLineTest, DescribesTheFlagsInTheirOrder) {
  EXPECT_EQ(DescribeFlags(kSpeak),
            "  --word=none\n      A word.\n  --number=0\n      A number.\n  --loud=false\n      A switch.\n");
}

}  // namespace
}  // namespace lossd
