// Memory for one tensor of an answer: aligned for the kernels, not zeroed, given back by whoever sends it.
#ifndef LOSSD_SERVER_BUFFER_H_
#define LOSSD_SERVER_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"

namespace lossd {

class Buffer {
 public:
  static constexpr size_t kAlignment = 64;

  Buffer() = default;

  // Errors: kResourceExhausted, when the machine has no more memory.
  static absl::StatusOr<Buffer> Allocate(int64_t bytes) {
    Buffer buffer;
    const size_t rounded = (static_cast<size_t>(bytes) + kAlignment) / kAlignment * kAlignment;
    buffer.data_.reset(static_cast<std::byte*>(std::aligned_alloc(kAlignment, rounded)));
    buffer.size_ = bytes;
    if (buffer.data_ == nullptr) {
      return absl::ResourceExhaustedError(absl::StrCat("no memory for ", bytes, " bytes; retry later"));
    }
    return buffer;
  }

  std::byte* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  // Gives up ownership; the pointer is then to be passed to Free().
  std::byte* Release() { return data_.release(); }
  static void Free(void* data) { std::free(data); }

 private:
  struct Deleter {
    void operator()(std::byte* data) const { Free(data); }
  };
  std::unique_ptr<std::byte, Deleter> data_;
  int64_t size_ = 0;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_BUFFER_H_
