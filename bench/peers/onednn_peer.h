// oneDNN's log-softmax, forward: what a cross-entropy built on oneDNN starts with. It writes what it computes.
#ifndef LOSSD_BENCH_PEERS_ONEDNN_PEER_H_
#define LOSSD_BENCH_PEERS_ONEDNN_PEER_H_

#include <string>

#include "bench/problem.h"

namespace lossd::bench {

// "oneDNN 2.6.3".
std::string OnednnVersion();

// Empty where oneDNN cannot: a type it lacks on this CPU. Threads are OpenMP's, as StartLibtorch() set them; the result
// is written over problem.gradient. Calls must come from one thread.
TimedCalls OnednnCalls(const Problem& problem);

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_PEERS_ONEDNN_PEER_H_
