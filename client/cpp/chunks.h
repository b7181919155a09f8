// A batch in pieces whose answers make up the answer to the whole, to the last bit.
//
// A piece is one segment of the batch's plan (loss/loss.h): its elements are evaluated as in the whole, and the sums of
// the pieces, added in order, are the sum of the whole. What spans the batch is worked out here, before anything is
// sent: every class index is checked, and the denominator of a mean becomes the pieces' normalizer.
#ifndef LOSSD_CLIENT_CPP_CHUNKS_H_
#define LOSSD_CLIENT_CPP_CHUNKS_H_

#include <cstdint>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cpp/client.h"
#include "loss/loss.h"

namespace lossd {

// Refers to the batch's tensors and copies none of them. Const members are thread-safe.
class Chunks {
 public:
  // `batch` and its tensors outlive the result. Errors: those of MakePlan() and WeighElements(), positions counted in
  // the whole batch.
  static absl::StatusOr<Chunks> Cut(const Batch& batch);

  // kResourceExhausted, with both numbers, where a piece or its answer may exceed so many bytes.
  absl::Status CheckFits(int64_t max_message_bytes) const;

  // 0 for a batch of no elements.
  int64_t count() const { return (plan_.num_elements + plan_.segment_elements - 1) / plan_.segment_elements; }
  Plan::Range ElementsOf(int64_t chunk) const;
  // Its logits.
  int64_t bytes(int64_t chunk) const;
  // What is sent. Valid as long as this object.
  Batch operator[](int64_t chunk) const;

  // Of the whole.
  const Plan& plan() const { return plan_; }
  const Weights& weights() const { return weights_; }

 private:
  Chunks(const Batch& batch, const Plan& plan, const Weights& weights)
      : batch_(batch), plan_(plan), weights_(weights) {}

  void ChooseShapes();
  void ChooseSpec();

  Batch batch_;
  Plan plan_;
  Weights weights_;
  Spec spec_;           // of every chunk
  Shape inner_axes_;    // a chunk's logits: (outer rows, classes and inner axes)
  Shape element_axes_;  // its elements: (outer rows, inner axes)
  bool has_upstream_ = false;
  double upstream_ = 1;  // sent in place of the batch's
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_CHUNKS_H_
