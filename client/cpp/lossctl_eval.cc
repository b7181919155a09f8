#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <string>
#include <system_error>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/time/clock.h"
#include "client/cpp/client.h"
#include "client/cpp/eval_report.h"
#include "client/cpp/eval_tensors.h"
#include "client/cpp/lossctl.h"
#include "client/cpp/npy.h"
#include "client/cpp/spec_flags.h"
#include "client/cpp/verify.h"

ABSL_FLAG(std::string, gradient, "", "Writes the gradient of the logits to this .npy file.");
ABSL_FLAG(std::string, output_dir, "", "Writes every tensor returned to this directory, as NAME.npy.");
ABSL_FLAG(bool, verify, false,
          "Compares with the long double reference, computed here, and exits with 1 where the answer is out of "
          "tolerance.");

ABSL_FLAG(int64_t, chunk_threshold_bytes, int64_t{16} << 20,
          "Batches with more bytes of logits than this are sent in pieces, over streams.");
ABSL_FLAG(int32_t, chunk_streams, 1, "How many streams, each with a connection of its own, the pieces go over.");
ABSL_FLAG(int32_t, repeat, 1, "Evaluates so many times; the time shown is the fastest.");

namespace lossd {
namespace {

absl::Status WriteAll(const std::string& directory, const Evaluation& evaluation) {
  std::error_code error;
  std::filesystem::create_directories(directory, error);
  if (error) return absl::ErrnoToStatus(error.value(), directory);
  for (const NamedTensor& named : ReturnedTensors(evaluation)) {
    absl::Status status = WriteNpy(absl::StrCat(directory, "/", named.name, ".npy"), named.tensor->view());
    if (!status.ok()) return status;
  }
  return absl::OkStatus();
}

absl::Status WriteFiles(const Evaluation& evaluation) {
  const std::string gradient = absl::GetFlag(FLAGS_gradient), directory = absl::GetFlag(FLAGS_output_dir);
  if (!gradient.empty()) {
    absl::Status status = WriteNpy(gradient, evaluation.logits_gradient.view());
    if (!status.ok()) return status;
  }
  return directory.empty() ? absl::OkStatus() : WriteAll(directory, evaluation);
}

void Print(const Spec& spec, const Evaluation& evaluation, absl::Duration round_trip) {
  if (absl::GetFlag(FLAGS_json)) {
    absl::PrintF("%s\n", JsonReport(evaluation, round_trip));
  } else {
    absl::PrintF("%s", TextReport(spec, evaluation, round_trip));
  }
}

// To standard error with --json, whose standard output is one object.
int Verify(const Batch& batch, const Evaluation& evaluation) {
  absl::StatusOr<std::vector<Difference>> differences = CompareWithReference(batch, evaluation);
  if (!differences.ok()) return Fail(differences.status());
  std::FILE* file = absl::GetFlag(FLAGS_json) ? stderr : stdout;
  const Difference* worst = &differences->front();
  for (const Difference& difference : *differences) {
    absl::FPrintF(file, "verified      %-22s  off by %.3g at %d, %.3g of the tolerance\n", difference.field,
                  difference.error, difference.index, difference.tolerance_share);
    if (difference.tolerance_share > worst->tolerance_share) worst = &difference;
  }
  if (worst->tolerance_share <= 1) return kSuccess;
  return Fail(absl::InternalError(absl::StrFormat("%s[%d] = %.17g, but the reference is %.17g", worst->field,
                                                  worst->index, worst->answer, worst->truth)));
}

// A bar for people, once a percent.
void ShowProgress(int64_t done, int64_t total) {
  if (done * 100 / total == (done - 1) * 100 / total && done != total) return;
  const auto width = static_cast<size_t>(done * 40 / total);
  absl::FPrintF(stderr, "\r[%-40s] %3d %%%s", std::string(width, '#'), done * 100 / total, done == total ? "\n" : "");
}

EvaluateOptions OptionsFromFlags() {
  EvaluateOptions options;
  options.timeout = absl::GetFlag(FLAGS_timeout);
  options.chunk_threshold_bytes = absl::GetFlag(FLAGS_chunk_threshold_bytes);
  options.num_streams = absl::GetFlag(FLAGS_chunk_streams);
  if (::isatty(STDERR_FILENO) == 1) options.progress = ShowProgress;
  return options;
}

absl::Status CheckFlags() {
  const auto at_least = [](const char* flag, int64_t value, int64_t least) {
    if (value >= least) return absl::OkStatus();
    return absl::InvalidArgumentError(absl::StrCat("--", flag, "=", value, " must be at least ", least));
  };
  absl::Status status = at_least("repeat", absl::GetFlag(FLAGS_repeat), 1);
  status.Update(at_least("chunk_streams", absl::GetFlag(FLAGS_chunk_streams), 1));
  status.Update(at_least("chunk_threshold_bytes", absl::GetFlag(FLAGS_chunk_threshold_bytes), 0));
  return status;
}

int RunEval() {
  if (absl::Status status = CheckFlags(); !status.ok()) return FailUsage(status);
  absl::StatusOr<Spec> spec = SpecFromFlags();
  if (!spec.ok()) return FailUsage(spec.status());
  if (!absl::GetFlag(FLAGS_gradient).empty()) spec->outputs.Add(Output::kLogitsGradient);
  absl::StatusOr<EvalTensors> tensors = TensorsFromFlags(*spec);
  if (absl::IsInvalidArgument(tensors.status())) return FailUsage(tensors.status());
  if (!tensors.ok()) return Fail(tensors.status());
  const Batch batch = MakeBatch(*spec, *tensors);
  const Client client(absl::GetFlag(FLAGS_target));
  absl::StatusOr<Evaluation> evaluation = absl::UnknownError("not called");
  absl::Duration round_trip = absl::InfiniteDuration();
  for (int i = 0; i < absl::GetFlag(FLAGS_repeat); ++i) {
    const absl::Time start = absl::Now();
    evaluation = client.Evaluate(batch, OptionsFromFlags());
    if (!evaluation.ok()) break;
    round_trip = std::min(round_trip, absl::Now() - start);
  }
  if (!evaluation.ok()) return FailCall(evaluation.status());
  Print(*spec, *evaluation, round_trip);
  if (absl::Status status = WriteFiles(*evaluation); !status.ok()) return Fail(status);
  return absl::GetFlag(FLAGS_verify) ? Verify(batch, *evaluation) : kSuccess;
}

constexpr auto kFlags = [] {
  constexpr const char* kCommon[] = {
      "target",        "timeout", "json", "seed", "job", "gradient", "output_dir", "verify", "chunk_threshold_bytes",
      "chunk_streams", "repeat"};
  std::array<const char*, std::size(kCommon) + std::size(kTensorFlags) + std::size(kSpecFlags)> flags{};
  size_t count = 0;
  for (const char* flag : kCommon) flags[count++] = flag;
  for (const char* flag : kTensorFlags) flags[count++] = flag;
  for (const char* flag : kSpecFlags) flags[count++] = flag;
  return flags;
}();

}  // namespace

constexpr Subcommand kEvalSubcommand = {"eval", "The loss of one batch, from .npy files or generated.", kFlags,
                                        &RunEval};

}  // namespace lossd
