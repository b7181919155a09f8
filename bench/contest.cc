#include "bench/contest.h"

#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <limits>
#include <map>
#include <memory>
#include <utility>

#include "absl/strings/str_cat.h"
#include "bench/lossd_call.h"
#include "bench/peers/libtorch_peer.h"
#include "bench/peers/onednn_peer.h"
#include "loss/element.h"

namespace lossd::bench {
namespace {

constexpr int kTrials = 3;     // of each loop of a limit, to see which are worth a place
constexpr size_t kPlaces = 2;  // for each limit

[[noreturn]] void Die(const Case& what, const std::string& message) {
  std::fprintf(stderr, "\nbench: %s: %s\n", what.name.c_str(), message.c_str());
  std::exit(1);
}

size_t GradientBytes(const Problem& problem) {
  const TensorType& type = problem.gradient.type;
  return static_cast<size_t>(NumElements(type.shape) * SizeOf(type.data_type));
}

// The mean loss of class indices whose log-probabilities have been written over `gradient`.
double MeanAtTargets(const Problem& problem) {
  const Plan plan = *MakePlan(problem.spec, TypesOf(problem.inputs));
  const TensorView log_probabilities{problem.gradient.data, problem.gradient.type};
  double sum = 0;
  for (int64_t element = 0; element < plan.num_elements; ++element) {
    const int64_t target = IntegerAt(problem.inputs.targets, element);
    sum -= FloatAt(log_probabilities, plan.RowStart(element) + target * plan.inner_size);
  }
  return sum / static_cast<double>(plan.num_elements);
}

// A peer that computes something else is not a peer. It may round to its own type, and add up in it: PyTorch's float32
// loss of a row of 2^24 classes is 2e-4 off.
void CheckPeer(const Case& what, const char* peer, double loss, double want) {
  const double tolerance = what.problem.inputs.logits.type.data_type == DataType::kBfloat16 ? 1e-2 : 1e-3;
  if (std::fabs(loss - want) <= tolerance * std::fabs(want)) return;
  Die(what, absl::StrCat(peer, " has the loss ", loss, ", lossd ", want));
}

// A group while it is measured: contenders, and whose they are.
class Contest {
 public:
  Contest(Pool& pool, PythonPeer* python) : pool_(pool), python_(python) {}

  void AddLimit(Limit limit, const Problem& problem);
  void AddCase(const Case& what);
  GroupResult Run(const Rounds& rounds, const std::function<void(int)>& progress);

 private:
  struct LimitPlace {
    Limit limit;
    LimitLoop loop;
    size_t contender;
  };
  struct PeerPlace {
    const char* peer;
    size_t contender;
  };
  struct CasePlace {
    Case what;
    size_t contender;
    std::vector<PeerPlace> peers;
  };

  // `process`: Contender's.
  size_t Add(TimedCalls run, pid_t process = 0) {
    contenders_.push_back({.run = std::move(run), .process = process});
    return contenders_.size() - 1;
  }
  void Check(const Case& what, double loss);
  void AddPeers(CasePlace& place, double loss);
  std::vector<LimitResult> Limits() const;
  double Seconds(size_t contender) const { return Median(contenders_[contender].samples); }

  Pool& pool_;
  PythonPeer* const python_;
  std::map<std::string, std::shared_ptr<const Truth>> truths_;
  std::deque<LossdCall> calls_;
  std::vector<Contender> contenders_;
  std::vector<LimitPlace> limits_;
  std::vector<CasePlace> cases_;
};

void Contest::AddLimit(Limit limit, const Problem& problem) {
  std::vector<std::pair<double, LimitLoop>> loops;
  for (LimitLoop& loop : LoopsOf(limit, pool_, static_cast<const std::byte*>(problem.inputs.logits.data),
                                 static_cast<std::byte*>(problem.gradient.data), GradientBytes(problem))) {
    double best = std::numeric_limits<double>::infinity();
    for (int trial = 0; trial < kTrials; ++trial) best = std::min(best, loop.run(1));
    loops.emplace_back(best, std::move(loop));
  }
  std::sort(loops.begin(), loops.end(), [](const auto& a, const auto& b) { return a.first < b.first; });
  loops.resize(std::min(loops.size(), kPlaces));
  for (auto& [seconds, loop] : loops) {
    const size_t contender = Add(loop.run);
    limits_.push_back({limit, std::move(loop), contender});
  }
}

void Contest::AddCase(const Case& what) {
  LossdCall& call = calls_.emplace_back(pool_, what.problem, what.simd_target);
  std::memset(what.problem.gradient.data, 0xff, GradientBytes(what.problem));  // NaN: not the last case's gradient
  call.Run(1);
  const double loss = call.loss();
  Check(what, loss);
  CasePlace place{what, Add([&call](int calls) { return call.Run(calls); }), {}};
  AddPeers(place, loss);
  cases_.push_back(std::move(place));
}

// Dies where lossd computed something else than PyTorch does in float64.
void Contest::Check(const Case& what, double loss) {
  // On an older instruction set the problem is the same.
  const bool known = what.simd_target != 0 && truths_.contains(what.versus);
  const auto truth = known ? truths_[what.versus] : TruthByLibtorch(what.problem);
  if (what.versus.empty()) truths_[what.name] = truth;
  const std::string difference = CompareWithTruth(what.problem, loss, *truth);
  if (!difference.empty()) Die(what, difference);
}

void Contest::AddPeers(CasePlace& place, double loss) {
  const Case& what = place.what;
  const auto add = [&](Peers peer, const char* name, TimedCalls run, pid_t process = 0) {
    if ((what.peers & peer) != 0 && run != nullptr) place.peers.push_back({name, Add(std::move(run), process)});
  };
  add(kLibtorch, kPeerNames[0], LibtorchCalls(what.problem, /*keep_memory=*/false));
  add(kKeeping, kPeerNames[1], LibtorchCalls(what.problem, /*keep_memory=*/true));
  if (python_ != nullptr && (what.peers & kPython) != 0) {
    add(kPython, kPeerNames[2], python_->Calls(what.problem), python_->process());
    CheckPeer(what, kPeerNames[2], python_->loss(), loss);
  }
  if ((what.peers & kOnednn) == 0) return;
  const TimedCalls onednn = OnednnCalls(what.problem);
  if (onednn == nullptr) return;
  onednn(1);
  CheckPeer(what, kPeerNames[3], MeanAtTargets(what.problem), loss);
  add(kOnednn, kPeerNames[3], onednn);
}

std::vector<LimitResult> Contest::Limits() const {
  std::vector<LimitResult> results;
  for (const LimitPlace& place : limits_) {
    const double speed = place.loop.bytes / Seconds(place.contender);
    if (results.empty() || results.back().limit != place.limit) results.push_back({place.limit, 0, ""});
    if (speed > results.back().bytes_per_second) results.back() = {place.limit, speed, place.loop.name};
  }
  return results;
}

GroupResult Contest::Run(const Rounds& rounds, const std::function<void(int)>& progress) {
  GroupResult result;
  result.rounds = Measure(contenders_, rounds, progress);
  result.limits = Limits();
  for (const CasePlace& place : cases_) {
    CaseResult one{place.what, Seconds(place.contender), {}};
    for (const PeerPlace& peer : place.peers) one.peers.push_back({peer.peer, Seconds(peer.contender)});
    result.cases.push_back(std::move(one));
  }
  return result;
}

}  // namespace

GroupResult RunGroup(const std::string& name, std::vector<Case> cases, Pool& pool, PythonPeer* python,
                     const Rounds& rounds, const std::function<void(int)>& progress) {
  Contest contest(pool, python);
  std::vector<Limit> limits;
  for (const Case& what : cases) {
    for (Limit limit : what.limits) {
      if (std::find(limits.begin(), limits.end(), limit) == limits.end()) limits.push_back(limit);
    }
  }
  for (Limit limit : limits) contest.AddLimit(limit, cases.front().problem);
  for (const Case& what : cases) contest.AddCase(what);
  GroupResult result = contest.Run(rounds, progress);
  result.name = name;
  if (python != nullptr) python->Forget();
  return result;
}

}  // namespace lossd::bench
