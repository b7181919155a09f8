// PyTorch as its users run it: /usr/bin/python3 in a process of its own (pytorch_peer.py), told over a pipe what to
// compute and when.
#ifndef LOSSD_BENCH_PEERS_PYTHON_PEER_H_
#define LOSSD_BENCH_PEERS_PYTHON_PEER_H_

#include <sys/types.h>

#include <cstdio>
#include <map>
#include <string>

#include "bench/problem.h"

namespace lossd::bench {

class PythonPeer {
 public:
  // Dies with a message where there is no Python, or no PyTorch in it.
  PythonPeer(const std::string& script, int threads);
  ~PythonPeer();
  PythonPeer(const PythonPeer&) = delete;
  PythonPeer& operator=(const PythonPeer&) = delete;

  // Copies the problem's tensors to the process, unless they are there. The calls must end before *this, or Forget().
  TimedCalls Calls(const Problem& problem);
  // The loss of the problem of the last Calls().
  double loss() const { return loss_; }

  pid_t process() const { return process_; }

  // Lets go of all tensors: those of the next group may have the same addresses.
  void Forget();

 private:
  std::string Ask(const std::string& line);  // one line there, one line back
  std::string IdOf(const TensorView& tensor);

  pid_t process_ = 0;
  std::FILE* to_ = nullptr;
  std::FILE* from_ = nullptr;
  double loss_ = 0;
  int num_problems_ = 0;
  std::map<const void*, std::string> ids_;
};

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_PEERS_PYTHON_PEER_H_
