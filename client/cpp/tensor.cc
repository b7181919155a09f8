#include "client/cpp/tensor.h"

#include <cstring>
#include <limits>
#include <new>

namespace lossd {
namespace {

constexpr std::align_val_t kAlignment{64};  // of a cache line, and of the longest vectors

}  // namespace

void Tensor::Free::operator()(std::byte* elements) const {
  if (owned) ::operator delete(elements, kAlignment);
}

Tensor::Tensor(const TensorType& type) : type_(type) {
  const auto bytes = static_cast<size_t>(size_bytes());
  elements_.reset(static_cast<std::byte*>(::operator new(bytes, kAlignment)));
}

Tensor::Tensor(const TensorType& type, std::byte* elements) : type_(type), elements_(elements, Free(false)) {}

Tensor::Tensor(const TensorType& type, absl::string_view bytes) : Tensor(type) {
  if (!bytes.empty()) std::memcpy(data(), bytes.data(), bytes.size());
}

double Tensor::scalar() const {
  if (shape().rank() != 0) return std::numeric_limits<double>::quiet_NaN();
  if (data_type() == DataType::kFloat32) return static_cast<double>(As<float>()[0]);
  if (data_type() == DataType::kFloat64) return As<double>()[0];
  return std::numeric_limits<double>::quiet_NaN();
}

}  // namespace lossd
