#include "client/cpp/npy.h"

#include <cstdint>
#include <fstream>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "client/cpp/npy_header.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

constexpr char kFloatHeader[] = "{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3), }";

// A file of the given version around `header`, whose length field says `header_bytes`.
std::string File(int version, const std::string& header, const std::string& data, uint64_t header_bytes) {
  std::string file("\x93NUMPY", 6);
  file += static_cast<char>(version);
  file += '\0';
  for (int i = 0; i < (version == 1 ? 2 : 4); ++i) file += static_cast<char>(header_bytes >> (8 * i) & 0xff);
  return file + header + data;
}

std::string File(int version, const std::string& header, const std::string& data) {
  return File(version, header, data, header.size());
}

std::string Read(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

std::string TempPath(const std::string& name) { return testing::TempDir() + "/" + name; }

std::string Counting(size_t num_bytes) {
  std::string bytes;
  for (size_t i = 0; i < num_bytes; ++i) bytes += static_cast<char>(i);
  return bytes;
}

TEST(NpyTest, EveryTypeAndShapeSurvivesTheRoundTrip) {
  const std::string path = TempPath("round_trip.npy");
  for (int type = 1; type <= static_cast<int>(DataType::kBool); ++type) {
    for (const Shape& shape : {Shape{}, Shape{0}, Shape{7}, Shape{2, 3}, Shape{2, 0, 3}, Shape{1, 2, 1, 3}}) {
      const TensorType tensor_type{static_cast<DataType>(type), shape};
      const std::string bytes = Counting(static_cast<size_t>(NumElements(shape) * SizeOf(tensor_type.data_type)));
      ASSERT_TRUE(WriteNpy(path, Tensor(tensor_type, bytes).view()).ok());
      absl::StatusOr<Tensor> read = ReadNpy(path);
      ASSERT_TRUE(read.ok()) << read.status();
      EXPECT_EQ(read->data_type(), tensor_type.data_type);
      EXPECT_EQ(read->shape(), shape);
      const std::span<const char> read_bytes = read->As<char>();
      EXPECT_EQ(std::string(read_bytes.begin(), read_bytes.end()), bytes);
    }
  }
}

TEST(NpyTest, WritesWhatNumPyWrites) {
  const std::string path = TempPath("golden.npy");
  ASSERT_TRUE(WriteNpy(path, Tensor({DataType::kUint8, {3}}, "abc").view()).ok());
  const std::string file = Read(path);
  EXPECT_THAT(file, StartsWith(absl::string_view("\x93NUMPY\x01\x00\x76\x00{'descr': '|u1', 'fortran_order': False, "
                                                 "'shape': (3,), }  ",
                                                 68)));
  EXPECT_EQ(file.size(), 128u + 3u);
  EXPECT_EQ(file.substr(127), "\nabc");
}

TEST(NpyTest, ReadsEveryVersionAndSpelling) {
  const std::string data = Counting(24);
  const std::string headers[] = {
      kFloatHeader,
      "{\"shape\":(2,3),\"descr\":\"<f4\",\"fortran_order\":False}",
      "  { 'fortran_order' : False , 'shape' : ( 2 , 3 , ) , 'descr' : '<f4' , }   \n",
  };
  for (const std::string& header : headers) {
    for (int version : {1, 2, 3}) {
      absl::StatusOr<Tensor> tensor = ParseNpy(File(version, header, data), "x.npy");
      ASSERT_TRUE(tensor.ok()) << header << ": " << tensor.status();
      EXPECT_EQ(tensor->shape(), Shape({2, 3}));
      EXPECT_EQ(tensor->data_type(), DataType::kFloat32);
    }
  }
}

struct RefusedHeader {
  const char* header;
  absl::StatusCode code;
  const char* message;
};

TEST(NpyTest, RefusesWithASentenceThatNamesTheFile) {
  const RefusedHeader cases[] = {
      {"{'descr': '<f4', 'fortran_order': True, 'shape': (2, 3), }", absl::StatusCode::kUnimplemented, "Fortran"},
      {"{'descr': '>f4', 'fortran_order': False, 'shape': (2, 3), }", absl::StatusCode::kUnimplemented, "'>f4'"},
      {"{'descr': '<u8', 'fortran_order': False, 'shape': (3,), }", absl::StatusCode::kUnimplemented, "'<u8'"},
      {"{'descr': '|O', 'fortran_order': False, 'shape': (3,), }", absl::StatusCode::kUnimplemented, "'|O'"},
      {"{'descr': [('x', '<f4')], 'fortran_order': False, 'shape': (3,), }", absl::StatusCode::kUnimplemented, "plain"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1,1), }",
       absl::StatusCode::kUnimplemented, "16 axes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 4), }", absl::StatusCode::kDataLoss, "24 bytes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4294967296, 4294967296), }", absl::StatusCode::kDataLoss,
       "24 bytes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387910,), }", absl::StatusCode::kDataLoss,
       "24 bytes"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (99999999999999999999,), }", absl::StatusCode::kDataLoss,
       "garbled"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (-6,), }", absl::StatusCode::kDataLoss, "garbled"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2 3), }", absl::StatusCode::kDataLoss, "garbled"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (,), }", absl::StatusCode::kDataLoss, "garbled"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (2, 3", absl::StatusCode::kDataLoss, "garbled"},
      {"{'descr': '<f4', 'descr': '<f4', 'fortran_order': False, 'shape': (6,), }", absl::StatusCode::kDataLoss,
       "garbled"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), 'more': 1}", absl::StatusCode::kDataLoss, "garbled"},
      {"{'descr': '<f4', 'fortran_order': False, }", absl::StatusCode::kDataLoss, "garbled"},
      {"{'descr': '<f4', 'fortran_order': False, 'shape': (6,), } x", absl::StatusCode::kDataLoss, "garbled"},
      {"{'descr': '<f4", absl::StatusCode::kUnimplemented, "plain"},
      {"{", absl::StatusCode::kDataLoss, "garbled"},
      {"", absl::StatusCode::kDataLoss, "garbled"},
  };
  for (const RefusedHeader& c : cases) {
    const absl::Status status = ParseNpy(File(1, c.header, Counting(24)), "weights.npy").status();
    EXPECT_EQ(status.code(), c.code) << c.header << ": " << status;
    EXPECT_THAT(std::string(status.message()), StartsWith("weights.npy ")) << c.header;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message)) << c.header;
  }
}

TEST(NpyTest, RefusesEveryTruncationAndExtension) {
  for (int version : {1, 2, 3}) {
    const std::string file = File(version, kFloatHeader, Counting(24));
    for (size_t length = 0; length < file.size(); ++length) {
      EXPECT_EQ(ParseNpy(file.substr(0, length), "x.npy").status().code(), absl::StatusCode::kDataLoss) << length;
    }
    EXPECT_EQ(ParseNpy(file + "x", "x.npy").status().code(), absl::StatusCode::kDataLoss);
  }
}

TEST(NpyTest, RefusesHeaderLengthsBeyondTheFile) {
  for (uint64_t length : {uint64_t{84}, uint64_t{65535}, uint64_t{0x7fffffff}, uint64_t{0xffffffff}}) {
    EXPECT_FALSE(ParseNpy(File(2, kFloatHeader, Counting(24), length), "x.npy").ok()) << length;
  }
  EXPECT_EQ(ParseNpy(File(4, kFloatHeader, Counting(24)), "x.npy").status().code(), absl::StatusCode::kUnimplemented);
  EXPECT_EQ(ParseNpy(File(0, kFloatHeader, Counting(24)), "x.npy").status().code(), absl::StatusCode::kUnimplemented);
}

TEST(NpyTest, EveryFlippedBitIsSurvived) {
  const std::string file = File(1, kFloatHeader, Counting(24));
  for (size_t bit = 0; bit < file.size() * 8; ++bit) {
    std::string flipped = file;
    flipped[bit / 8] = static_cast<char>(flipped[bit / 8] ^ (1 << bit % 8));
    absl::StatusOr<Tensor> tensor = ParseNpy(flipped, "x.npy");
    if (tensor.ok()) {
      EXPECT_EQ(static_cast<int64_t>(tensor->As<char>().size()),
                NumElements(tensor->shape()) * SizeOf(tensor->data_type()));
    }
  }
}

TEST(NpyTest, FilesThatCannotBeRead) {
  EXPECT_EQ(ReadNpy(TempPath("absent.npy")).status().code(), absl::StatusCode::kNotFound);
  EXPECT_FALSE(ReadNpy(testing::TempDir()).ok());
  EXPECT_FALSE(ReadNpy("/dev/zero").ok());
  EXPECT_FALSE(WriteNpy(TempPath("absent/x.npy"), Tensor({DataType::kUint8, {}}, "a").view()).ok());
}

TEST(NpyTest, AFullDiskIsAnError) {
  EXPECT_FALSE(WriteNpy("/dev/full", Tensor({DataType::kUint8, {1 << 20}}, std::string(1 << 20, 'a')).view()).ok());
}

}  // namespace
}  // namespace lossd
