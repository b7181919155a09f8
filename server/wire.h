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
#include "server/buffer.h"

namespace lossd {

// A decoded EvaluateRequest. The views of `inputs` point into `storage`.
struct Request {
  std::string job;
  std::optional<int64_t> step;
  Spec spec;
  Inputs inputs;
  InputSet<int64_t> contents_bytes{};  // what each tensor came with
  std::shared_ptr<const void> storage;
  int64_t storage_bytes = 0;  // what `storage` holds
};

// Reads the fields of a request. Does not judge shapes, which MakePlan() does.
// Errors: kInvalidArgument and kUnimplemented, naming the field.
absl::StatusOr<Request> Decode(const grpc::ByteBuffer& bytes);

// Every tensor has exactly the bytes that its shape and type ask for.
// REQUIRES: MakePlan() accepted TypesOf(request.inputs). Errors: kInvalidArgument with both numbers.
absl::Status CheckContents(const Request& request);

// Everything an EvaluateResponse says.
struct Answer {
  ResultTypes types;
  ResultSet<Buffer> buffers;
  Summary summary;
  double queue_seconds = 0;
  double compute_seconds = 0;
};

// An EvaluateResponse: its small fields serialised, its tensors referred to, not copied.
grpc::ByteBuffer Encode(Answer answer);

// Upper bound of the size of the EvaluateResponse of a plan.
int64_t MaxResponseBytes(const Plan& plan);

// The one place where errors become what clients see. Very long messages are cut.
grpc::Status ToGrpcStatus(const absl::Status& status);

// "OK", "InvalidArgument", ...: the label values of grpc_server_handled_total.
const char* CodeName(absl::StatusCode code);

}  // namespace lossd

#endif  // LOSSD_SERVER_WIRE_H_
