// A tensor of an answer, or of a file.
#ifndef LOSSD_CLIENT_CPP_TENSOR_H_
#define LOSSD_CLIENT_CPP_TENSOR_H_

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/strings/string_view.h"
#include "loss/types.h"

namespace lossd {

// A dense, row-major tensor. Absent (false) when it was not asked for. It owns its elements, unless the caller gave it
// memory to refer to. Move-only: these can be gigabytes. Const members are thread-safe.
class Tensor {
 public:
  Tensor() = default;
  // Elements of its own, 64-byte aligned, not initialised: gigabytes of zeros would only be written over.
  // REQUIRES: NumElements(type.shape) >= 0, and type has a data type.
  explicit Tensor(const TensorType& type);
  // Refers to memory of the caller's, which outlives the tensor. REQUIRES: it has at least the bytes of `type`.
  Tensor(const TensorType& type, std::byte* elements);
  // A copy of `bytes`. REQUIRES: there are exactly as many as `type` asks for.
  Tensor(const TensorType& type, absl::string_view bytes);

  explicit operator bool() const { return static_cast<bool>(type_); }
  DataType data_type() const { return type_.data_type; }
  const TensorType& type() const { return type_; }
  const Shape& shape() const { return type_.shape; }
  int64_t size_bytes() const { return *this ? NumElements(type_.shape) * SizeOf(type_.data_type) : 0; }

  std::byte* data() { return elements_.get(); }
  const std::byte* data() const { return elements_.get(); }
  // Valid as long as the elements are.
  TensorView view() const { return {data(), type_}; }
  // The elements. REQUIRES: T is the C++ type of data_type(): float for kFloat32, int64_t for kInt64, ...
  template <typename T>
  std::span<const T> As() const {
    return {reinterpret_cast<const T*>(data()), static_cast<size_t>(size_bytes()) / sizeof(T)};
  }
  // The only element of a scalar float32 or float64 tensor; NaN for any other tensor.
  double scalar() const;

 private:
  struct Free {
    Free() : owned(true) {}
    explicit Free(bool own) : owned(own) {}
    bool owned;
    void operator()(std::byte* elements) const;
  };

  TensorType type_;
  std::unique_ptr<std::byte[], Free> elements_;
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_TENSOR_H_
