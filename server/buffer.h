// Memory for one tensor: aligned for the kernels, not zeroed, and kept for the next call when it is given back, so that
// large answers are not faulted in page by page each time.
#ifndef LOSSD_SERVER_BUFFER_H_
#define LOSSD_SERVER_BUFFER_H_

#include <cstddef>
#include <cstdint>
#include <memory>

#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace lossd {

class Buffer {
 public:
  static constexpr size_t kAlignment = 64;

  Buffer() = default;

  // Thread-safe. Errors: kResourceExhausted, when the machine has no more memory.
  static absl::StatusOr<Buffer> Allocate(int64_t bytes);

  std::byte* data() const { return data_.get(); }
  int64_t size() const { return size_; }
  explicit operator bool() const { return data_ != nullptr; }
  // Gives up ownership; the pointer is then to be passed to Free(), on any thread.
  std::byte* Release() { return data_.release(); }
  static void Free(void* data) noexcept;

  // Returns memory to the system that nobody has used for `age`.
  static void Trim(absl::Duration age);

 private:
  struct Deleter {
    void operator()(std::byte* data) const { Free(data); }
  };
  std::unique_ptr<std::byte, Deleter> data_;
  int64_t size_ = 0;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_BUFFER_H_
