// The bytes of a message as gRPC holds them: in slices of any length (at most 64 KiB where they were received), which
// begin and end anywhere, in the middle of a varint or of a float.
#ifndef LOSSD_WIRE_SLICES_H_
#define LOSSD_WIRE_SLICES_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstddef>
#include <cstdint>
#include <vector>

namespace lossd {

// Shares the slices of a message; copies nothing. Const members are thread-safe.
class Slices {
 public:
  Slices() = default;
  explicit Slices(const grpc::ByteBuffer& message);
  Slices(Slices&&) noexcept = default;
  Slices& operator=(Slices&& other) noexcept;
  ~Slices() { Drop(slices_); }

  // False for a buffer that never was a message.
  bool valid() const { return valid_; }
  int64_t size() const { return ends_.empty() ? 0 : ends_.back(); }

  // The bytes [offset, offset + size). REQUIRES: they are in [0, size()); `to` has room for them.
  void CopyTo(int64_t offset, int64_t size, void* to) const;

  // Where those bytes lie one after the other, unaligned and as long as the slices are held; null if they are in more
  // than one slice. Never null for no bytes.
  const std::byte* Contiguous(int64_t offset, int64_t size) const;

  // Lets go of the slices that hold none but these bytes, which are not to be read again. Not thread-safe.
  void Release(int64_t offset, int64_t size);

 private:
  friend class SliceCursor;
  friend class SliceReader;
  static void Drop(std::vector<grpc::Slice>& slices) noexcept;
  size_t SliceAt(int64_t offset) const;  // the slice that holds this byte
  // Those bytes in this slice, which holds the first; null if it does not hold all.
  const std::byte* In(size_t slice, int64_t offset, int64_t size) const;
  int64_t Begin(size_t slice) const { return slice == 0 ? 0 : ends_[slice - 1]; }

  bool valid_ = false;
  std::vector<grpc::Slice> slices_;  // none of them empty
  std::vector<int64_t> ends_;        // where each ends in the message
};

// Reads parts of a message, each near the one before.
class SliceReader {
 public:
  // `slices` outlive the reader.
  explicit SliceReader(const Slices& slices) : slices_(slices) {}

  // The bytes [offset, offset + size): in their place, unaligned, or copied to `room` if they are in more than one
  // slice. REQUIRES: they are in [0, size()).
  const void* Read(int64_t offset, int64_t size, void* room);

 private:
  bool Holds(size_t slice, int64_t offset) const {
    return slice < slices_.ends_.size() && offset >= slices_.Begin(slice) && offset < slices_.ends_[slice];
  }

  const Slices& slices_;
  size_t at_ = 0;  // the slice that the last one was in
};

// Reads a message from its beginning to its end. REQUIRES, everywhere: no more is read than is left.
class SliceCursor {
 public:
  // `slices` outlive the cursor.
  explicit SliceCursor(const Slices& slices) : slices_(slices) { Skip(0); }

  int64_t position() const { return position_; }
  uint8_t Next() {
    const uint8_t byte = *at_++;
    ++position_;
    if (at_ == end_) Skip(0);
    return byte;
  }
  void Skip(int64_t bytes);

 private:
  const Slices& slices_;
  int64_t position_ = 0;
  const uint8_t* at_ = nullptr;
  const uint8_t* end_ = nullptr;  // of the present slice
};

}  // namespace lossd

#endif  // LOSSD_WIRE_SLICES_H_
