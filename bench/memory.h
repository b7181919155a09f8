// Memory of one tensor for as long as a group of cases runs: from the kernel, page-aligned, zero, never recycled.
#ifndef LOSSD_BENCH_MEMORY_H_
#define LOSSD_BENCH_MEMORY_H_

#include <sys/mman.h>

#include <cstddef>
#include <memory>
#include <new>

namespace lossd::bench {

class Memory {
 public:
  Memory() = default;
  // Ordinary pages are what the server's and PyTorch's allocations are made of, unless the system is set up otherwise.
  explicit Memory(size_t bytes, bool huge_pages = false) {
    const size_t mapped = (bytes + kSlack) / kSlack * kSlack;
    void* const data = mmap(nullptr, mapped, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (data == MAP_FAILED) throw std::bad_alloc();
    data_ = {static_cast<std::byte*>(data), Unmap{mapped}};
    if (huge_pages) madvise(data, mapped, MADV_HUGEPAGE);
  }

  std::byte* data() const { return data_.get(); }

 private:
  static constexpr size_t kSlack = size_t{1} << 16;  // loops over a limit's buffer may prefetch past its end

  struct Unmap {
    size_t bytes;
    void operator()(std::byte* data) const { munmap(data, bytes); }
  };
  std::unique_ptr<std::byte, Unmap> data_;
};

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_MEMORY_H_
