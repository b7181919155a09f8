#include "loss/types.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "loss/element.h"
#include "loss/spec.h"

namespace lossd {
namespace {

TEST(TypesTest, NumElements) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  const struct {
    Shape shape;
    int64_t want;
  } cases[] = {
      {{}, 1},
      {{0}, 0},
      {{3, 4}, 12},
      {{3, 0, 4}, 0},
      {{-1}, -1},
      {{0, -1}, -1},
      {{kMax}, kMax},
      {{kMax, 2}, -1},
      {{0, kMax, 2}, -1},
      {{int64_t{1} << 32, int64_t{1} << 32}, -1},
      {{int64_t{1} << 31, 4}, int64_t{1} << 33},
  };
  for (const auto& test : cases) EXPECT_EQ(NumElements(test.shape), test.want) << ToString(test.shape);
}

TEST(TypesTest, NamesOfEveryEnumerator) {
  EXPECT_STREQ(Name(DataType::kBool), "bool");
  EXPECT_STREQ(Name(static_cast<DataType>(99)), "unspecified");
  EXPECT_STREQ(Name(Output::kLogProbabilities), "OUTPUT_LOG_PROBABILITIES");
  EXPECT_STREQ(Name(Loss(KlDivergence())), "kl_divergence");
}

// Every 16-bit pattern survives the way there and back; what lies between two of them goes to the nearer, ties to even.
TEST(TypesTest, Float16RoundTrip) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const auto half = static_cast<uint16_t>(bits);
    const float value = FromFloat16(half);
    if (std::isnan(value)) {
      EXPECT_TRUE(std::isnan(FromFloat16(ToFloat16(value))));
    } else {
      ASSERT_EQ(ToFloat16(value), half) << bits;
    }
  }
}

TEST(TypesTest, Float16Rounds) {
  for (uint16_t bits = 0; bits < 0x7bff; ++bits) {
    const float low = FromFloat16(bits), high = FromFloat16(static_cast<uint16_t>(bits + 1));
    const float middle = (low + high) / 2;
    ASSERT_EQ(ToFloat16(middle), bits % 2 == 0 ? bits : bits + 1) << bits;
    ASSERT_EQ(ToFloat16(std::nextafter(middle, 1e6f)), bits + 1) << bits;
    ASSERT_EQ(ToFloat16(std::nextafter(middle, -1.0f)), bits) << bits;
  }
  EXPECT_EQ(ToFloat16(65504), 0x7bff);
  EXPECT_EQ(ToFloat16(65519.99f), 0x7bff);
  EXPECT_EQ(ToFloat16(65520), 0x7c00);
  EXPECT_EQ(ToFloat16(-HUGE_VALF), 0xfc00);
}

TEST(TypesTest, Bfloat16RoundTripAndRounding) {
  for (uint32_t bits = 0; bits < 0x10000; ++bits) {
    const float value = FromBfloat16(static_cast<uint16_t>(bits));
    if (std::isnan(value)) continue;
    ASSERT_EQ(ToBfloat16(value), bits);
  }
  EXPECT_EQ(ToBfloat16(1.00390625f), 0x3f80);  // a tie, to even
  EXPECT_EQ(ToBfloat16(1.01171875f), 0x3f82);  // a tie, to even
  EXPECT_EQ(ToBfloat16(std::nextafter(1.00390625f, 2.0f)), 0x3f81);
  EXPECT_EQ(ToBfloat16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_TRUE(std::isnan(FromBfloat16(ToBfloat16(std::nanf("")))));
}

// A double between two floats between two 16-bit values is rounded once, not twice.
TEST(TypesTest, DoublesAreRoundedOnce) {
  const double tie = 1.00390625;  // between two bfloat16; the float nearest to just above it is the tie itself
  EXPECT_EQ(ToBfloat16(tie * (1 + 1e-12)), 0x3f81);
  EXPECT_EQ(ToBfloat16(tie * (1 - 1e-12)), 0x3f80);
  const double half_tie = 1 + 0x1p-11;
  EXPECT_EQ(ToFloat16(half_tie + 1e-12), 0x3c01);
  EXPECT_EQ(ToFloat16(half_tie - 1e-12), 0x3c00);
  EXPECT_EQ(ToFloat16(1e-300), 0);
  EXPECT_EQ(ToFloat16(-1e300), 0xfc00);
}

TEST(TypesTest, IntegersOfEveryTypeAtAnyAlignment) {
  const unsigned char bytes[] = {0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff};
  const struct {
    DataType type;
    int64_t want;
  } cases[] = {
      {DataType::kInt8, -1},   {DataType::kInt16, -1},     {DataType::kInt32, -1},           {DataType::kInt64, -1},
      {DataType::kUint8, 255}, {DataType::kUint16, 65535}, {DataType::kUint32, 4294967295u}, {DataType::kBool, 1},
  };
  for (const auto& test : cases) EXPECT_EQ(IntegerAt({bytes + 1, {test.type, {1}}}, 0), test.want) << Name(test.type);
}

}  // namespace
}  // namespace lossd
