#include "server/log.h"

#include <google/protobuf/struct.pb.h>
#include <google/protobuf/util/json_util.h>

#include <algorithm>
#include <functional>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::MatchesRegex;

TEST(LogTest, EscapeJson) {
  struct Case {
    const char* name;
    std::string_view input;
    const char* want;
  };
  using namespace std::string_view_literals;
  const Case cases[] = {
      {"nothing", "", ""},
      {"plain", "job digits: 17 rows", "job digits: 17 rows"},
      {"quote", "a\"b", "a\\\"b"},
      {"backslash", "a\\b", "a\\\\b"},
      {"newline", "a\nb\r\n", "a\\u000ab\\u000d\\u000a"},
      {"zero byte", "a\0b"sv, "a\\u0000b"},
      {"escape sequence", "\x1b[31mred", "\\u001b[31mred"},
      {"delete", "\x7f", "\\u007f"},
      {"invalid UTF-8", "\xff\xfe", "\\u00ff\\u00fe"},
      {"last plain characters", " ~", " ~"},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    EXPECT_EQ(EscapeJson(test.input), test.want);
  }
}

TEST(LogTest, EscapeJsonKeepsEveryByteInsideAStringThatParses) {
  std::string all;
  for (int code = 0; code < 256; ++code) all += static_cast<char>(code);
  google::protobuf::Value value;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage("\"" + EscapeJson(all) + "\"", &value).ok());
  EXPECT_EQ(value.kind_case(), google::protobuf::Value::kStringValue);
}

// What `log` writes to standard error, as lines.
std::vector<std::string> LinesOf(LogFormat format, const std::string& level, const std::function<void()>& log) {
  ::testing::internal::CaptureStderr();
  StartLog(format, level);
  log();
  const std::string text = ::testing::internal::GetCapturedStderr();
  std::vector<std::string> lines;
  for (size_t begin = 0; begin < text.size();) {
    const size_t end = text.find('\n', begin);
    lines.push_back(text.substr(begin, end - begin));
    begin = end == std::string::npos ? text.size() : end + 1;
  }
  return lines;
}

constexpr char kTime[] = "[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9]{2}:[0-9]{2}:[0-9]{2}\\.[0-9]{3}[+-][0-9]{2}:[0-9]{2}";

TEST(LogTest, ATextLine) {
  const std::vector<std::string> lines = LinesOf(LogFormat::kText, "info", [] { LogInfo("serving {} 100 %"); });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], MatchesRegex(std::string(kTime) + " info serving \\{\\} 100 %"));
}

TEST(LogTest, AJsonLine) {
  const std::vector<std::string> lines =
      LinesOf(LogFormat::kJson, "info", [] { LogError("job \"x\"\n failed\\ \xff"); });
  ASSERT_EQ(lines.size(), 1u);
  google::protobuf::Struct parsed;
  ASSERT_TRUE(google::protobuf::util::JsonStringToMessage(lines[0], &parsed).ok()) << lines[0];
  EXPECT_EQ(parsed.fields().at("level").string_value(), "error");
  EXPECT_EQ(parsed.fields().at("message").string_value(), "job \"x\"\n failed\\ \u00ff");
  EXPECT_THAT(parsed.fields().at("time").string_value(), MatchesRegex(kTime));
}

TEST(LogTest, Levels) {
  struct Case {
    const char* level;
    std::vector<std::string> want;
  };
  const Case cases[] = {
      {"debug", {"debug d", "info i", "warning w", "error e"}},
      {"info", {"info i", "warning w", "error e"}},
      {"warning", {"warning w", "error e"}},
      {"error", {"error e"}},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.level);
    const std::vector<std::string> lines = LinesOf(LogFormat::kText, test.level, [] {
      LogDebug([] { return std::string("d"); });
      LogInfo("i");
      LogWarning("w");
      LogError("e");
    });
    ASSERT_EQ(lines.size(), test.want.size());
    for (size_t i = 0; i < lines.size(); ++i) EXPECT_THAT(lines[i], EndsWith(test.want[i]));
  }
}

TEST(LogTest, AnEventIsAlwaysOneLine) {
  const std::string hostile = "first\nsecond\r\n2026-01-01T00:00:00.000+00:00 error forged\x1b[2J\n\n";
  for (const LogFormat format : {LogFormat::kText, LogFormat::kJson}) {
    const std::vector<std::string> lines = LinesOf(format, "info", [&] { LogInfo(hostile); });
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_TRUE(std::all_of(lines[0].begin(), lines[0].end(), [](char c) { return c >= 0x20 && c < 0x7f; }));
  }
}

TEST(LogTest, ManyThreadsNeverShareALine) {
  constexpr int kThreads = 4, kEach = 200;
  const std::string message(300, 'm');
  const std::vector<std::string> lines = LinesOf(LogFormat::kText, "info", [&] {
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&] {
        for (int i = 0; i < kEach; ++i) LogInfo(message);
      });
    }
    for (std::thread& thread : threads) thread.join();
  });
  ASSERT_EQ(lines.size(), static_cast<size_t>(kThreads * kEach));
  for (const std::string& line : lines) EXPECT_THAT(line, MatchesRegex(std::string(kTime) + " info m{300}"));
}

TEST(LogTest, AVeryLongMessageIsStillOneLine) {
  const std::string message(1 << 20, 'x');
  const std::vector<std::string> lines = LinesOf(LogFormat::kText, "info", [&] { LogInfo(message); });
  ASSERT_EQ(lines.size(), 1u);
  EXPECT_THAT(lines[0], EndsWith(message));
}

}  // namespace
}  // namespace lossd
