// The wire: from received bytes to a request, from results to bytes, from absl::Status to grpc::Status.
#ifndef LOSSD_SERVER_WIRE_H_
#define LOSSD_SERVER_WIRE_H_

#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <cstdint>
#include <memory>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "loss/loss.h"
#include "lossd/v1/loss.pb.h"
#include "server/buffer.h"
#include "wire/parse.h"
#include "wire/slices.h"
#include "wire/write.h"

namespace lossd {

// Where the contents of a tensor came from.
struct Contents {
  int64_t bytes = 0;                 // what it came with
  std::optional<int64_t> scattered;  // raw, in several slices: it begins here in the message, and the view has no data
};

// A decoded EvaluateRequest. The views of `inputs` point into what it holds.
struct Request {
  std::string job;
  std::optional<int64_t> step;
  Spec spec;
  Inputs inputs;
  InputSet<Contents> contents{};
  Slices message;
  std::shared_ptr<const void> storage;  // typed contents
  InputSet<Buffer> gathered;            // see Gather()
};

// Reads the fields of a request. Does not judge shapes, which MakePlan() does. Raw contents stay in the slices of
// `bytes`: tensors that lie in one of them are seen there, the others are gathered, or read in pieces.
// Errors: kInvalidArgument and kUnimplemented, naming the field; what `reserve` says.
absl::StatusOr<Request> Decode(grpc::ByteBuffer bytes, ReserveBytes reserve);

// The same for the message of a stream. `sequence` is its own as soon as it could be parsed, whatever is returned.
absl::StatusOr<Request> DecodeStreamed(grpc::ByteBuffer bytes, ReserveBytes reserve, int64_t& sequence);

// Every tensor has exactly the bytes that its shape and type ask for.
// REQUIRES: MakePlan() accepted TypesOf(request.inputs). Errors: kInvalidArgument with both numbers.
absl::Status CheckContents(const Request& request);

// What Gather() allocates.
int64_t ScatteredBytes(const Request& request, const InputSet<bool>& tensors);

// Moves the scattered ones of these tensors into memory of the request, and lets go of their slices. REQUIRES:
// CheckContents() is OK. Errors: kResourceExhausted, when the machine has no more memory.
absl::Status Gather(const InputSet<bool>& tensors, Request& request);

// Everything an EvaluateResponse says.
struct Answer {
  ResultTypes types;
  ResultSet<Buffer> buffers;
  Summary summary;
  double queue_seconds = 0;
  double compute_seconds = 0;
};

// An EvaluateResponse: its small fields serialised, its tensors referred to, not copied.
MessageWriter Encode(Answer answer);

// The EvaluateStreamResponse of a batch: its answer, or its error.
grpc::ByteBuffer EncodeStreamed(int64_t sequence, absl::StatusOr<MessageWriter> answer);

// Upper bound of the size of the EvaluateResponse of a plan.
int64_t MaxResponseBytes(const Plan& plan);

// A message without tensors, of at most kMaxSmallMessageBytes: whoever is not admitted may hold no more. Errors:
// kInvalidArgument where these bytes are not one.
inline constexpr size_t kMaxSmallMessageBytes = 1 << 16;
absl::Status ParseSmall(const grpc::ByteBuffer& bytes, google::protobuf::MessageLite& message);
grpc::ByteBuffer SerializeSmall(const google::protobuf::MessageLite& message);

// The one place where errors become what clients see. Very long messages are cut.
grpc::Status ToGrpcStatus(const absl::Status& status);

// "OK", "InvalidArgument", ...: the label values of grpc_server_handled_total.
const char* CodeName(absl::StatusCode code);

}  // namespace lossd

#endif  // LOSSD_SERVER_WIRE_H_
