// One batch, one Evaluate call.
#ifndef LOSSD_CLIENT_CPP_UNARY_CALL_H_
#define LOSSD_CLIENT_CPP_UNARY_CALL_H_

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
absl::StatusOr<Evaluation> CallEvaluate(const Channels& channels, const Batch& batch, const EvaluateOptions& options);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_UNARY_CALL_H_
