// PyTorch in this process, through libtorch, on the same memory; also the judge of our results.
#ifndef LOSSD_BENCH_PEERS_LIBTORCH_PEER_H_
#define LOSSD_BENCH_PEERS_LIBTORCH_PEER_H_

#include <string>

#include "bench/problem.h"

namespace lossd::bench {

// Once, from the thread that will make all calls.
void StartLibtorch(int threads);

// "PyTorch 1.13.1".
std::string LibtorchVersion();

// Forward under no_grad, or forward and backward. With `keep_memory` PyTorch gets an allocator that keeps freed memory,
// so that no page is faulted in again: better than what its users get.
TimedCalls LibtorchCalls(const Problem& problem, bool keep_memory);

// Computes the problem in float32 (float64 for float64) and compares. Empty, or what is wrong.
std::string CompareWithLibtorch(const Problem& problem, double loss);

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_PEERS_LIBTORCH_PEER_H_
