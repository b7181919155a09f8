// A large batch in pieces over streams, beside the same batch as unary calls one after the other: the same client, the
// same server, which is another process. Prints bench.json's kind of entries.
//
//   chunked_bench --target=HOST:PORT [--server_pid=PID] [--rows=4096] [--classes=32000] [--rounds=7] [--streams=1]
#include <algorithm>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <limits>
#include <span>
#include <string>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "client/cpp/client.h"
#include "client/cpp/random.h"

ABSL_FLAG(std::string, target, "localhost:50051", "The server.");
ABSL_FLAG(int32_t, server_pid, 0, "Its process, whose memory is then measured.");
ABSL_FLAG(int64_t, rows, 4096, "Of the batch.");
ABSL_FLAG(int64_t, classes, 32000, "Of the batch.");
ABSL_FLAG(int64_t, unary_rows, 1024, "Rows of one unary call.");
ABSL_FLAG(int32_t, rounds, 7, "How many times each is measured, in turn.");
ABSL_FLAG(int32_t, streams, 1, "Of the call in pieces.");
ABSL_FLAG(int64_t, window_bytes, lossd::EvaluateOptions().window_bytes, "In flight over a stream.");

namespace lossd::bench {
namespace {

struct Problem {
  int64_t rows, classes;
  std::vector<float> logits, gradient;
  std::vector<int64_t> targets;

  Batch Rows(int64_t first, int64_t count) const {
    Batch batch;
    batch.logits = {logits.data() + first * classes, {DataType::kFloat32, {count, classes}}};
    batch.targets = {targets.data() + first, {DataType::kInt64, {count}}};
    batch.spec.outputs = {Output::kLogitsGradient};
    batch.spec.normalizer = static_cast<double>(rows);
    return batch;
  }
  std::span<std::byte> Gradient(int64_t first, int64_t count) {
    return std::as_writable_bytes(
        std::span(gradient).subspan(static_cast<size_t>(first * classes), static_cast<size_t>(count * classes)));
  }
};

Problem MakeProblem(int64_t rows, int64_t classes) {
  Problem problem{.rows = rows, .classes = classes};
  Random random(1);
  problem.logits.resize(static_cast<size_t>(rows * classes));
  for (float& logit : problem.logits) logit = 4 * random.Uniform() - 2;
  problem.gradient.resize(problem.logits.size());
  for (int64_t row = 0; row < rows; ++row) {
    problem.targets.push_back(static_cast<int64_t>(random.Below(static_cast<uint64_t>(classes))));
  }
  return problem;
}

// Seconds that one Evaluate() of these rows takes.
double Time(const Client& client, Problem& problem, int64_t first, int64_t count, EvaluateOptions options) {
  options.logits_gradient = problem.Gradient(first, count);
  const absl::Time start = absl::Now();
  const absl::StatusOr<Evaluation> answer = client.Evaluate(problem.Rows(first, count), options);
  if (!answer.ok()) {
    absl::FPrintF(stderr, "chunked_bench: %s\n", answer.status().ToString());
    std::exit(1);
  }
  return absl::ToDoubleSeconds(absl::Now() - start);
}

double Median(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  return values[values.size() / 2];
}

// A line of /proc/PID/status in MB: VmRSS, VmHWM.
double MegabytesOf(int pid, const std::string& name) {
  std::ifstream status(absl::StrCat("/proc/", pid, "/status"));
  int64_t kilobytes = 0;
  for (std::string word; status >> word;) {
    if (word == name + ":") status >> kilobytes;
  }
  return static_cast<double>(kilobytes) / 1024;
}

void ResetPeak(int pid) { std::ofstream(absl::StrCat("/proc/", pid, "/clear_refs")) << 5; }

int Run() {
  const Client client(absl::GetFlag(FLAGS_target));
  Problem problem = MakeProblem(absl::GetFlag(FLAGS_rows), absl::GetFlag(FLAGS_classes));
  const int64_t part = std::min(absl::GetFlag(FLAGS_unary_rows), problem.rows);
  const int pid = absl::GetFlag(FLAGS_server_pid);
  EvaluateOptions pieces, one_call;
  pieces.chunk_threshold_bytes = 0;
  pieces.num_streams = absl::GetFlag(FLAGS_streams);
  pieces.window_bytes = absl::GetFlag(FLAGS_window_bytes);
  one_call.chunk_threshold_bytes = std::numeric_limits<int64_t>::max();

  Time(client, problem, 0, std::min<int64_t>(problem.rows, 64), one_call);
  const double idle = MegabytesOf(pid, "VmRSS");
  if (pid != 0) ResetPeak(pid);
  Time(client, problem, 0, problem.rows, pieces);
  const double growth = MegabytesOf(pid, "VmHWM") - idle;

  std::vector<double> in_pieces, in_calls;
  for (int round = 0; round < absl::GetFlag(FLAGS_rounds); ++round) {
    in_pieces.push_back(Time(client, problem, 0, problem.rows, pieces));
    double sum = 0;
    for (int64_t first = 0; first < problem.rows; first += part) {
      sum += Time(client, problem, first, std::min(part, problem.rows - first), one_call);
    }
    in_calls.push_back(sum);
  }
  const std::string name = absl::StrCat("chunked/float32/", problem.rows, "x", problem.classes);
  const double ours = Median(in_pieces), theirs = Median(in_calls);
  absl::PrintF(R"([{"name": "%s", "value": %.4g, "unit": "ms", "versus": "unary calls of %d rows", )"
               R"("versus_value": %.4g, "ratio": %.3f})",
               name, 1e3 * ours, part, 1e3 * theirs, theirs / ours);
  if (pid != 0) {
    absl::PrintF(R"(,
 {"name": "%s/server memory", "value": %.4g, "unit": "MB", "versus": "idle", "versus_value": %.4g, "ratio": %.3f})",
                 name, growth, idle, growth / idle);
  }
  absl::PrintF("]\n");
  return 0;
}

}  // namespace
}  // namespace lossd::bench

int main(int argc, char** argv) {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  absl::ParseCommandLine(argc, argv);
  return lossd::bench::Run();
}
