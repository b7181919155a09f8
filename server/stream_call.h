// EvaluateStream: batch after batch over one stream, computed while others are received and sent. Answers in the order
// of the requests; a batch that is refused is answered with its error, and the stream goes on.
#ifndef LOSSD_SERVER_STREAM_CALL_H_
#define LOSSD_SERVER_STREAM_CALL_H_

#include <deque>
#include <memory>
#include <mutex>
#include <optional>

#include "server/call.h"
#include "server/evaluation.h"
#include "server/rpc.h"

namespace lossd {

class StreamCall final : public CountedCall {
 public:
  StreamCall(const ServiceContext& context, Rpc& rpc)
      : CountedCall(context, rpc, "EvaluateStream"), drain_watch_(context.admission, [this] { OnDrain(); }) {}

  void OnStart() override;
  void OnRead(std::optional<grpc::ByteBuffer> message) override;
  void OnWrite(bool ok) override;
  void OnWake() override;

 private:
  // A batch that has been read and not yet been answered.
  struct Batch {
    BatchEvaluation evaluation;
    int64_t bytes = 0;  // of the message
    std::optional<grpc::ByteBuffer> answer;
  };

  void Begin(const grpc::ByteBuffer& message, BatchEvaluation::Patience patience);
  void Compute(Batch& batch);
  void Answer(Batch& batch, absl::StatusOr<MessageWriter> answer);
  void StopReading(const absl::Status& status);
  void OnDrain();

  // These REQUIRE that mutex_ is held.
  void Advance();
  void EndIfDraining();
  void ReadNext();
  void WriteNext();
  bool HasRoom() const;

  std::mutex mutex_;
  std::deque<std::unique_ptr<Batch>> batches_;  // in the order of the requests
  std::optional<grpc::ByteBuffer> waiting_;     // read, but there is no memory for it yet
  int64_t last_bytes_ = 0;                      // of the last message
  int64_t missed_bytes_ = 0;                    // of memory, so much waiting_ would hold
  bool reading_ = false, writing_ = false, waking_ = false;
  bool read_all_ = false, broken_ = false, finished_ = false;
  absl::Status end_;                         // what the stream ends with
  const Admission::DrainWatch drain_watch_;  // destroyed first: its call may be under way
};

}  // namespace lossd

#endif  // LOSSD_SERVER_STREAM_CALL_H_
