// PyTorch in this process, through libtorch, on the same memory; also the judge of our results.
#ifndef LOSSD_BENCH_PEERS_LIBTORCH_PEER_H_
#define LOSSD_BENCH_PEERS_LIBTORCH_PEER_H_

#include <memory>
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

// What PyTorch makes of a problem in float64, on the values that the logits have in their own type.
struct Truth;
std::shared_ptr<const Truth> TruthByLibtorch(const Problem& problem);

// Compares lossd's loss and the gradient in problem.gradient. Empty, or what is wrong.
std::string CompareWithTruth(const Problem& problem, double loss, const Truth& truth);

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_PEERS_LIBTORCH_PEER_H_
