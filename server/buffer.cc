#include "server/buffer.h"

#include <sys/mman.h>

#include <algorithm>
#include <bit>
#include <cstdlib>
#include <mutex>
#include <new>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace lossd {
namespace {

// In front of the data, at a distance of kAlignment.
struct Header {
  size_t capacity_bytes;  // of the whole block, header included
  bool pooled;
};
static_assert(sizeof(Header) <= Buffer::kAlignment);

constexpr size_t kPooledBytes = 1 << 18;   // from here on a block is the system's and the pool's
constexpr size_t kHugeBytes = 4 << 20;     // from here on pages of 2 MiB are worth asking for
constexpr size_t kMaxIdleBytes = 1 << 29;  // what the pool keeps at most

// Blocks of whole eighths of a power of two, so that calls of about the same size share them.
class Pool {
 public:
  static Pool& Instance() {
    static Pool* const pool = new Pool;  // outlives every thread that may still give back
    return *pool;
  }

  Header* Take(size_t bytes) {
    const size_t step = std::bit_floor(bytes) / 8;
    const size_t capacity = (bytes + step - 1) / step * step;
    {
      std::lock_guard<std::mutex> lock(mutex_);
      // The last one first: its memory is the warmest.
      for (auto idle = idle_.rbegin(); idle != idle_.rend(); ++idle) {
        if (idle->block->capacity_bytes != capacity) continue;
        Header* const block = idle->block;
        idle_.erase(std::next(idle).base());
        idle_bytes_ -= capacity;
        return block;
      }
    }
    void* memory = mmap(nullptr, capacity, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (memory == MAP_FAILED) return nullptr;
    if (capacity >= kHugeBytes) madvise(memory, capacity, MADV_HUGEPAGE);
    return new (memory) Header{capacity, true};
  }

  void Give(Header* block) {
    std::lock_guard<std::mutex> lock(mutex_);
    idle_.push_back({block, absl::Now()});
    idle_bytes_ += block->capacity_bytes;
    while (idle_bytes_ > kMaxIdleBytes) Drop();
  }

  void Trim(absl::Duration age) {
    std::lock_guard<std::mutex> lock(mutex_);
    const absl::Time since = absl::Now() - age;
    while (!idle_.empty() && idle_.front().since <= since) Drop();
  }

 private:
  struct Idle {
    Header* block;
    absl::Time since;
  };

  void Drop() {
    const size_t capacity = idle_.front().block->capacity_bytes;
    munmap(idle_.front().block, capacity);
    idle_.erase(idle_.begin());
    idle_bytes_ -= capacity;
  }

  std::mutex mutex_;
  std::vector<Idle> idle_;  // the oldest first
  size_t idle_bytes_ = 0;
};

Header* NewBlock(size_t bytes) {
  if (bytes >= kPooledBytes) return Pool::Instance().Take(bytes);
  const size_t rounded = (bytes + Buffer::kAlignment - 1) / Buffer::kAlignment * Buffer::kAlignment;
  void* memory = std::aligned_alloc(Buffer::kAlignment, rounded);
  return memory == nullptr ? nullptr : new (memory) Header{rounded, false};
}

}  // namespace

absl::StatusOr<Buffer> Buffer::Allocate(int64_t bytes) {
  Header* const block = NewBlock(static_cast<size_t>(bytes) + kAlignment);
  if (block == nullptr)
    return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes; retry later"));
  Buffer buffer;
  buffer.data_.reset(reinterpret_cast<std::byte*>(block) + kAlignment);
  buffer.size_ = bytes;
  return buffer;
}

void Buffer::Free(void* data) noexcept {
  if (data == nullptr) return;
  auto* const block = reinterpret_cast<Header*>(static_cast<std::byte*>(data) - kAlignment);
  if (block->pooled) {
    Pool::Instance().Give(block);
  } else {
    std::free(block);
  }
}

void Buffer::Trim(absl::Duration age) { Pool::Instance().Trim(age); }

}  // namespace lossd
