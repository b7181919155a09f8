// Memory that gRPC reads in place, and when it has stopped doing so.
//
// gRPC may hold what it was given to send for longer than the call lasts: its transport may be in the middle of a
// write when the deadline passes. So every slice counts itself in and out, and the caller's memory is given back only
// when all are out.
#ifndef LOSSD_CLIENT_CPP_LENT_MEMORY_H_
#define LOSSD_CLIENT_CPP_LENT_MEMORY_H_

#include <grpcpp/support/slice.h>

#include <atomic>
#include <cstdint>

#include "loss/types.h"

namespace lossd {

class LentMemory {
 public:
  LentMemory() = default;
  LentMemory(const LentMemory&) = delete;
  LentMemory& operator=(const LentMemory&) = delete;

  // A slice that refers to the elements of `tensor`.
  // REQUIRES: neither they nor this object are gone before all_returned().
  grpc::Slice Lend(const TensorView& tensor) {
    const int64_t bytes = NumElements(tensor.type.shape) * SizeOf(tensor.type.data_type);
    slices_out_.fetch_add(1, std::memory_order_relaxed);
    // gRPC reads what it sends and does not write to it.
    return grpc::Slice(const_cast<void*>(tensor.data), static_cast<size_t>(bytes), &Return, &slices_out_);
  }

  // Nobody reads the memory any more. Once it is so it stays so, unless more is lent.
  bool all_returned() const { return slices_out_.load(std::memory_order_acquire) == 0; }

 private:
  static void Return(void* slices_out) {
    static_cast<std::atomic<int64_t>*>(slices_out)->fetch_sub(1, std::memory_order_release);
  }

  std::atomic<int64_t> slices_out_ = 0;
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_LENT_MEMORY_H_
