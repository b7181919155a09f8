// Writes a message of the contract as a few slices: small fields are serialised, the contents of large tensors are
// referred to, not copied.
#ifndef LOSSD_WIRE_WRITE_H_
#define LOSSD_WIRE_WRITE_H_

#include <google/protobuf/message_lite.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <cstdint>
#include <string>
#include <vector>

#include "loss/types.h"

namespace lossd {

// Raw contents up to this size are cheaper copied than referred to: MessageWriter::Tensor() has copied them when it
// returns.
inline constexpr int64_t kCopiedContentsBytes = 4096;

// Upper bound of what a request or an answer has beside the contents of its tensors, generously.
inline constexpr int64_t kMaxSmallFieldsBytes = 4096;

// Appends the varint of `value`.
void AppendVarint(uint64_t value, std::string& text);

// Fields appear in the order of the calls.
class MessageWriter {
 public:
  // All fields of another message.
  void Fields(const google::protobuf::MessageLite& message);

  // A field that holds a message.
  void Field(int number, const google::protobuf::MessageLite& message);

  // A field that holds a Tensor with raw contents. REQUIRES: contents.size() is what `type` asks for.
  void Tensor(int number, const TensorType& type, grpc::Slice contents);

  // What has been written becomes a field of another message, after all fields of `head`.
  void Wrap(const google::protobuf::MessageLite& head, int number);

  int64_t size() const { return flushed_bytes_ + static_cast<int64_t>(text_.size()); }

  // The message. The writer is empty afterwards.
  grpc::ByteBuffer Finish();

 private:
  void TagAndLength(int number, int64_t length);
  void Flush();

  std::string text_;  // not yet in slices_
  std::vector<grpc::Slice> slices_;
  int64_t flushed_bytes_ = 0;
};

}  // namespace lossd

#endif  // LOSSD_WIRE_WRITE_H_
