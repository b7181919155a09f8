#include <malloc.h>
#include <unistd.h>

#include <array>
#include <cstddef>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cpp/batch_inputs.h"
#include "client/cpp/client.h"
#include "client/cpp/eval_tensors.h"
#include "client/cpp/load_generator.h"
#include "client/cpp/load_report.h"
#include "client/cpp/lossctl.h"
#include "client/cpp/spec_flags.h"
#include "loss/loss.h"

ABSL_FLAG(std::string, calls, "unary", "unary: Evaluate; stream: messages of EvaluateStream, pipelined.");
ABSL_FLAG(int32_t, streams, 0, "EvaluateStreams, over all channels; 0: one on each.");
ABSL_FLAG(std::optional<int32_t>, concurrency, std::nullopt,
          "Closed loop: so many calls, or messages, are out at any time, over all channels; one on each if unset.");
ABSL_FLAG(std::optional<double>, rate, std::nullopt,
          "Open loop: so many calls arrive each second, evenly spaced; latency counts from the scheduled arrival.");
ABSL_FLAG(bool, honor_pushback, false,
          "Closed loop: one that is refused waits as long as the server asks, as clients do; else it calls at once.");
ABSL_FLAG(int32_t, max_outstanding, 1000, "Open loop: what arrives while so many calls are out is dropped.");
ABSL_FLAG(int32_t, channels, 1, "Connections, each with a thread of its own here.");
ABSL_FLAG(int32_t, frame_bytes, 0, "HTTP/2 frames may have so many bytes; 0: as gRPC has it.");
ABSL_FLAG(absl::Duration, warmup, absl::Seconds(1), "Calls that start in it do not count.");
ABSL_FLAG(std::optional<absl::Duration>, duration, std::nullopt,
          "Of what counts, after the warm-up; 10s if --count is not given either.");
ABSL_FLAG(std::optional<int64_t>, count, std::nullopt, "Ends after so many calls that count.");
ABSL_FLAG(bool, raw, false, "Does not look into the first answer: for servers that only move bytes.");

namespace lossd {
namespace {

constexpr int kQuietSeconds = 5;  // between two lines where standard error is not a terminal

absl::StatusOr<LoadOptions> OptionsFromFlags() {
  LoadOptions options;
  const std::string calls = absl::GetFlag(FLAGS_calls);
  if (calls != "unary" && calls != "stream") {
    return absl::InvalidArgumentError(absl::StrCat("--calls=", calls, " is not one of unary, stream"));
  }
  options.calls = calls == "unary" ? Calls::kUnary : Calls::kStream;
  options.num_streams = absl::GetFlag(FLAGS_streams);
  options.target = absl::GetFlag(FLAGS_target);
  options.num_channels = absl::GetFlag(FLAGS_channels);
  options.concurrency = absl::GetFlag(FLAGS_concurrency);
  options.rate = absl::GetFlag(FLAGS_rate);
  options.honor_pushback = absl::GetFlag(FLAGS_honor_pushback);
  options.max_outstanding = absl::GetFlag(FLAGS_max_outstanding);
  options.frame_bytes = absl::GetFlag(FLAGS_frame_bytes);
  options.warmup = absl::GetFlag(FLAGS_warmup);
  options.duration = absl::GetFlag(FLAGS_duration);
  options.count = absl::GetFlag(FLAGS_count);
  options.timeout = absl::GetFlag(FLAGS_timeout);
  if (absl::Status status = CheckLoadOptions(options); !status.ok()) return status;
  return options;
}

// The request of the load, and what is known about it. The tensors of `batch` are gone: their types remain.
struct Request {
  Batch batch;
  grpc::ByteBuffer message;
  LoadSize size;
};

absl::StatusOr<Request> RequestFromFlags() {
  absl::StatusOr<Spec> spec = SpecFromFlags();
  if (!spec.ok()) return spec.status();
  absl::StatusOr<EvalTensors> tensors = TensorsFromFlags(*spec);
  if (!tensors.ok()) return tensors.status();
  Request request;
  request.batch = MakeBatch(*spec, *tensors);
  absl::StatusOr<grpc::ByteBuffer> message = SerializeRequest(request.batch);
  if (!message.ok()) return message.status();
  request.message = *std::move(message);
  request.size.request_bytes = static_cast<int64_t>(request.message.Length());
  const InputTypes types = TypesOf(InputsOf(request.batch));
  // A request that is refused is a load too, but has no rows.
  if (absl::StatusOr<Plan> plan = MakePlan(*spec, types); plan.ok()) request.size.rows = plan->num_elements;
  return request;
}

// In a terminal one line that is redrawn, else a line now and then.
class Progress {
 public:
  void Show(const std::string& text) {
    if (terminal_) {
      absl::FPrintF(stderr, "\r%s\x1b[K", text);
    } else if (++seconds_ % kQuietSeconds == 0) {
      absl::FPrintF(stderr, "%s\n", text);
    }
    std::fflush(stderr);
  }
  void End() const {
    if (terminal_) absl::FPrintF(stderr, "\r\x1b[K");
  }

 private:
  const bool terminal_ = isatty(STDERR_FILENO) != 0;
  int seconds_ = 0;
};

// What an answer took is not given back before the next one comes: faulting it in again is no part of a server's cost.
void KeepFreedMemory() {
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 1 << 20);
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
}

int RunBench() {
  KeepFreedMemory();
  const absl::StatusOr<LoadOptions> options = OptionsFromFlags();
  if (!options.ok()) return FailUsage(options.status());
  absl::StatusOr<Request> request = RequestFromFlags();
  if (absl::IsInvalidArgument(request.status())) return FailUsage(request.status());
  if (!request.ok()) return Fail(request.status());
  const auto check = [&](const grpc::ByteBuffer& response) {
    return absl::GetFlag(FLAGS_raw) ? absl::OkStatus() : CheckResponse(options->calls, request->batch, response);
  };
  // The load waits for its connections until the timeout; this says at once why there can be none.
  const absl::StatusOr<ServerInfo> info = Client(options->target).GetServerInfo(options->timeout);
  if (absl::IsUnavailable(info.status())) return FailCall(info.status());
  Progress progress;
  absl::StatusOr<LoadResult> result = RunLoad(*options, request->message, check, [&](const LoadResult& so_far) {
    progress.Show(ProgressText(request->size, so_far));
  });
  progress.End();
  if (!result.ok()) return FailCall(result.status());
  if (absl::GetFlag(FLAGS_json)) {
    absl::PrintF("%s\n", LoadJson(*options, request->size, *result));
  } else {
    absl::PrintF("%s", LoadText(*options, request->size, *result));
  }
  if (result->counts.num_answered() > 0) return kSuccess;
  return Fail(absl::UnavailableError(absl::StrCat("no call was answered: ", result->counts.first_error)));
}

constexpr auto kFlags = [] {
  constexpr const char* kOwn[] = {"target", "timeout",         "json",     "seed",  "job",           "concurrency",
                                  "rate",   "max_outstanding", "channels", "calls", "streams",       "frame_bytes",
                                  "warmup", "duration",        "count",    "raw",   "honor_pushback"};
  std::array<const char*, std::size(kOwn) + std::size(kTensorFlags) + std::size(kSpecFlags)> flags{};
  size_t count = 0;
  for (const char* flag : kOwn) flags[count++] = flag;
  for (const char* flag : kTensorFlags) flags[count++] = flag;
  for (const char* flag : kSpecFlags) flags[count++] = flag;
  return flags;
}();

}  // namespace

constexpr Subcommand kBenchSubcommand = {"bench", "Loads a server with one request, and measures it.", kFlags,
                                         &RunBench};

}  // namespace lossd
