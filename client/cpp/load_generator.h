// Loads a server with one request, over and over, and measures it.
//
// Closed loop: a number of calls are out at any time; one that ends is followed by the next. It finds throughput, and
// the latency of a client that waits. Open loop: calls arrive on a schedule, whatever became of those before; a latency
// counts from the scheduled arrival, so that a server which stalls is charged with everything that waited meanwhile
// (there is no coordinated omission). Calls are never retried: a refusal
// is a result.
//
// The request is serialised once and sent from the same memory by every call; answers are counted, not parsed. What is
// measured is gRPC and the server.
#ifndef LOSSD_CLIENT_CPP_LOAD_GENERATOR_H_
#define LOSSD_CLIENT_CPP_LOAD_GENERATOR_H_

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <functional>
#include <optional>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/client.h"
#include "client/cpp/load_counts.h"

namespace lossd {

enum class Calls { kUnary, kStream };

struct LoadOptions {
  std::string target;
  Calls calls = Calls::kUnary;
  int num_channels = 1;            // each a connection, with a thread of this process
  int num_streams = 0;             // EvaluateStreams, over all channels; 0: one on each
  std::optional<int> concurrency;  // closed loop: calls out at any time, over all channels; unset: as few as possible
  std::optional<double> rate;      // open loop: arrivals a second, evenly spaced, over all channels
  int max_outstanding = 1000;      // open loop: what arrives while so many are out is dropped
  bool honor_pushback = false;     // closed loop, unary: a loop that is refused waits as long as the server asks
  int frame_bytes = 0;             // HTTP/2 frames that this client takes; 0: as gRPC has it
  absl::Duration warmup = absl::Seconds(1);    // not counted
  std::optional<absl::Duration> duration;      // of what is counted; 10 s if neither this nor count is set
  std::optional<int64_t> count;                // calls that are counted
  absl::Duration timeout = absl::Seconds(30);  // for each call
};

// EvaluateStreams over all channels; 0 with unary calls.
int NumStreams(const LoadOptions& options);
// Calls that may be out at a time: of an open loop at most.
int NumSlots(const LoadOptions& options);

struct LoadResult {
  LoadCounts counts;
  int64_t num_dropped = 0;  // arrivals that were not even sent
};

// kInvalidArgument, with a sentence that names the flag of lossctl bench, for options that make no sense.
absl::Status CheckLoadOptions(const LoadOptions& options);

// The message of `batch` as it goes over the wire, in one slice.
absl::StatusOr<grpc::ByteBuffer> SerializeRequest(const Batch& batch);

// Whether `response`, of a call of this kind, is an answer to `batch`, whose tensors need not exist any more: only
// their types and shapes count. An error inside a stream becomes its status.
absl::Status CheckResponse(Calls calls, const Batch& batch, const grpc::ByteBuffer& response);

// Connects, makes one call whose answer `check` must accept, and then runs the load. `progress` is called every second,
// with what was counted so far. Fails where it cannot connect, or where the first call failed; afterwards failed calls
// are counted. REQUIRES: CheckLoadOptions(options).ok().
absl::StatusOr<LoadResult> RunLoad(const LoadOptions& options, const grpc::ByteBuffer& request,
                                   const std::function<absl::Status(const grpc::ByteBuffer&)>& check,
                                   const std::function<void(const LoadResult&)>& progress);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_LOAD_GENERATOR_H_
