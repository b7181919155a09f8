// What is measured: the one table of all cases. A case belongs to a group, whose cases share data and are measured in
// the same rounds.
#ifndef LOSSD_BENCH_CASES_H_
#define LOSSD_BENCH_CASES_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "bench/data.h"
#include "bench/limits.h"
#include "bench/problem.h"

namespace lossd::bench {

// Whom a case is compared with, besides the limits.
enum Peers : unsigned {
  kNobody = 0,
  kLibtorch = 1,
  kKeeping = 2,  // libtorch with an allocator that keeps memory
  kPython = 4,
  kOnednn = 8,
  kPytorch = kLibtorch | kPython,
};

struct Case {
  std::string name;  // "cross_entropy/forward/float32/1024x32000"
  Problem problem;
  unsigned peers = kNobody;
  std::vector<Limit> limits;  // the first one is what this case can reach
  std::string versus;         // the name of another case of the group, or empty
  int64_t simd_target = 0;    // Highway's, or 0: the best there is
  bool reference = false;     // measured again only because others of the group are held against it
  double elements = 0;        // logits
  double bytes = 0;           // that have to be moved at least
};

struct Group {
  std::string name;
  std::function<std::vector<Case>(Data& data)> cases;  // with their tensors; the first one's are the limits' memory
};

// `quick`: small shapes, the same code.
std::vector<Group> AllGroups(bool quick);

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_CASES_H_
