#include "server/buffer.h"

#include <cstring>
#include <fstream>
#include <thread>
#include <vector>

#include "gtest/gtest.h"

namespace lossd {
namespace {

constexpr int64_t kMegabyte = 1 << 20;

Buffer Allocate(int64_t bytes) {
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(bytes);
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  return *std::move(buffer);
}

int64_t ResidentBytes() {
  int64_t total = 0, resident = 0;
  std::ifstream("/proc/self/statm") >> total >> resident;
  return resident * 4096;
}

TEST(BufferTest, EverySizeIsAlignedAndWhole) {
  for (const int64_t bytes : {0L, 1L, 63L, 64L, 65L, 4096L, 262079L, 262080L, 262081L, kMegabyte, 5 * kMegabyte + 7}) {
    const Buffer buffer = Allocate(bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer.data()) % Buffer::kAlignment, 0u) << bytes;
    EXPECT_EQ(buffer.size(), bytes);
    std::memset(buffer.data(), 0x5a, static_cast<size_t>(bytes));
  }
}

TEST(BufferTest, LargeOnesAreUsedAgain) {
  const std::byte* first = Allocate(3 * kMegabyte).data();
  EXPECT_EQ(Allocate(3 * kMegabyte).data(), first);
  EXPECT_EQ(Allocate(3 * kMegabyte + 1000).data(), first);  // of about the same size
  const Buffer held = Allocate(3 * kMegabyte);
  EXPECT_NE(Allocate(3 * kMegabyte).data(), held.data());
}

TEST(BufferTest, WhatWasReleasedIsGivenBackByFree) {
  Buffer buffer = Allocate(2 * kMegabyte);
  std::byte* const data = buffer.Release();
  EXPECT_FALSE(buffer);
  std::thread([data] { Buffer::Free(data); }).join();
  EXPECT_EQ(Allocate(2 * kMegabyte).data(), data);
}

TEST(BufferTest, TrimReturnsMemoryToTheSystem) {
  Buffer::Trim(absl::ZeroDuration());
  const int64_t before = ResidentBytes();
  {
    const Buffer buffer = Allocate(64 * kMegabyte);
    std::memset(buffer.data(), 1, static_cast<size_t>(buffer.size()));
    EXPECT_GT(ResidentBytes(), before + 60 * kMegabyte);
  }
  Buffer::Trim(absl::Hours(1));  // nothing is as old as that
  EXPECT_GT(ResidentBytes(), before + 60 * kMegabyte);
  Buffer::Trim(absl::ZeroDuration());
  EXPECT_LT(ResidentBytes(), before + 4 * kMegabyte);
}

TEST(BufferTest, WhatIsKeptHasALimit) {
  const int64_t before = ResidentBytes();
  int64_t one = 0;  // what 64 MB take: more, where a sanitizer keeps books
  std::vector<Buffer> buffers;
  for (int i = 0; i < 12; ++i) {
    buffers.push_back(Allocate(64 * kMegabyte));
    std::memset(buffers.back().data(), 1, static_cast<size_t>(buffers.back().size()));
    if (i == 0) one = ResidentBytes() - before;
  }
  EXPECT_GT(ResidentBytes(), before + 11 * one);
  buffers.clear();
  EXPECT_LT(ResidentBytes(), before + 9 * one);  // 512 MB
  Buffer::Trim(absl::ZeroDuration());
  EXPECT_LT(ResidentBytes(), before + one);
}

TEST(BufferTest, MoreThanThereIsIsAnError) {
  EXPECT_EQ(Buffer::Allocate(int64_t{1} << 46).status().code(), absl::StatusCode::kResourceExhausted);
}

TEST(BufferTest, ManyThreads) {
  std::vector<std::thread> threads;
  for (int t = 0; t < 4; ++t) {
    threads.emplace_back([t] {
      for (int i = 0; i < 300; ++i) {
        const Buffer buffer = Allocate((1 + (i + t) % 3) * kMegabyte / 2);
        std::memset(buffer.data(), t, 64);
        EXPECT_EQ(static_cast<int>(buffer.data()[63]), t);
      }
    });
  }
  for (std::thread& thread : threads) thread.join();
}

}  // namespace
}  // namespace lossd
