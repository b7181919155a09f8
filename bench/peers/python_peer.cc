#include "bench/peers/python_peer.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdlib>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"

namespace lossd::bench {
namespace {

constexpr char kPython[] = "/usr/bin/python3";

[[noreturn]] void Die(const std::string& message) {
  std::fprintf(stderr, "bench: %s\n", message.c_str());
  std::exit(1);
}

}  // namespace

PythonPeer::PythonPeer(const std::string& script, int threads) {
  int down[2], up[2];
  if (pipe2(down, O_CLOEXEC) != 0 || pipe2(up, O_CLOEXEC) != 0) Die("no pipe");
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, down[0], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, up[1], STDOUT_FILENO);
  std::string python = kPython, path = script, count = absl::StrCat(threads);
  char* const arguments[] = {python.data(), path.data(), count.data(), nullptr};
  const int error = posix_spawn(&process_, kPython, &actions, nullptr, arguments, environ);
  posix_spawn_file_actions_destroy(&actions);
  close(down[0]);
  close(up[1]);
  if (error != 0) Die(absl::StrCat("cannot start ", kPython));
  to_ = fdopen(down[1], "w");
  from_ = fdopen(up[0], "r");
  Ask("ready?");
}

PythonPeer::~PythonPeer() {
  std::fclose(to_);  // it reads the end of its input, and leaves
  std::fclose(from_);
  waitpid(process_, nullptr, 0);
}

std::string PythonPeer::Ask(const std::string& line) {
  std::fprintf(to_, "%s\n", line.c_str());
  std::fflush(to_);
  std::string answer;
  for (int c = std::fgetc(from_); c != '\n'; c = std::fgetc(from_)) {
    if (c == EOF) Die(absl::StrCat("pytorch_peer.py died of: ", line));
    answer.push_back(static_cast<char>(c));
  }
  return answer;
}

std::string PythonPeer::IdOf(const TensorView& tensor) {
  if (!tensor) return "-";
  const auto [entry, inserted] = ids_.try_emplace(tensor.data, absl::StrCat("t", ids_.size()));
  if (!inserted) return entry->second;
  const auto bytes = static_cast<size_t>(NumElements(tensor.type.shape) * SizeOf(tensor.type.data_type));
  std::fprintf(to_, "tensor %s %s %s\n", entry->second.c_str(), Name(tensor.type.data_type),
               absl::StrJoin(tensor.type.shape.dims(), ",").c_str());
  if (std::fwrite(tensor.data, 1, bytes, to_) != bytes) Die("pytorch_peer.py died while it was sent a tensor");
  return entry->second;
}

TimedCalls PythonPeer::Calls(const Problem& problem) {
  const std::string id = absl::StrCat("p", num_problems_++);
  const auto* const options = std::get_if<CrossEntropy>(&problem.spec.loss);
  const std::string line =
      absl::StrCat("problem ", id, " ", Name(problem.spec.loss), " ", options != nullptr ? options->label_smoothing : 0,
                   " ", problem.with_gradient() ? "backward" : "forward", " ", IdOf(problem.inputs.logits), " ",
                   IdOf(problem.inputs.targets), " ", IdOf(problem.inputs.target_probabilities), " ",
                   IdOf(problem.inputs.class_weights));
  loss_ = std::atof(Ask(line).c_str());
  return [this, id](int calls) { return std::atof(Ask(absl::StrCat("run ", id, " ", calls)).c_str()); };
}

void PythonPeer::Forget() {
  Ask("forget");
  ids_.clear();
}

}  // namespace lossd::bench
