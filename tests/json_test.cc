#include "client/cpp/json.h"

#include <cstdint>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

TEST(JsonTest, MembersKeepTheirOrder) {
  JsonObject json;
  EXPECT_EQ(json.str(), "{}");
  json.Add("b", int64_t{-1});
  json.Add("a", 0.1);
  json.Add("name", "x");
  json.AddJson("list", JsonArray(std::vector<int>{1, 2}, [](int value) { return std::string(absl::StrCat(value)); }));
  EXPECT_EQ(json.str(), R"({"b": -1, "a": 0.10000000000000001, "name": "x", "list": [1, 2]})");
}

TEST(JsonTest, WhatHasNoNumberIsAString) {
  JsonObject json;
  json.Add("n", std::numeric_limits<double>::quiet_NaN());
  json.Add("p", std::numeric_limits<double>::infinity());
  json.Add("m", -std::numeric_limits<double>::infinity());
  EXPECT_EQ(json.str(), R"({"n": "NaN", "p": "Infinity", "m": "-Infinity"})");
}

TEST(JsonTest, StringsAreEscaped) { EXPECT_EQ(JsonString("a\"\\\n\x1f ü"), R"("a\"\\\u000a\u001f ü")"); }

}  // namespace
}  // namespace lossd
