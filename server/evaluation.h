// One batch from its bytes to the bytes of its answer: what a unary call does once, and a stream for each message.
#ifndef LOSSD_SERVER_EVALUATION_H_
#define LOSSD_SERVER_EVALUATION_H_

#include <grpcpp/support/byte_buffer.h>

#include <cstdint>
#include <optional>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "server/call.h"
#include "server/rpc.h"
#include "server/wire.h"

namespace lossd {

// Enter(), Prepare(), Evaluate(), each once unless it says otherwise, on any thread. Holds its place and its memory
// until it is destroyed.
class BatchEvaluation {
 public:
  // Why a batch was refused for what the server is or has, rather than for what the batch is.
  enum class Refusal { kNone, kDraining, kQueue, kMemory, kAllocation, kTooLarge };

  // `context` and `rpc` outlive it.
  BatchEvaluation(const ServiceContext& context, const Rpc& rpc) : context_(context), rpc_(rpc) {}

  // Before the message is read. `declared_bytes`: its size, where the client has said it.
  absl::Status Enter(std::optional<int64_t> declared_bytes);

  // Whose thread decodes: one that others wait for, or one of the executor's.
  enum class Patience { kShort, kLong };
  // Decodes, plans and admits. Errors: every refusal that needs no look at a value; where patience is kShort and this
  // takes long, kAborted and takes_long(): to be called again with kLong.
  absl::Status Prepare(grpc::ByteBuffer message, Patience patience);
  // The same for the message of a stream, whose sequence it learns.
  absl::Status PrepareStreamed(grpc::ByteBuffer message, Patience patience);
  bool takes_long() const { return takes_long_; }
  int64_t sequence() const { return sequence_; }
  // The training job, as far as it is known: empty before Prepare().
  const std::string& job() const { return request_.job; }

  // So little work that handing it to another thread would cost more. REQUIRES: Prepare() is OK.
  bool IsSmall() const;

  // Checks values, computes, encodes. REQUIRES: Prepare() is OK; on a thread of the executor, unless IsSmall().
  absl::StatusOr<MessageWriter> Evaluate();

  // Of the last error.
  Refusal refusal() const { return refusal_; }
  // Whether other calls will give back what was missing.
  bool fits_later() const { return refusal_ == Refusal::kQueue || refusal_ == Refusal::kMemory; }
  // Whether another try may find more.
  bool may_retry() const { return fits_later() || refusal_ == Refusal::kAllocation; }
  // How much memory it would have held, if that was what was missing.
  int64_t missed_bytes() const { return missed_bytes_; }
  // Counts that refusal, if it was one.
  void CountRefusal() const;

 private:
  template <typename DecodeMessage>
  absl::Status PrepareMessage(grpc::ByteBuffer message, Patience patience, const DecodeMessage& decode);
  template <typename Step>
  auto Guard(const Step& step) noexcept -> decltype(step());
  absl::Status Admit();
  absl::Status Reserve(int64_t bytes);
  absl::Status Refuse(Refusal refusal, absl::Status status);
  int64_t NumWorkers() const;

  absl::StatusOr<MessageWriter> EvaluateOrThrow();
  bool ReadsPieces() const;         // the logits are read where they are, in the slices of the message
  InputSet<bool> Gathered() const;  // the scattered inputs that are copied as a whole
  bool IsInPlace() const;           // the logits are gathered, and overwritten by their gradient
  absl::Status AllocateResults(Answer& answer, Results& results);
  absl::StatusOr<std::vector<BlockSummary>> Compute(const Weights& weights, const Results& results);
  Inputs ReadWindow(Plan::Range blocks, std::byte* memory) const;
  void RecordBatch(const Summary& summary, double loss);

  const ServiceContext& context_;
  const Rpc& rpc_;
  absl::Time prepared_;
  Admission::Ticket ticket_;
  int64_t sequence_ = 0;
  Refusal refusal_ = Refusal::kNone;
  int64_t missed_bytes_ = 0;
  bool takes_long_ = false;
  Request request_;
  Plan plan_;
  InputSet<bool> window_{};   // copied from the slices of the message, a run of blocks at a time
  int64_t run_blocks_ = 1;    // that are evaluated together
  int64_t thread_bytes_ = 0;  // scratch and window of each thread
};

}  // namespace lossd

#endif  // LOSSD_SERVER_EVALUATION_H_
