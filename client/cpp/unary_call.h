// One batch, one Evaluate call.
#ifndef LOSSD_CLIENT_CPP_UNARY_CALL_H_
#define LOSSD_CLIENT_CPP_UNARY_CALL_H_

#include <grpcpp/client_context.h>

#include <optional>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cpp/channels.h"
#include "client/cpp/client.h"
#include "client/cpp/messages.h"

namespace lossd {

// Sends `batch` from where it lies and copies the answer's tensors to where `place` says, its numbers into
// `evaluation`. Where the server is full and says when to come back, comes back, a few times and not past the deadline.
// Returns only when nobody reads the batch any more.
absl::Status CallEvaluate(const Channels& channels, const Batch& batch, absl::Time deadline, Place place,
                          Evaluation& evaluation);

// The other way to answer CallEvaluate(): tensors of their own, in `evaluation`, but for what `options` have memory
// for.
absl::StatusOr<Evaluation> CallEvaluate(const Channels& channels, const Batch& batch, const EvaluateOptions& options,
                                        absl::Time deadline);

// When the server of a call that was refused, and has ended, wants to be asked again; nothing where it did not say.
std::optional<absl::Duration> PushbackOf(const grpc::ClientContext& context);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_UNARY_CALL_H_
