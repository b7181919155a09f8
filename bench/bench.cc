// The benchmark suite: lossd's kernels, PyTorch, oneDNN and the limits of the machine, in one run. scripts/bench.
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <fstream>
#include <iterator>
#include <memory>
#include <regex>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/flags/parse.h"
#include "absl/flags/usage.h"
#include "absl/strings/str_cat.h"
#include "bench/cases.h"
#include "bench/contest.h"
#include "bench/peers/libtorch_peer.h"
#include "bench/peers/onednn_peer.h"
#include "bench/peers/python_peer.h"
#include "bench/report.h"

ABSL_FLAG(bool, quick, false, "a smoke run: small shapes, few rounds, every code path");
ABSL_FLAG(std::string, filter, "", "only the cases whose name has a match of this regular expression");
ABSL_FLAG(std::string, json, "", "write the results there as JSON");
ABSL_FLAG(bool, markdown, false, "print the table as Markdown");
ABSL_FLAG(int, threads, 0, "of everybody; 0: one for each core");
ABSL_FLAG(double, seconds, 120, "to measure, all cases together; setting up comes on top");
ABSL_FLAG(bool, python, true, "also run PyTorch in a Python of its own");
ABSL_FLAG(bool, cold, false,
          "each call finds the caches empty: what memory allows, however large the last level cache");
ABSL_FLAG(bool, huge_pages, false, "ask for huge pages for the tensors (not those that peers allocate)");

namespace lossd::bench {
namespace {

// The cases whose name matches, and those they are compared with.
std::vector<Case> Select(std::vector<Case> cases, const std::regex& filter) {
  std::set<std::string> names;
  for (const Case& one : cases) {
    if (one.reference || !std::regex_search(one.name, filter)) continue;
    names.insert(one.name);
    names.insert(one.versus);
  }
  std::erase_if(cases, [&](const Case& one) { return !names.contains(one.name); });
  return cases;
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown CPU";
}

// Tells on standard error where the run is: in place on a terminal, else a line for each group.
class Progress {
 public:
  explicit Progress(size_t num_groups) : num_groups_(num_groups), terminal_(isatty(STDERR_FILENO) != 0) {}

  void Group(size_t number, const std::string& name) {
    head_ = absl::StrCat("[", number, "/", num_groups_, "] ", name);
    std::fprintf(stderr, terminal_ ? "\r\033[K%s: setting up" : "%s\n", head_.c_str());
    std::fflush(stderr);
  }
  void Round(int round) {
    if (!terminal_) return;
    std::fprintf(stderr, "\r\033[K%s: round %d", head_.c_str(), round);
    std::fflush(stderr);
  }
  void Done() {
    if (terminal_) std::fprintf(stderr, "\r\033[K");
  }

 private:
  const size_t num_groups_;
  const bool terminal_;
  std::string head_;
};

Rounds RoundsFor(size_t num_groups) {
  const bool cold = absl::GetFlag(FLAGS_cold);
  if (absl::GetFlag(FLAGS_quick)) return {.least = 2, .most = 2, .seconds = 0, .cold = cold};
  return {.seconds = absl::GetFlag(FLAGS_seconds) / static_cast<double>(num_groups), .cold = cold};
}

int Run() {
  const int wanted = absl::GetFlag(FLAGS_threads);
  const int threads = wanted > 0 ? wanted : static_cast<int>(std::thread::hardware_concurrency());
  const bool huge_pages = absl::GetFlag(FLAGS_huge_pages), markdown = absl::GetFlag(FLAGS_markdown);
  const std::regex filter(absl::GetFlag(FLAGS_filter));
  Pool pool(threads);
  StartLibtorch(threads);
  std::unique_ptr<PythonPeer> python;
  if (absl::GetFlag(FLAGS_python)) {
    python = std::make_unique<PythonPeer>(absl::StrCat(LOSSD_BENCH_DIR, "/peers/pytorch_peer.py"), threads);
  }

  std::vector<Group> groups = AllGroups(absl::GetFlag(FLAGS_quick));
  std::erase_if(groups, [&](const Group& group) {
    Data names(pool, huge_pages, /*fill=*/false);
    return Select(group.cases(names), filter).empty();
  });
  std::printf("%s, %d threads, %s%s%s; %s, %s\n", CpuName().c_str(), threads, SimdTarget(),
              huge_pages ? ", huge pages" : "", absl::GetFlag(FLAGS_cold) ? ", cold" : "", LibtorchVersion().c_str(),
              OnednnVersion().c_str());
  Progress progress(groups.size());
  std::vector<GroupResult> results;
  for (const Group& group : groups) {
    progress.Group(results.size() + 1, group.name);
    Data data(pool, huge_pages);
    results.push_back(RunGroup(group.name, Select(group.cases(data), filter), pool, python.get(),
                               RoundsFor(groups.size()), [&](int round) { progress.Round(round); }));
    progress.Done();
    if (!markdown) std::printf("%s", AsText(results.back()).c_str());
    std::fflush(stdout);
  }
  if (markdown) std::printf("\n%s", AsMarkdown(results).c_str());
  std::printf("%s", Legend().c_str());
  if (const std::string path = absl::GetFlag(FLAGS_json); !path.empty()) {
    std::ofstream(path) << AsJson(results);
    std::fprintf(stderr, "wrote %s\n", path.c_str());
  }
  return results.empty() ? 1 : 0;
}

}  // namespace
}  // namespace lossd::bench

int main(int argc, char** argv) {
  std::signal(SIGPIPE, SIG_IGN);  // a peer that dies is reported by who talks to it
  absl::SetProgramUsageMessage("measures lossd's kernels beside PyTorch, oneDNN and the limits of the machine");
  absl::ParseCommandLine(argc, argv);
  return lossd::bench::Run();
}
