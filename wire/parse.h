// Parses a message of the contract without touching its bulk.
//
// What protobuf's own parser would do is right, but it would copy gigabytes into strings. So the message is read in two
// steps. First it is walked over, one field after the other, only as deep as there are tensors, and copied but for what
// is large: in place of the contents of each Tensor.raw stands a reference to where they are, 16 bytes long. What is
// left has a few hundred bytes and is a message of the same type: protobuf parses it. So every rule about duplicates,
// merging, oneofs, packed fields and UTF-8 is protobuf's own.
//
//   message  = field*                                 field = tag value
//   value    = varint | 8 bytes | 4 bytes | length, so many bytes | field* end-group
//   walked   : EvaluateStreamRequest.request, EvaluateStreamResponse.response, all fields of type Tensor
//   left out : fields that the contract does not know, at these levels
#ifndef LOSSD_WIRE_PARSE_H_
#define LOSSD_WIRE_PARSE_H_

#include <cstdint>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "lossd/v1/loss.pb.h"
#include "wire/slices.h"

namespace lossd {

// Where the contents of a Tensor.raw are in the message.
struct RawReference {
  int64_t offset = 0;
  int64_t size = 0;
};

// Asked before memory is taken for small fields and typed contents: beyond the first 64 KiB, and for everything they
// may grow to. Asked for 0 bytes after every 4,096 fields, so that who is asked may give up.
using ReserveBytes = absl::FunctionRef<absl::Status(int64_t bytes)>;

// Reads `bytes` into `message`, an EvaluateRequest, an EvaluateResponse or the message of a stream. Afterwards each
// Tensor.raw that is set holds a RawReference, see ReferenceOf(). Work is linear in the number of fields, and in the
// bytes of everything but raw contents. Thread-safe.
// Errors: kInvalidArgument where protobuf would not parse it; what `reserve` says.
absl::Status ParseMessage(const Slices& bytes, ReserveBytes reserve, google::protobuf::Message& message);

// The sequence of an EvaluateStreamRequest that could not be parsed, as far as it can be read: that of the first 4,095
// fields, before what is malformed; 0 where there is none.
int64_t SequenceOf(const Slices& bytes);

// REQUIRES: ParseMessage() has read `tensor`, and its contents are raw.
RawReference ReferenceOf(const v1::Tensor& tensor);

}  // namespace lossd

#endif  // LOSSD_WIRE_PARSE_H_
