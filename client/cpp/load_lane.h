// One connection of a load: it starts calls and reaps what becomes of them.
#ifndef LOSSD_CLIENT_CPP_LOAD_LANE_H_
#define LOSSD_CLIENT_CPP_LOAD_LANE_H_

#include <grpcpp/channel.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/status.h>

#include <memory>
#include <mutex>
#include <optional>

#include "absl/time/time.h"
#include "client/cpp/load_counts.h"
#include "client/cpp/load_schedule.h"

namespace lossd {

// What all lanes of a run share. The members outlive the lanes.
struct LoadRun {
  const grpc::ByteBuffer& request;  // of every call; its slices are shared, never copied
  const absl::Duration timeout;
  const bool closed_loop;
  const bool honor_pushback;
  LoadSchedule& schedule;
  InFlight& in_flight;
};

// A lane has a number of slots; a slot is taken while its call is out. In a closed loop a slot whose call ended takes
// the schedule's next one at once, until there is none.
class LoadLane {
 public:
  virtual ~LoadLane() = default;
  // Starts a call; false, and nothing happens, where every slot is taken. Thread-safe.
  virtual bool Start(const Arrival& arrival) = 0;
  // Ends what has waited for an answer longer than the timeout, where it has no deadline of its own. Thread-safe.
  virtual void EndOverdue(int64_t now) = 0;

  LoadCounts counts() const;  // so far; thread-safe

 protected:
  explicit LoadLane(const LoadRun& run) : run_(run) {}
  // A slot is taken, or free.
  void Take() { run_.in_flight.Add(); }
  void Free() { run_.in_flight.Done(); }
  // Counts a call that has just ended. Returns the one that takes over its slot; without one the caller frees the slot.
  std::optional<Arrival> Finished(const Arrival& arrival, const CallOutcome& outcome);
  // Its two halves.
  void Count(const Arrival& arrival, const CallOutcome& outcome);
  std::optional<Arrival> Next() const;

  const LoadRun run_;

 private:
  mutable std::mutex mutex_;
  LoadCounts counts_;
};

// A lane of unary calls over `channel`, with `num_slots` slots and a thread of its own. Must not be destroyed before
// its calls have ended.
std::unique_ptr<LoadLane> MakeUnaryLane(const LoadRun& run, const std::shared_ptr<grpc::Channel>& channel,
                                        int num_slots);

// The same of messages over `num_streams` EvaluateStreams, each with its share of the slots as its window. Every
// message has its sequence number, and must be answered in its turn. Errors inside a stream are counted by their own
// codes; a stream that ends takes all its messages with it.
std::unique_ptr<LoadLane> MakeStreamLane(const LoadRun& run, const std::shared_ptr<grpc::Channel>& channel,
                                         int num_streams, int num_slots);

// The answer to one unary call of `request`, or the status it failed with.
grpc::Status CallOnce(const std::shared_ptr<grpc::Channel>& channel, const grpc::ByteBuffer& request,
                      absl::Duration timeout, grpc::ByteBuffer* response);

// The same for a stream of one message: the answer is an EvaluateStreamResponse.
grpc::Status StreamOnce(const std::shared_ptr<grpc::Channel>& channel, const grpc::ByteBuffer& request,
                        absl::Duration timeout, grpc::ByteBuffer* response);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_LOAD_LANE_H_
