// The C++ client of lossd: send a batch, get its loss and gradients. No gRPC or protobuf type appears here.
//
//   lossd::Client client("dns:///lossd:50051");
//   lossd::Batch batch;
//   batch.job = "digits";
//   batch.logits = {logits.data(), {lossd::DataType::kFloat32, {64, 10}}};
//   batch.targets = {labels.data(), {lossd::DataType::kInt64, {64}}};
//   batch.spec.outputs = {lossd::Output::kLogitsGradient};
//   absl::StatusOr<lossd::Evaluation> result = client.Evaluate(batch, absl::Seconds(5));
//   if (!result.ok()) ...                                   // the server's own words: result.status()
//   std::span<const float> gradient = result->logits_gradient.As<float>();
#ifndef LOSSD_CLIENT_CPP_CLIENT_H_
#define LOSSD_CLIENT_CPP_CLIENT_H_

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/tensor.h"
#include "loss/spec.h"
#include "loss/types.h"

namespace lossd {

// One request. The views are sent from where they are, and read until Evaluate() returns, no longer. Fields that stay
// as they are take the contract's defaults.
struct Batch {
  std::string job;              // [A-Za-z0-9_.:/-]{0,128}: the label of this job's metrics
  std::optional<int64_t> step;  // the job's training step
  Spec spec;
  TensorView logits;                // float; see the loss for shapes
  TensorView targets;               // class indices of an integer type, or probabilities of a float type
  TensorView target_probabilities;  // sparse probabilities, in the shape of `targets`
  TensorView class_weights;         // (C)
  TensorView sample_weights;        // element shape
  TensorView upstream_gradient;     // scalar, or the element shape with Reduction::kNone
};

// One answer. Tensors that were not asked for are absent.
struct Evaluation {
  Tensor loss;  // scalar, or the element shape with Reduction::kNone
  Summary summary;
  double queue_seconds = 0;  // of a batch in pieces: the sum over these, which overlap; compute_seconds too
  double compute_seconds = 0;
  Tensor element_loss;
  Tensor log_sum_exp;
  Tensor target_log_probability;
  Tensor predicted_class;
  Tensor entropy;
  Tensor probabilities;
  Tensor log_probabilities;
  Tensor targets_gradient;
  Tensor logits_gradient;
};

// How a batch is sent, and where its answer goes.
struct EvaluateOptions {
  absl::Duration timeout = absl::InfiniteDuration();  // of the whole, retries included

  // Batches with more bytes of logits than this, and those that no message carries, are sent in pieces: see Client.
  int64_t chunk_threshold_bytes = int64_t{16} << 20;
  int num_streams = 1;                       // that the pieces go over, each with a connection of its own; >= 1
  int64_t window_bytes = int64_t{24} << 20;  // sent over a stream and not yet answered, or two pieces if more

  // If it has bytes, the gradient of the logits is written here, and Evaluation::logits_gradient refers to it.
  // REQUIRES: as many bytes as the gradient has, or kInvalidArgument; no overlap with the batch. After an error its
  // contents are unspecified.
  std::span<std::byte> logits_gradient;

  // Called in the calling thread after each piece, with how many of the batch's elements are done; never decreases.
  // Must not throw.
  std::function<void(int64_t elements_done, int64_t num_elements)> progress;
};

struct ServerInfo {
  std::string version;
  std::string simd_target;
  int compute_threads = 0;
  int64_t max_message_bytes = 0;
  int64_t memory_budget_bytes = 0;
  std::vector<std::string> losses;
  std::vector<DataType> data_types;
  std::vector<Output> outputs;
  std::vector<std::string> extensions;
};

// A connection to one lossd, or to many behind one name. Thread-safe; make one and share it. Connects on first use and
// reconnects by itself.
//
// Every call blocks, takes a timeout, and answers with the server's status as absl::Status:
//   kInvalidArgument    the batch is wrong; the message names the field and both numbers. Do not retry.
//   kResourceExhausted  the server is full (try later), or the batch exceeds a limit that the message states.
//   kUnavailable        no server, or it is draining. kDeadlineExceeded: the timeout passed; safe to retry.
//   kUnimplemented      this server's build lacks the loss or an output.
// An answer that this host has no memory for is std::bad_alloc, as everywhere in C++.
// The client tries again by itself, a few times and within the timeout: after kUnavailable, and where a server that is
// full says when to come back.
//
// A large batch is cut between its elements (rows) into pieces of some megabytes, which go over one or more streams:
// upload, compute and download overlap, the server holds a few pieces whatever the batch, and there is no limit on the
// whole. The answer has the same bits as that of one call, and so has an error, which comes before anything is sent if
// it is about shapes or targets. A piece that was lost is sent again, by itself. What cannot be cut, as one row, must
// fit into the server's max_message_bytes.
class Client {
 public:
  // `target`: "host:port", "dns:///name:port" or "unix:/path"; see the gRPC naming document for more.
  explicit Client(const std::string& target);
  ~Client();
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  // One batch.
  absl::StatusOr<Evaluation> Evaluate(const Batch& batch, const EvaluateOptions& options) const;
  absl::StatusOr<Evaluation> Evaluate(const Batch& batch, absl::Duration timeout) const;

  absl::StatusOr<ServerInfo> GetServerInfo(absl::Duration timeout) const;

  // OK when the server says it serves `service` ("" is the server as a whole), kUnavailable when it says it does not.
  absl::Status CheckHealth(const std::string& service, absl::Duration timeout) const;

 private:
  absl::StatusOr<Evaluation> EvaluateInChunks(const Batch& batch, const EvaluateOptions& options,
                                              absl::Time deadline) const;
  absl::StatusOr<int64_t> MaxMessageBytes(absl::Time deadline) const;

  struct Connection;
  std::unique_ptr<Connection> connection_;
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_CLIENT_H_
