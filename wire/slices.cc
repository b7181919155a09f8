#include "wire/slices.h"

#include <algorithm>
#include <cstring>
#include <utility>

namespace lossd {

Slices::Slices(const grpc::ByteBuffer& message) {
  valid_ = message.Valid() && message.Dump(&slices_).ok();
  std::erase_if(slices_, [](const grpc::Slice& slice) { return slice.size() == 0; });
  ends_.reserve(slices_.size());
  int64_t end = 0;
  for (const grpc::Slice& slice : slices_) ends_.push_back(end += static_cast<int64_t>(slice.size()));
}

Slices& Slices::operator=(Slices&& other) noexcept {
  Drop(slices_);
  valid_ = other.valid_;
  slices_ = std::move(other.slices_);
  ends_ = std::move(other.ends_);
  return *this;
}

// The last reference to received memory is dropped inside a function of gRPC's. A bare slice that goes on a thread that
// is not gRPC's crashes in gRPC 1.51 while memory is short: who waits for memory is then called back on the thread's
// ExecCtx, and only gRPC's threads have one.
void Slices::Drop(std::vector<grpc::Slice>& slices) noexcept {
  if (slices.empty()) return;
  const grpc::ByteBuffer last(slices.data(), slices.size());
  slices.clear();
}

size_t Slices::SliceAt(int64_t offset) const {
  return static_cast<size_t>(std::upper_bound(ends_.begin(), ends_.end(), offset) - ends_.begin());
}

void Slices::CopyTo(int64_t offset, int64_t size, void* to) const {
  std::byte* next = static_cast<std::byte*>(to);
  for (size_t i = SliceAt(offset); size > 0; ++i) {
    const int64_t n = std::min(size, ends_[i] - offset);
    std::memcpy(next, slices_[i].begin() + (offset - Begin(i)), static_cast<size_t>(n));
    next += n;
    offset += n;
    size -= n;
  }
}

const std::byte* Slices::Contiguous(int64_t offset, int64_t size) const {
  static constexpr std::byte kNothing{};
  if (size == 0) return &kNothing;
  return In(SliceAt(offset), offset, size);
}

const std::byte* Slices::In(size_t slice, int64_t offset, int64_t size) const {
  if (offset + size > ends_[slice]) return nullptr;
  return reinterpret_cast<const std::byte*>(slices_[slice].begin()) + (offset - Begin(slice));
}

void Slices::Release(int64_t offset, int64_t size) {
  std::vector<grpc::Slice> released;
  for (size_t i = SliceAt(offset); i < slices_.size() && ends_[i] <= offset + size; ++i) {
    if (Begin(i) >= offset) released.push_back(std::exchange(slices_[i], grpc::Slice()));
  }
  Drop(released);
}

const void* SliceReader::Read(int64_t offset, int64_t size, void* room) {
  if (size == 0) return room;
  if (!Holds(at_, offset)) at_ = Holds(at_ + 1, offset) ? at_ + 1 : slices_.SliceAt(offset);
  if (const std::byte* bytes = slices_.In(at_, offset, size)) return bytes;
  slices_.CopyTo(offset, size, room);
  return room;
}

void SliceCursor::Skip(int64_t bytes) {
  position_ += bytes;
  if (end_ - at_ > bytes) {
    at_ += bytes;
    return;
  }
  at_ = end_ = nullptr;
  if (position_ >= slices_.size()) return;
  const size_t i = slices_.SliceAt(position_);
  end_ = slices_.slices_[i].end();
  at_ = end_ - (slices_.ends_[i] - position_);
}

}  // namespace lossd
