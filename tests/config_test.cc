#include "server/config.h"

#include <functional>
#include <limits>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::HasSubstr;

struct Case {
  const char* name;
  std::function<void(Config&)> change;
  const char* want;  // part of the message; empty: accepted
};

void Check(const Case& test) {
  SCOPED_TRACE(test.name);
  Config config;
  test.change(config);
  const absl::StatusOr<Config> resolved = Resolve(config);
  const bool accepted = test.want[0] == '\0';
  EXPECT_EQ(resolved.status().code(), accepted ? absl::StatusCode::kOk : absl::StatusCode::kInvalidArgument)
      << resolved.status();
  EXPECT_THAT(std::string(resolved.status().message()), HasSubstr(test.want));
}

TEST(ConfigTest, Numbers) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  const Case cases[] = {
      {"defaults", [](Config&) {}, ""},
      {"threads -1", [](Config& c) { c.threads = -1; }, "--threads=-1 is not allowed; it must be from 0 to 1024"},
      {"threads 1024", [](Config& c) { c.threads = 1024; }, ""},
      {"threads 1025", [](Config& c) { c.threads = 1025; }, "--threads=1025"},
      {"max_message_bytes 1023", [](Config& c) { c.max_message_bytes = 1023; }, "--max_message_bytes=1023"},
      {"max_message_bytes 1024", [](Config& c) { c.max_message_bytes = 1024; }, ""},
      {"max_message_bytes 2^31 - 1", [](Config& c) { c.max_message_bytes = 2147483647; }, ""},
      {"max_message_bytes 2^31", [](Config& c) { c.max_message_bytes = 2147483648; }, "from 1024 to 2147483647"},
      {"max_message_bytes 0", [](Config& c) { c.max_message_bytes = 0; }, "--max_message_bytes=0"},
      {"max_message_bytes 2^63 - 1", [](Config& c) { c.max_message_bytes = kMax; }, "--max_message_bytes=922337203685"},
      {"memory_budget_bytes -1", [](Config& c) { c.memory_budget_bytes = -1; }, "--memory_budget_bytes=-1"},
      {"budget of a PiB", [](Config& c) { c.memory_budget_bytes = int64_t{1} << 50; }, ""},
      {"budget of more", [](Config& c) { c.memory_budget_bytes = kMax; }, "and at most 2^50"},
      {"budget of one message", [](Config& c) { c.memory_budget_bytes = c.max_message_bytes; }, ""},
      {"budget under a message", [](Config& c) { c.memory_budget_bytes = c.max_message_bytes - 1; },
       "--memory_budget_bytes=268435455 is not allowed; it must be 0, or at least --max_message_bytes"},
      {"drain -1 s", [](Config& c) { c.drain = absl::Seconds(-1); }, "--drain_seconds=-1"},
      {"drain 0 s", [](Config& c) { c.drain = absl::ZeroDuration(); }, ""},
      {"drain a day", [](Config& c) { c.drain = absl::Hours(24); }, ""},
      {"drain a day and a second", [](Config& c) { c.drain = absl::Seconds(86401); }, "--drain_seconds=86401"},
      {"max_jobs -1", [](Config& c) { c.max_jobs = -1; }, "--max_jobs=-1"},
      {"max_jobs 0", [](Config& c) { c.max_jobs = 0; }, ""},
      {"max_jobs 1000000", [](Config& c) { c.max_jobs = 1000000; }, ""},
      {"max_jobs 1000001", [](Config& c) { c.max_jobs = 1000001; }, "--max_jobs=1000001"},
      {"log_level debug", [](Config& c) { c.log_level = "debug"; }, ""},
      {"log_level info", [](Config& c) { c.log_level = "info"; }, ""},
      {"log_level warning", [](Config& c) { c.log_level = "warning"; }, ""},
      {"log_level error", [](Config& c) { c.log_level = "error"; }, ""},
      {"log_level warn", [](Config& c) { c.log_level = "warn"; }, "--log_level=warn is not allowed"},
      {"log_level empty", [](Config& c) { c.log_level = ""; }, "it must be debug, info, warning or error"},
  };
  for (const Case& test : cases) Check(test);
}

struct AddressCase {
  const char* address;
  bool grpc, http;  // accepted by --grpc_listen, --http_listen
};

TEST(ConfigTest, Addresses) {
  const AddressCase cases[] = {
      {"0.0.0.0:50051", true, true},
      {"127.0.0.1:0", true, true},
      {"localhost:65535", true, true},
      {"[::1]:50051", true, true},
      {"unix:/tmp/lossd.sock", true, false},
      {"unix:", false, false},
      {"", false, false},
      {":50051", false, false},
      {"127.0.0.1", false, false},
      {"127.0.0.1:", false, false},
      {"127.0.0.1:-1", false, false},
      {"127.0.0.1:65536", false, false},
      {"127.0.0.1:4294967297", false, false},
      {"127.0.0.1:http", false, false},
      {"127.0.0.1:80s", false, false},
  };
  for (const AddressCase& test : cases) {
    const auto grpc = [&test](Config& c) { c.grpc_listen = {"127.0.0.1:0", test.address}; };
    Check({test.address, grpc, test.grpc ? "" : "host:port (0 to 65535) or unix:path"});
    const auto http = [&test](Config& c) { c.http_listen = test.address; };
    Check({test.address, http, test.http ? "" : "host:port (0 to 65535)"});
  }
  Check({"none", [](Config& c) { c.grpc_listen.clear(); }, "--grpc_listen= is not allowed; it must be at least one"});
  Check({"named", [](Config& c) { c.grpc_listen = {"nowhere"}; }, "--grpc_listen=nowhere is not allowed"});
}

TEST(ConfigTest, ZeroIsReplacedByWhatTheMachineAllows) {
  const absl::StatusOr<Config> config = Resolve(Config());
  ASSERT_TRUE(config.ok()) << config.status();
  EXPECT_EQ(config->threads, AvailableCores());
  EXPECT_EQ(config->memory_budget_bytes, std::max(AvailableMemoryBytes() / 2, config->max_message_bytes));
}

TEST(ConfigTest, WhatWasChosenIsKept) {
  Config config;
  config.threads = 3;
  config.max_message_bytes = 4096;
  config.memory_budget_bytes = 8192;
  config.max_jobs = 7;
  const absl::StatusOr<Config> resolved = Resolve(config);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  EXPECT_EQ(resolved->threads, 3);
  EXPECT_EQ(resolved->max_message_bytes, 4096);
  EXPECT_EQ(resolved->memory_budget_bytes, 8192);
  EXPECT_EQ(resolved->max_jobs, 7);
}

TEST(ConfigTest, ResolvingTwiceChangesNothing) {
  const absl::StatusOr<Config> once = Resolve(Config());
  ASSERT_TRUE(once.ok()) << once.status();
  const absl::StatusOr<Config> twice = Resolve(*once);
  ASSERT_TRUE(twice.ok()) << twice.status();
  EXPECT_EQ(twice->threads, once->threads);
  EXPECT_EQ(twice->memory_budget_bytes, once->memory_budget_bytes);
}

TEST(ConfigTest, TheMachineHasCoresAndMemory) {
  EXPECT_GE(AvailableCores(), 1);
  EXPECT_GT(AvailableMemoryBytes(), int64_t{1} << 20);
}

}  // namespace
}  // namespace lossd
