// Random tensors, filled on all threads, the same on every machine and for every number of threads.
#ifndef LOSSD_BENCH_DATA_H_
#define LOSSD_BENCH_DATA_H_

#include <deque>

#include "bench/memory.h"
#include "bench/pool.h"
#include "bench/problem.h"

namespace lossd::bench {

// Owns the tensors of one group of cases.
class Data {
 public:
  // Without `fill` the tensors have no values (nor memory): to learn which cases a group has.
  Data(Pool& pool, bool huge_pages, bool fill = true) : pool_(pool), huge_pages_(huge_pages), fill_(fill) {}

  // Nearly normal, mean 0, standard deviation 3. Equal shapes have equal values, but for rounding to `type`.
  TensorView Logits(DataType type, const Shape& shape);
  // Uniform in (0, 1).
  TensorView Uniform(DataType type, const Shape& shape);
  // Uniform in (0, 1), then divided by the sum of the last axis.
  TensorView Probabilities(DataType type, const Shape& shape);
  // int64 in [0, num_classes). Distinct along the last axis if `distinct`.
  TensorView ClassIndices(const Shape& shape, int64_t num_classes, bool distinct = false);
  // To be written. Every page is there already.
  MutableTensorView Output(DataType type, const Shape& shape);

 private:
  MutableTensorView Allocate(DataType type, const Shape& shape);
  // Stores value(random) at every element, in parallel.
  template <typename Value>
  void Fill(const MutableTensorView& tensor, const Value& value);

  Pool& pool_;
  const bool huge_pages_;
  const bool fill_;
  std::deque<Memory> memory_;
};

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_DATA_H_
