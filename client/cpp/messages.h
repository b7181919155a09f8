// The client's plain values to and from the messages of proto/lossd/v1/loss.proto.
//
// The only place that knows both. What a server answers is not trusted: a tensor that is missing, of another type or
// shape than was asked, or whose bytes do not fill its shape becomes kInternal with a sentence that names the field.
#ifndef LOSSD_CLIENT_CPP_MESSAGES_H_
#define LOSSD_CLIENT_CPP_MESSAGES_H_

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/client.h"
#include "lossd/v1/loss.pb.h"

namespace lossd {

// Copies `batch`, tensors included, into the empty `request`. Checks only what the copy itself needs; all other rules
// are the server's. Before it copies anything it fails with kInvalidArgument for a shape without an element count, and
// with kResourceExhausted for more bytes than one message can carry.
absl::Status FillRequest(const Batch& batch, v1::EvaluateRequest* request);

// The answer to `batch`. Moves the tensors out of `response`, which is left in a valid but unspecified state.
absl::StatusOr<Evaluation> TakeEvaluation(const Batch& batch, v1::EvaluateResponse* response);

// Leaves out the types and outputs that this client has no name for.
ServerInfo ToServerInfo(const v1::GetServerInfoResponse& response);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_MESSAGES_H_
