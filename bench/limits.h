// How fast this machine moves memory: what a kernel that is bound by memory can reach at best.
//
// Each limit is the best of several loops, because which one is best depends on the machine and on the size: all are
// tried on the very memory of the case, and the fastest are measured with it (bench/measure.h).
#ifndef LOSSD_BENCH_LIMITS_H_
#define LOSSD_BENCH_LIMITS_H_

#include <cstddef>
#include <functional>
#include <string>
#include <vector>

#include "bench/pool.h"
#include "bench/problem.h"

namespace lossd::bench {

enum class Limit { kRead, kCopy, kWrite };

// "read", "copy", "write".
const char* Name(Limit limit);

struct LimitLoop {
  std::string name;  // "8 accumulators, prefetch 1 KiB"
  TimedCalls run;
  double bytes = 0;  // moved by one call: read and written bytes both count
};

// Loops that read `from`, copy it to `to`, or write `to`, on all threads of the pool in pieces handed out as they are
// free. `from` and `to` are `bytes` long, aligned to 64, and outlive the loops; `to` is overwritten.
std::vector<LimitLoop> LoopsOf(Limit limit, Pool& pool, const std::byte* from, std::byte* to, size_t bytes);

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_LIMITS_H_
