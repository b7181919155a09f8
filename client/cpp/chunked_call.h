// A batch in chunks, over one or more streams.
#ifndef LOSSD_CLIENT_CPP_CHUNKED_CALL_H_
#define LOSSD_CLIENT_CPP_CHUNKED_CALL_H_

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/channels.h"
#include "client/cpp/chunks.h"
#include "client/cpp/client.h"

namespace lossd {

// Sends the chunks and puts the answer together, in the calling thread. Where a server has no streams, one call follows
// another. Returns only when nobody reads the batch any more. REQUIRES: a chunk fits into a message of the server's.
absl::StatusOr<Evaluation> CallInChunks(const Channels& channels, const Chunks& chunks, const EvaluateOptions& options,
                                        absl::Time deadline);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_CHUNKED_CALL_H_
