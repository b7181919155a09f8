// The tensors of a request: all that protobuf reads arrives, and what is wrong is refused by its name.
#include <cmath>
#include <functional>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "loss/element.h"
#include "tests/wire_fixture.h"

namespace lossd {
namespace {

using ::testing::StartsWith;
using WireTensorTest = WireTest;

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// The names of all tensors of a request.
std::vector<const char*> InputNames() {
  std::vector<const char*> names;
  ForEachInput([&names](const char* name) { names.push_back(name); });
  return names;
}

TEST_F(WireTensorTest, EveryTensorIsRefusedByItsName) {
  struct Case {
    const char* name;
    std::function<void(v1::Tensor&)> change;
    const char* want;  // after the tensor's name
  };
  const Case cases[] = {
      {"no type", [](v1::Tensor& t) { t.set_raw("1234"); },
       ".data_type is unset; raw contents need it, e.g. DATA_TYPE_FLOAT32"},
      {"nothing at all", [](v1::Tensor&) {}, ".data_type is unset"},
      {"type 13", [](v1::Tensor& t) { t.set_data_type(static_cast<v1::DataType>(13)); },
       ".data_type = 13 is not a DataType"},
      {"type -1", [](v1::Tensor& t) { t.set_data_type(static_cast<v1::DataType>(-1)); },
       ".data_type = -1 is not a DataType"},
      {"type 257", [](v1::Tensor& t) { t.set_data_type(static_cast<v1::DataType>(257)); }, ".data_type = 257 is not"},
      {"17 axes", [](v1::Tensor& t) { t.mutable_shape()->Resize(17, 1); },
       ".shape has 17 axes; at most 16 are allowed"},
      {"floats as int32",
       [](v1::Tensor& t) {
         t.mutable_floats();
         t.set_data_type(v1::DATA_TYPE_INT32);
       },
       ".data_type is int32, which floats and doubles do not go with"},
      {"doubles as bool",
       [](v1::Tensor& t) {
         t.mutable_doubles();
         t.set_data_type(v1::DATA_TYPE_BOOL);
       },
       ".data_type is bool, which floats and doubles do not go with"},
      {"ints as float32",
       [](v1::Tensor& t) {
         t.mutable_ints();
         t.set_data_type(v1::DATA_TYPE_FLOAT32);
       },
       ".data_type is float32, which ints do not go with"},
      {"300 as int8",
       [](v1::Tensor& t) {
         t.mutable_ints()->add_values(0);
         t.mutable_ints()->add_values(300);
         t.set_data_type(v1::DATA_TYPE_INT8);
       },
       ": element 1 is 300, which int8 cannot hold"},
      {"1e39 as float32",
       [](v1::Tensor& t) {
         t.mutable_doubles()->add_values(1e39);
         t.set_data_type(v1::DATA_TYPE_FLOAT32);
       },
       ": element 0 is 1e+39, which float32 cannot hold"},
  };
  for (const char* field : InputNames()) {
    for (const Case& test : cases) {
      SCOPED_TRACE(std::string(field) + ": " + test.name);
      v1::EvaluateRequest message = FullRequest();
      v1::Tensor* tensor = MutableTensor(&message, field);
      tensor->Clear();
      test.change(*tensor);
      const absl::Status status = DecodeMessage(message).status();
      EXPECT_EQ(status.code(), kInvalid) << status;
      EXPECT_THAT(std::string(status.message()), StartsWith(std::string(field) + test.want));
    }
  }
}

TEST_F(WireTensorTest, EveryContentsOfTheWrongSizeIsRefusedByItsName) {
  for (const char* field : InputNames()) {
    for (const size_t bytes : {0, 1, 23, 25, 48}) {
      SCOPED_TRACE(std::string(field) + " of " + std::to_string(bytes));
      v1::EvaluateRequest message = FullRequest();
      SetRaw<char>(v1::DATA_TYPE_FLOAT32, {2, 3}, std::vector<char>(bytes), MutableTensor(&message, field));
      const absl::StatusOr<Request> request = DecodeMessage(message);
      ASSERT_TRUE(request.ok()) << request.status();
      const absl::Status status = CheckContents(*request);
      EXPECT_EQ(status.code(), kInvalid);
      EXPECT_EQ(status.message(),
                std::string(field) + " holds " + std::to_string(bytes) + " bytes; float32 of shape [2, 3] needs 24");
    }
  }
}

TEST_F(WireTensorTest, ContentsOfTheRightSize) {
  struct Case {
    const char* name;
    v1::DataType type;
    std::vector<int64_t> shape;
    size_t bytes;
  };
  const Case cases[] = {
      {"a scalar", v1::DATA_TYPE_FLOAT64, {}, 8},
      {"no elements", v1::DATA_TYPE_FLOAT32, {0}, 0},
      {"no elements of large rows", v1::DATA_TYPE_FLOAT32, {int64_t{1} << 40, 0, 1 << 20}, 0},
      {"two bytes each", v1::DATA_TYPE_BFLOAT16, {3, 5}, 30},
      {"one byte each", v1::DATA_TYPE_BOOL, {7}, 7},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    v1::EvaluateRequest message;
    SetRaw<char>(test.type, test.shape, std::vector<char>(test.bytes), message.mutable_logits());
    const absl::StatusOr<Request> request = DecodeMessage(message);
    ASSERT_TRUE(request.ok()) << request.status();
    EXPECT_TRUE(CheckContents(*request).ok()) << CheckContents(*request);
  }
}

// ---- typed contents ----

struct FloatCase {
  double value;
  v1::DataType type;
  double want;  // NaN: refused
};

constexpr double kRefused = std::numeric_limits<double>::quiet_NaN();

void ExpectStored(const FloatCase& test, const v1::EvaluateRequest& message) {
  SCOPED_TRACE(::testing::Message() << test.value << " as " << v1::DataType_Name(test.type));
  const absl::StatusOr<Request> request = DecodeMessage(message);
  EXPECT_EQ(request.ok(), !std::isnan(test.want)) << request.status();
  if (!request.ok()) return;
  EXPECT_TRUE(CheckContents(*request).ok());
  const TensorView& logits = request->inputs.logits;
  const bool stated = test.type != v1::DATA_TYPE_UNSPECIFIED;
  EXPECT_TRUE(!stated || static_cast<int>(logits.type.data_type) == static_cast<int>(test.type));
  EXPECT_EQ(FloatAt(logits, 0), test.want);
  EXPECT_EQ(std::signbit(FloatAt(logits, 0)), std::signbit(test.want));
}

TEST_F(WireTensorTest, DoublesBecomeTheTypeThatIsStated) {
  const double float_max = std::numeric_limits<float>::max();
  const FloatCase cases[] = {
      {0.1, v1::DATA_TYPE_UNSPECIFIED, 0.1},
      {0.1, v1::DATA_TYPE_FLOAT64, 0.1},
      {0.1, v1::DATA_TYPE_FLOAT32, double{0.1f}},
      {float_max, v1::DATA_TYPE_FLOAT32, float_max},
      {3.4028235677973362e38, v1::DATA_TYPE_FLOAT32, float_max},  // just under the midpoint to 2^128
      {0x1.ffffffp127, v1::DATA_TYPE_FLOAT32, kRefused},          // the midpoint, a tie to even
      {-1e39, v1::DATA_TYPE_FLOAT32, kRefused},
      {kInfinity, v1::DATA_TYPE_FLOAT32, kInfinity},
      {-kInfinity, v1::DATA_TYPE_FLOAT16, -kInfinity},
      {kInfinity, v1::DATA_TYPE_BFLOAT16, kInfinity},
      {1e-60, v1::DATA_TYPE_FLOAT32, 0},
      {-0.0, v1::DATA_TYPE_FLOAT16, -0.0},
      {65504, v1::DATA_TYPE_FLOAT16, 65504},
      {65519, v1::DATA_TYPE_FLOAT16, 65504},
      {65520, v1::DATA_TYPE_FLOAT16, kRefused},
      {-65520, v1::DATA_TYPE_FLOAT16, kRefused},
      {1e300, v1::DATA_TYPE_FLOAT16, kRefused},
      {1.0 / 3, v1::DATA_TYPE_FLOAT16, 0.333251953125},
      {2049, v1::DATA_TYPE_FLOAT16, 2048},  // ties to even
      {2051, v1::DATA_TYPE_FLOAT16, 2052},
      {0x1p-24, v1::DATA_TYPE_FLOAT16, 0x1p-24},  // the smallest subnormal
      {0x1p-25, v1::DATA_TYPE_FLOAT16, 0},
      {0x1.8p-25, v1::DATA_TYPE_FLOAT16, 0x1p-24},
      {0x1.ffcp-15, v1::DATA_TYPE_FLOAT16, 0x1p-14},  // from subnormal to normal
      {0x1.fep127, v1::DATA_TYPE_BFLOAT16, 0x1.fep127},
      {float_max, v1::DATA_TYPE_BFLOAT16, kRefused},
      {1e300, v1::DATA_TYPE_BFLOAT16, kRefused},
      {257, v1::DATA_TYPE_BFLOAT16, 256},
      {259, v1::DATA_TYPE_BFLOAT16, 260},
  };
  for (const FloatCase& test : cases) {
    v1::EvaluateRequest message;
    message.mutable_logits()->set_data_type(test.type);
    message.mutable_logits()->mutable_doubles()->add_values(test.value);
    ExpectStored(test, message);
  }
}

TEST_F(WireTensorTest, FloatsBecomeTheTypeThatIsStated) {
  const FloatCase cases[] = {
      {double{0.1f}, v1::DATA_TYPE_UNSPECIFIED, double{0.1f}},
      {double{0.1f}, v1::DATA_TYPE_FLOAT32, double{0.1f}},
      {double{0.1f}, v1::DATA_TYPE_FLOAT64, double{0.1f}},
      {1.5, v1::DATA_TYPE_FLOAT16, 1.5},
      {70000, v1::DATA_TYPE_FLOAT16, kRefused},
      {-1.5, v1::DATA_TYPE_BFLOAT16, -1.5},
  };
  for (const FloatCase& test : cases) {
    v1::EvaluateRequest message;
    message.mutable_logits()->set_data_type(test.type);
    message.mutable_logits()->mutable_floats()->add_values(static_cast<float>(test.value));
    ExpectStored(test, message);
  }
}

TEST_F(WireTensorTest, NanStaysNan) {
  for (const auto type : {v1::DATA_TYPE_UNSPECIFIED, v1::DATA_TYPE_FLOAT32, v1::DATA_TYPE_FLOAT64,
                          v1::DATA_TYPE_FLOAT16, v1::DATA_TYPE_BFLOAT16}) {
    v1::EvaluateRequest message;
    message.mutable_logits()->set_data_type(type);
    message.mutable_logits()->mutable_doubles()->add_values(std::nan(""));
    const absl::StatusOr<Request> request = DecodeMessage(message);
    ASSERT_TRUE(request.ok()) << request.status();
    EXPECT_TRUE(std::isnan(FloatAt(request->inputs.logits, 0))) << v1::DataType_Name(type);
  }
}

void ExpectInteger(v1::DataType type, int64_t value, bool held) {
  SCOPED_TRACE(::testing::Message() << value << " as " << v1::DataType_Name(type));
  v1::EvaluateRequest message;
  message.mutable_targets()->set_data_type(type);
  message.mutable_targets()->mutable_ints()->add_values(value);
  const absl::StatusOr<Request> request = DecodeMessage(message);
  ASSERT_EQ(request.ok(), held) << request.status();
  if (!held) return;
  EXPECT_TRUE(CheckContents(*request).ok());
  EXPECT_EQ(IntegerAt(request->inputs.targets, 0), value);
}

TEST_F(WireTensorTest, IntsBecomeTheTypeThatIsStatedIfItHoldsThem) {
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min(), kMax = std::numeric_limits<int64_t>::max();
  struct Case {
    v1::DataType type;
    int64_t low, high;
  };
  const Case cases[] = {
      {v1::DATA_TYPE_INT8, -128, 127},
      {v1::DATA_TYPE_INT16, -32768, 32767},
      {v1::DATA_TYPE_INT32, -2147483648LL, 2147483647},
      {v1::DATA_TYPE_UINT8, 0, 255},
      {v1::DATA_TYPE_UINT16, 0, 65535},
      {v1::DATA_TYPE_UINT32, 0, 4294967295},
      {v1::DATA_TYPE_BOOL, 0, 1},
  };
  for (const Case& test : cases) {
    for (const int64_t value : {test.low, test.high, int64_t{0}, int64_t{1}}) ExpectInteger(test.type, value, true);
    for (const int64_t value : {test.low - 1, test.high + 1, kMin, kMax, test.high + (int64_t{1} << 32)}) {
      ExpectInteger(test.type, value, false);
    }
  }
  for (const auto type : {v1::DATA_TYPE_INT64, v1::DATA_TYPE_UNSPECIFIED}) {
    for (const int64_t value : {kMin, int64_t{-1}, kMax}) ExpectInteger(type, value, true);
  }
}

// ---- differential: what protobuf reads is what Decode() says ----

// A tensor that Decode() accepts, of values that every type it may state holds exactly; its contents need not fill its
// shape.
void RandomTensor(std::mt19937_64& random, v1::Tensor* tensor) {
  const bool integers = random() % 2 == 0;
  const int type = integers ? v1::DATA_TYPE_INT8 + static_cast<int>(random() % 8) : 1 + static_cast<int>(random() % 4);
  for (uint64_t axis = random() % 5; axis > 0; --axis) tensor->add_shape(static_cast<int64_t>(random() % 7) - 1);
  const auto contents = random() % 3;
  if (contents == 0 || random() % 2 == 0) tensor->set_data_type(static_cast<v1::DataType>(type));
  if (contents == 0 && random() % 8 != 0) tensor->set_raw(std::string(random() % 100, static_cast<char>(random())));
  if (contents == 0) return;
  if (integers) tensor->mutable_ints();
  if (!integers && contents == 1) tensor->mutable_floats();
  if (!integers && contents == 2) tensor->mutable_doubles();
  for (uint64_t i = random() % 20; i > 0; --i) {
    const double value = static_cast<double>(random() % 256) / 8 - 16;
    if (integers) tensor->mutable_ints()->add_values(static_cast<int64_t>(random() % 2));
    if (tensor->has_floats()) tensor->mutable_floats()->add_values(static_cast<float>(value));
    if (tensor->has_doubles()) tensor->mutable_doubles()->add_values(value);
  }
}

template <typename Values>
void ExpectValues(const Values& want, DataType natural, const v1::Tensor& message, TensorView got, int64_t bytes) {
  const bool stated = message.data_type() != v1::DATA_TYPE_UNSPECIFIED;
  EXPECT_EQ(got.type.data_type, stated ? TypeOf(message).data_type : natural);
  EXPECT_EQ(bytes, want.size() * SizeOf(got.type.data_type));
  for (int i = 0; i < want.size(); ++i) {
    const double value = natural == DataType::kInt64 ? static_cast<double>(IntegerAt(got, i)) : FloatAt(got, i);
    EXPECT_EQ(value, static_cast<double>(want[i])) << i;
  }
}

void ExpectDecoded(const v1::Tensor& message, const TensorView& got, int64_t bytes) {
  EXPECT_EQ(got.type.shape, TypeOf(message).shape);
  if (message.has_floats()) {
    ExpectValues(message.floats().values(), DataType::kFloat32, message, got, bytes);
  } else if (message.has_doubles()) {
    ExpectValues(message.doubles().values(), DataType::kFloat64, message, got, bytes);
  } else if (message.has_ints()) {
    ExpectValues(message.ints().values(), DataType::kInt64, message, got, bytes);
  } else {
    EXPECT_EQ(got.type, TypeOf(message));
    EXPECT_EQ(std::string(static_cast<const char*>(got.data), static_cast<size_t>(bytes)), message.raw());
  }
}

TEST_F(WireTensorTest, EveryTensorFieldIsAnInput) {
  EXPECT_EQ(static_cast<int>(InputNames().size()), CountTensorFields(v1::EvaluateRequest::descriptor()));
}

TEST_F(WireTensorTest, EveryInputIsWhatProtobufReads) {
  std::mt19937_64 random(7);
  for (int round = 0; round < 3000; ++round) {
    SCOPED_TRACE(round);
    v1::EvaluateRequest message;
    for (const char* name : InputNames()) {
      if (random() % 3 != 0) RandomTensor(random, MutableTensor(&message, name));
    }
    const absl::StatusOr<Request> request = DecodeBuffer(BufferOf(message.SerializeAsString(), 1 + random() % 200));
    ASSERT_TRUE(request.ok()) << request.status();
    ForEachInput(
        [&](const char* name, const TensorView& got, const Contents& contents) {
          SCOPED_TRACE(name);
          ASSERT_EQ(static_cast<bool>(got), HasTensor(message, name));
          if (got) ExpectDecoded(TensorOf(message, name), got, contents.bytes);
        },
        request->inputs, request->contents);
  }
}

}  // namespace
}  // namespace lossd
