#include "client/cpp/load_generator.h"

#include <grpcpp/create_channel.h>
#include <grpcpp/security/credentials.h>
#include <grpcpp/support/channel_arguments.h>
#include <sys/prctl.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <memory>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/channels.h"
#include "client/cpp/load_lane.h"
#include "client/cpp/load_schedule.h"
#include "client/cpp/messages.h"
#include "wire/parse.h"

namespace lossd {
namespace {

constexpr absl::Duration kDefaultDuration = absl::Seconds(10);
constexpr absl::Duration kProgressInterval = absl::Seconds(1);
constexpr int kMaxChannels = 1000;
constexpr int kMaxStreams = 100'000;
constexpr int kMaxSlots = 1'000'000;
constexpr double kMaxRate = 1e6;

// As the client library's channels, but for retries: here each call is one try.
grpc::ChannelArguments ChannelArguments(const LoadOptions& options) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetMaxSendMessageSize(-1);
  arguments.SetCompressionAlgorithm(GRPC_COMPRESS_NONE);
  arguments.SetInt(GRPC_ARG_ENABLE_RETRIES, 0);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // otherwise all channels share a connection
  if (options.frame_bytes > 0) arguments.SetInt(GRPC_ARG_HTTP2_MAX_FRAME_SIZE, options.frame_bytes);
  return arguments;
}

absl::StatusOr<std::vector<std::shared_ptr<grpc::Channel>>> Connect(const LoadOptions& options) {
  const auto deadline = absl::ToChronoTime(absl::Now() + options.timeout);
  std::vector<std::shared_ptr<grpc::Channel>> channels;
  for (int i = 0; i < options.num_channels; ++i) {
    channels.push_back(
        grpc::CreateCustomChannel(options.target, grpc::InsecureChannelCredentials(), ChannelArguments(options)));
    channels.back()->GetState(/*try_to_connect=*/true);
  }
  for (const auto& channel : channels) {
    if (!channel->WaitForConnected(deadline)) return absl::UnavailableError("cannot connect");
  }
  return channels;
}

// The share of lane `index` of `num_lanes`.
int Share(int total, int index, int num_lanes) { return (total + num_lanes - 1 - index) / num_lanes; }

// Every stream needs one, and every channel.
int FewestSlots(const LoadOptions& options) { return std::max(NumStreams(options), options.num_channels); }

class Load {
 public:
  Load(const LoadOptions& options, const grpc::ByteBuffer& request,
       const std::vector<std::shared_ptr<grpc::Channel>>& channels)
      : options_(options),
        num_slots_(NumSlots(options)),
        schedule_(options.warmup,
                  options.duration.value_or(options.count ? absl::InfiniteDuration() : kDefaultDuration),
                  options.count) {
    const LoadRun run = {request, options.timeout, !options.rate, options.honor_pushback, schedule_, in_flight_};
    const int num_lanes = static_cast<int>(channels.size());
    for (int i = 0; i < num_lanes; ++i) {
      const auto& channel = channels[static_cast<size_t>(i)];
      const int num_slots = Share(num_slots_, i, num_lanes);
      lanes_.push_back(options.calls == Calls::kUnary
                           ? MakeUnaryLane(run, channel, num_slots)
                           : MakeStreamLane(run, channel, Share(NumStreams(options), i, num_lanes), num_slots));
    }
  }

  LoadResult Run(const std::function<void(const LoadResult&)>& progress) {
    in_flight_.Add();  // the thread that starts the calls
    std::thread starter([this] {
      if (options_.rate) {
        RunSchedule(*options_.rate);
      } else {
        FillSlots();
      }
      in_flight_.Done();
    });
    while (!in_flight_.AwaitNone(kProgressInterval)) {
      for (const auto& lane : lanes_) lane->EndOverdue(SteadyNanos());
      progress(Result());
    }
    starter.join();
    return Result();
  }

 private:
  void FillSlots() {
    for (int i = 0; i < num_slots_; ++i) {
      const std::optional<Arrival> arrival = schedule_.Claim(SteadyNanos());
      if (!arrival) return;
      lanes_[static_cast<size_t>(i) % lanes_.size()]->Start(*arrival);
    }
  }

  // Late arrivals start at once, and are late by their own clocks.
  void RunSchedule(double rate) {
    prctl(PR_SET_TIMERSLACK, 1UL, 0UL, 0UL, 0UL);  // wake when asked, not up to 50 us later
    for (int64_t i = 0;; ++i) {
      const int64_t nanos = schedule_.start_nanos() + static_cast<int64_t>(static_cast<double>(i) * 1e9 / rate);
      const std::optional<Arrival> arrival = schedule_.Claim(nanos);
      if (!arrival) return;
      std::this_thread::sleep_until(std::chrono::steady_clock::time_point(std::chrono::nanoseconds(nanos)));
      if (!StartOnAny(*arrival, static_cast<size_t>(i)) && arrival->counted) ++num_dropped_;
    }
  }

  bool StartOnAny(const Arrival& arrival, size_t first) {
    for (size_t i = 0; i < lanes_.size(); ++i) {
      if (lanes_[(first + i) % lanes_.size()]->Start(arrival)) return true;
    }
    return false;
  }

  LoadResult Result() const {
    LoadResult result;
    for (const auto& lane : lanes_) result.counts.Merge(lane->counts());
    result.num_dropped = num_dropped_;
    return result;
  }

  const LoadOptions& options_;
  const int num_slots_;
  LoadSchedule schedule_;
  InFlight in_flight_;
  std::atomic<int64_t> num_dropped_ = 0;
  std::vector<std::unique_ptr<LoadLane>> lanes_;
};

}  // namespace

int NumStreams(const LoadOptions& options) {
  return options.calls == Calls::kUnary ? 0 : std::max(options.num_streams, options.num_channels);
}

int NumSlots(const LoadOptions& options) {
  return options.rate ? options.max_outstanding : options.concurrency.value_or(FewestSlots(options));
}

absl::Status CheckLoadOptions(const LoadOptions& options) {
  const auto invalid = [](auto... words) { return absl::InvalidArgumentError(absl::StrCat(words...)); };
  if (options.num_channels < 1 || options.num_channels > kMaxChannels) {
    return invalid("--channels must be 1 to ", kMaxChannels);
  }
  if (options.rate && options.concurrency) return invalid("give either --concurrency or --rate");
  if (options.rate && !(*options.rate > 0 && *options.rate <= kMaxRate)) {
    return invalid("--rate must be more than 0 and at most ", kMaxRate);
  }
  if (options.num_streams != 0 && options.calls != Calls::kStream) return invalid("--streams needs --calls=stream");
  if (options.num_streams != 0 && (options.num_streams < options.num_channels || options.num_streams > kMaxStreams)) {
    return invalid("--streams must be at least the ", options.num_channels, " of --channels, and at most ",
                   kMaxStreams);
  }
  const int fewest = FewestSlots(options);
  if (const int num_slots = NumSlots(options); num_slots < fewest || num_slots > kMaxSlots) {
    return invalid(options.rate ? "--max_outstanding" : "--concurrency", " must be at least the ", fewest, " of ",
                   fewest > options.num_channels ? "--streams" : "--channels", ", and at most ", kMaxSlots);
  }
  if (options.honor_pushback && (options.rate || options.calls == Calls::kStream)) {
    return invalid("--honor_pushback needs unary calls in a closed loop: leave out --rate and --calls=stream");
  }
  if (options.warmup < absl::ZeroDuration()) return invalid("--warmup must not be negative");
  if (options.duration && *options.duration <= absl::ZeroDuration()) return invalid("--duration must be more than 0");
  if (options.count && *options.count < 1) return invalid("--count must be at least 1");
  if (options.frame_bytes != 0 && (options.frame_bytes < 16384 || options.frame_bytes > 16777215)) {
    return invalid("--frame_bytes must be 0, or 16384 to 16777215");
  }
  return absl::OkStatus();
}

absl::StatusOr<grpc::ByteBuffer> SerializeRequest(const Batch& batch) {
  LentMemory memory;
  MessageWriter writer;
  if (absl::Status status = WriteRequest(batch, memory, writer); !status.ok()) return status;
  const Slices message(writer.Finish());
  auto* const bytes = new std::string(static_cast<size_t>(message.size()), '\0');
  message.CopyTo(0, message.size(), bytes->data());
  const grpc::Slice slice(
      bytes->data(), bytes->size(), [](void* owner) { delete static_cast<std::string*>(owner); }, bytes);
  return grpc::ByteBuffer(&slice, 1);
}

absl::Status CheckResponse(Calls calls, const Batch& batch, const grpc::ByteBuffer& response) {
  const Slices bytes(response);
  Evaluation evaluation;
  const auto place = [&](Tensor Evaluation::*field, const TensorType& type) {
    return (evaluation.*field = Tensor(type)).data();
  };
  if (calls == Calls::kUnary) return ReadAnswer(batch, bytes, place, evaluation);
  v1::EvaluateStreamResponse message;
  const auto reserve = [](int64_t) { return absl::OkStatus(); };
  if (!ParseMessage(bytes, reserve, message).ok()) {
    return absl::InternalError("the answer is not an EvaluateStreamResponse");
  }
  if (message.has_error()) {
    return absl::Status(static_cast<absl::StatusCode>(message.error().code()), message.error().message());
  }
  return ReadAnswer(batch, message.response(), bytes, place, evaluation);
}

absl::StatusOr<LoadResult> RunLoad(const LoadOptions& options, const grpc::ByteBuffer& request,
                                   const std::function<absl::Status(const grpc::ByteBuffer&)>& check,
                                   const std::function<void(const LoadResult&)>& progress) {
  absl::StatusOr<std::vector<std::shared_ptr<grpc::Channel>>> channels = Connect(options);
  if (!channels.ok()) return channels.status();
  grpc::ByteBuffer response;
  const auto call_once = options.calls == Calls::kUnary ? CallOnce : StreamOnce;
  const grpc::Status first = call_once(channels->front(), request, options.timeout, &response);
  if (!first.ok()) return ToAbslStatus(first);
  if (absl::Status status = check(response); !status.ok()) return status;
  response.Clear();
  return Load(options, request, *channels).Run(progress);
}

}  // namespace lossd
