// The client's plain values to and from the messages of proto/lossd/v1/loss.proto.
//
// The only place that knows both. Tensors are sent from where the caller has them, and copied once from where gRPC
// received them. What a server answers is not trusted: a tensor that is missing, of another type or shape than was
// asked, or whose bytes do not fill its shape becomes kInternal with a sentence that names the field.
#ifndef LOSSD_CLIENT_CPP_MESSAGES_H_
#define LOSSD_CLIENT_CPP_MESSAGES_H_

#include <cstddef>
#include <cstdint>
#include <limits>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cpp/client.h"
#include "client/cpp/lent_memory.h"
#include "lossd/v1/loss.pb.h"
#include "wire/slices.h"
#include "wire/write.h"

namespace lossd {

// Protobuf counts the bytes of a message in int.
inline constexpr int64_t kMaxMessageBytes = std::numeric_limits<int32_t>::max();

// Upper bound of the request's size. Fails with kInvalidArgument for a shape without an element count, and with
// kResourceExhausted for more bytes than kMaxMessageBytes.
absl::StatusOr<int64_t> RequestBytes(const Batch& batch);

// Writes the fields of an EvaluateRequest. Those of large tensors refer to the caller's memory. Checks only what the
// size needs, before it lends anything, as RequestBytes() does; all other rules are the server's.
absl::Status WriteRequest(const Batch& batch, LentMemory& memory, MessageWriter& writer);

// Says where a tensor of the answer goes: `field` names it, and memory for the elements of `type` is returned, or null
// where they cannot be right.
using Place = absl::FunctionRef<std::byte*(Tensor Evaluation::*field, const TensorType& type)>;

// Reads an EvaluateResponse to `batch`: copies each tensor that was asked for, once found right, to its place, and the
// numbers into `evaluation`. After an error what is in these places is unspecified.
absl::Status ReadAnswer(const Batch& batch, const Slices& message, Place place, Evaluation& evaluation);

// The same, where `response` has been read from `message` by ParseMessage().
absl::Status ReadAnswer(const Batch& batch, const v1::EvaluateResponse& response, const Slices& message, Place place,
                        Evaluation& evaluation);

// The error of an answer that is not what was asked: kInternal, with the field and a sentence.
absl::Status Malformed(absl::string_view field, absl::string_view why);

// The type of the gradients that `batch` asks for.
DataType GradientType(const Batch& batch);

// Leaves out the types and outputs that this client has no name for.
ServerInfo ToServerInfo(const v1::GetServerInfoResponse& response);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_MESSAGES_H_
