// One group of cases: checks everybody's results, then measures limits, lossd and its peers in the same rounds.
#ifndef LOSSD_BENCH_CONTEST_H_
#define LOSSD_BENCH_CONTEST_H_

#include <functional>
#include <string>
#include <vector>

#include "bench/cases.h"
#include "bench/measure.h"
#include "bench/peers/python_peer.h"

namespace lossd::bench {

struct PeerResult {
  std::string peer;    // one of kPeerNames
  double seconds = 0;  // of one call
};

struct LimitResult {
  Limit limit{};
  double bytes_per_second = 0;
  std::string loop;  // the one that was fastest
};

struct CaseResult {
  Case what;
  double seconds = 0;  // of one call of lossd
  std::vector<PeerResult> peers;
};

struct GroupResult {
  std::string name;
  int rounds = 0;
  std::vector<LimitResult> limits;
  std::vector<CaseResult> cases;
};

inline constexpr const char* kPeerNames[] = {"libtorch", "libtorch_kept_memory", "pytorch", "onednn_log_softmax"};

// `python` may be null: no such peer. Dies with a message where lossd or a peer computes something else than PyTorch
// does in float64.
GroupResult RunGroup(const std::string& name, std::vector<Case> cases, Pool& pool, PythonPeer* python,
                     const Rounds& rounds, const std::function<void(int round)>& progress);

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_CONTEST_H_
