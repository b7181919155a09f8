// One EvaluateStream that chunks of a batch go over.
//
//   begin -> started -> (write | read)* -> all answered: half-close -> the server ends -> finished
//   a stream that breaks: its unanswered chunks wait again -> pause -> begin, over a new connection
#ifndef LOSSD_CLIENT_CPP_CHUNK_STREAM_H_
#define LOSSD_CLIENT_CPP_CHUNK_STREAM_H_

#include <grpcpp/alarm.h>
#include <grpcpp/generic/generic_stub.h>
#include <grpcpp/grpcpp.h>

#include <array>
#include <cstdint>
#include <deque>
#include <memory>
#include <set>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "client/cpp/assembly.h"
#include "client/cpp/backoff.h"
#include "client/cpp/channels.h"
#include "client/cpp/chunks.h"
#include "client/cpp/lent_memory.h"
#include "wire/slices.h"

namespace lossd {

// What the streams of one call have in common. One thread uses it.
struct ChunkWork {
  const Chunks& chunks;
  const EvaluateOptions& options;
  const absl::Time deadline;
  Assembly assembly;
  std::set<int64_t> waiting = {};  // chunks that are to be sent
  int num_trying = 0;              // streams that have not given up
  absl::Status failure = {};       // why the call fails
  LentMemory memory = {};
  grpc::CompletionQueue queue = {};

  bool done() const { return assembly.num_added() == chunks.count(); }
  bool ended() const { return done() || !failure.ok(); }
  // `chunk` has been answered: tells the caller.
  void Report() const {
    if (options.progress) options.progress(assembly.elements_added(), chunks.plan().num_elements);
  }
};

// Driven by the events of the work's queue, all in one thread.
class ChunkStream {
 public:
  // The tag of everything that a stream puts into the queue: what has happened to which.
  enum class Step { kStarted, kWritten, kRead, kFinished, kAwake };
  struct Tag {
    ChunkStream* stream;
    Step step;
  };

  // Over channel `index`. `work` and `channels` outlive the stream, and the stream what it has put into the queue: it
  // is destroyed when not busy().
  ChunkStream(ChunkWork& work, const Channels& channels, int index);
  ChunkStream(const ChunkStream&) = delete;
  ChunkStream& operator=(const ChunkStream&) = delete;

  // Does what there is to do next, if anything.
  void Advance();
  // A tag of this stream has come out of the queue.
  void On(Step step, bool ok);
  // The work has ended: half-closes, or cancels after a failure and where there is no connection yet.
  void End();
  // Something of it is in the queue.
  bool busy() const { return operations_ > 0; }

 private:
  void* Expect(Step step);
  void Begin();
  void WriteNext();
  bool HasRoom() const;
  void Read();
  absl::Status Take(const Slices& message);
  absl::Status TakeError(int64_t chunk, const absl::Status& error);
  void Finished();
  // Before the next try. Gives up where there have been too many: what is waiting is left to other streams or, if no
  // other one is trying, fails the work.
  void Pause(const absl::Status& why);
  void Fail(const absl::Status& why);

  ChunkWork& work_;
  const Channels& channels_;
  const int index_;
  std::array<Tag, 5> tags_;
  int operations_ = 0;

  // Of the present call, while open_.
  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<grpc::GenericClientAsyncReaderWriter> call_;
  grpc::ByteBuffer received_;
  grpc::Status status_;
  std::deque<int64_t> sent_;  // chunks without an answer yet, in order
  int64_t sent_bytes_ = 0;    // of these
  bool open_ = false, started_ = false, writing_ = false, half_closed_ = false, read_all_ = false, finishing_ = false;

  Backoff backoff_;
  grpc::Alarm alarm_;
  bool pausing_ = false, given_up_ = false, has_broken_ = false;
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_CHUNK_STREAM_H_
