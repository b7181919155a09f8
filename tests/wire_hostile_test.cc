// Bytes that nobody sends by mistake: whatever they are, Decode() agrees with protobuf whether they are a message, and
// never crashes.
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "tests/wire_fixture.h"

namespace lossd {
namespace {

using WireHostileTest = WireTest;

bool WasParsed(const absl::Status& status) { return status.message().substr(0, 9) != "request: "; }

// Decodes hostile bytes: must not crash, and must agree with protobuf whether they are a message at all. What comes out
// is looked at as the service does.
void ExpectVerdictOfProtobuf(const std::string& bytes, size_t slice_bytes = kWhole) {
  v1::EvaluateRequest message;
  const bool parses = message.ParseFromString(bytes);
  const absl::StatusOr<Request> request = DecodeBuffer(BufferOf(bytes, slice_bytes));
  ASSERT_EQ(WasParsed(request.status()), parses) << request.status();
  EXPECT_TRUE(parses || request.status().code() == absl::StatusCode::kInvalidArgument) << request.status();
  if (!request.ok()) return;
  const absl::StatusOr<Plan> plan = MakePlan(request->spec, TypesOf(request->inputs));
  if (plan.ok() && CheckContents(*request).ok()) WeighElements(*plan, request->inputs).status().IgnoreError();
}

// Requests in which, together, every field says something.
std::vector<std::string> Requests() { return {FullRequest().SerializeAsString(), SparseRequest().SerializeAsString()}; }

TEST_F(WireHostileTest, EveryPrefix) {
  for (const std::string& bytes : Requests()) {
    for (size_t size = 0; size <= bytes.size(); ++size) {
      SCOPED_TRACE(size);
      ExpectVerdictOfProtobuf(bytes.substr(0, size));
      ExpectVerdictOfProtobuf(bytes.substr(0, size), 3);
    }
  }
}

TEST_F(WireHostileTest, EveryBitFlip) {
  for (const std::string& bytes : Requests()) {
    for (size_t bit = 0; bit < 8 * bytes.size(); ++bit) {
      SCOPED_TRACE(bit);
      std::string flipped = bytes;
      flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << (bit % 8)));
      ExpectVerdictOfProtobuf(flipped, bit % 2 == 0 ? kWhole : 5);
    }
  }
}

TEST_F(WireHostileTest, EveryByteReplacedBySomeOther) {
  for (const std::string& bytes : Requests()) {
    for (size_t at = 0; at < bytes.size(); ++at) {
      for (const int value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
        SCOPED_TRACE(::testing::Message() << at << " " << value);
        std::string changed = bytes;
        changed[at] = static_cast<char>(value);
        ExpectVerdictOfProtobuf(changed, 11);
      }
    }
  }
}

TEST_F(WireHostileTest, RandomBytes) {
  std::mt19937 random(17);
  for (int round = 0; round < 2000; ++round) {
    SCOPED_TRACE(round);
    std::string bytes(random() % 64, '\0');
    for (char& byte : bytes) byte = static_cast<char>(random());
    ExpectVerdictOfProtobuf(bytes, 1 + random() % 8);
  }
  std::string large(10 << 20, '\0');
  for (char& byte : large) byte = static_cast<char>(random());
  ExpectVerdictOfProtobuf(large, 65536);
}

std::string Repeat(const std::string& part, int count) {
  std::string text;
  for (int i = 0; i < count; ++i) text += part;
  return text;
}

TEST_F(WireHostileTest, HostileEncodings) {
  struct Case {
    const char* name;
    std::string bytes;
  };
  const Case cases[] = {
      {"length 0xFFFFFFFF", "\x7a\xff\xff\xff\xff\x0f"},
      {"length 2^31", "\x7a\x80\x80\x80\x80\x08"},
      {"length 2^63", "\x7a\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01"},
      {"length of 10 bytes of ones", "\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
      {"length of 11 bytes", "\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01"},
      {"inner length beyond the outer one", "\x7a\x02\x1a\x7f"},
      {"field number 0", std::string("\x00\x01", 2)},
      {"field number 2^29 - 1", "\xf8\xff\xff\xff\x0f\x01"},
      {"field number beyond 2^29", "\xf8\xff\xff\xff\x1f\x01"},
      {"wire type 6", "\x7e"},
      {"wire type 7", "\x7f"},
      {"wrong wire type for job", "\x08\x01"},
      {"wrong wire type for logits", "\x79\x01\x02\x03\x04\x05\x06\x07\x08"},
      {"outputs not packed", "\x20\x01\x20\x03"},
      {"outputs packed, cut inside", "\x22\x02\x01\x80"},
      {"end group without a start", "\x0c"},
      {"group of a known number", "\x7b\x7c"},
      {"group that does not end", "\x7b"},
      {"groups closed crosswise", "\x7b\x73\x7c\x74"},
      {"groups 1000 deep, closed", Repeat("\x7b", 1000) + Repeat("\x7c", 1000)},
      {"groups a million deep", Repeat("\x7b", 1000000)},
      {"groups a million deep, closed", Repeat("\x7b", 1000000) + Repeat("\x7c", 1000000)},
      {"a million empty logits", Repeat(std::string("\x7a\x00", 2), 1000000)},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    for (const size_t slice_bytes : {kWhole, size_t{4096}, size_t{1}}) {
      if (test.bytes.size() < 100 || slice_bytes > 1) ExpectVerdictOfProtobuf(test.bytes, slice_bytes);
    }
  }
}

// Groups up to protobuf's limit are skipped, deeper ones refused: never a stack that overflows.
TEST_F(WireHostileTest, DeepGroupsAreRefused) {
  const absl::Status shallow = DecodeBuffer(BufferOf(Repeat("\x7b", 50) + Repeat("\x7c", 50))).status();
  EXPECT_TRUE(shallow.ok()) << shallow;
  const absl::Status deep = DecodeBuffer(BufferOf(Repeat("\x7b", 1000000) + Repeat("\x7c", 1000000), 65536)).status();
  EXPECT_FALSE(WasParsed(deep)) << deep;
}

TEST_F(WireHostileTest, AShapeOfTenMillionEntries) {
  v1::EvaluateRequest message = FullRequest();
  message.mutable_logits()->mutable_shape()->Resize(10000000, 1);
  const absl::Status status = DecodeBuffer(BufferOf(message.SerializeAsString(), 65536)).status();
  EXPECT_EQ(status.code(), kInvalid);
  EXPECT_EQ(status.message(), "logits.shape has 10000000 axes; at most 16 are allowed");
}

TEST_F(WireHostileTest, ShapesThatOverflowAreMakePlansToRefuse) {
  const std::vector<std::vector<int64_t>> shapes = {{int64_t{1} << 32, int64_t{1} << 32},
                                                    {int64_t{1} << 61, 2},
                                                    {-1, 3},
                                                    {std::numeric_limits<int64_t>::min()},
                                                    {0, -1}};
  for (const std::vector<int64_t>& shape : shapes) {
    v1::EvaluateRequest message = FullRequest();
    message.mutable_logits()->mutable_shape()->Assign(shape.begin(), shape.end());
    const absl::StatusOr<Request> request = DecodeMessage(message);
    ASSERT_TRUE(request.ok()) << request.status();
    EXPECT_EQ(MakePlan(request->spec, TypesOf(request->inputs)).status().code(), kInvalid);
  }
}

}  // namespace
}  // namespace lossd
