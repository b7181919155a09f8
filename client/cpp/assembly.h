// The answer to a batch, put together from those to its chunks.
#ifndef LOSSD_CLIENT_CPP_ASSEMBLY_H_
#define LOSSD_CLIENT_CPP_ASSEMBLY_H_

#include <cstdint>
#include <vector>

#include "absl/functional/function_ref.h"
#include "absl/status/status.h"
#include "client/cpp/chunks.h"
#include "client/cpp/client.h"
#include "client/cpp/messages.h"

namespace lossd {

// Every tensor is one piece of memory, which the answers are copied into as they come, in any order.
class Assembly {
 public:
  // Takes the memory for everything. `chunks` outlive it.
  Assembly(const Chunks& chunks, const EvaluateOptions& options);

  // Reads the answer to a chunk by `read`, which puts tensors where it is told to and the rest into its Evaluation.
  // What `read` says, or kInternal for an answer that is not to this chunk.
  absl::Status Add(int64_t chunk, absl::FunctionRef<absl::Status(Place, Evaluation&)> read);

  // How many chunks have been added, and how many elements they have.
  int64_t num_added() const { return num_added_; }
  int64_t elements_added() const { return elements_added_; }

  // The whole answer. REQUIRES: all chunks have been added, once each; and no other call follows.
  Evaluation Finish();

 private:
  const Chunks& chunks_;
  Evaluation whole_;
  std::vector<double> loss_sums_;  // of the chunks
  int64_t correct_count_ = 0;
  int64_t num_added_ = 0, elements_added_ = 0;
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_ASSEMBLY_H_
