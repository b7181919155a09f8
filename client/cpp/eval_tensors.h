// The tensors of `lossctl eval`: from .npy files, or generated.
#ifndef LOSSD_CLIENT_CPP_EVAL_TENSORS_H_
#define LOSSD_CLIENT_CPP_EVAL_TENSORS_H_

#include "absl/status/statusor.h"
#include "client/cpp/client.h"
#include "loss/spec.h"

namespace lossd {

// The names of the flags that TensorsFromFlags() reads beside --seed, in the order of their help.
inline constexpr const char* kTensorFlags[] = {"logits",        "targets",        "target_probabilities",
                                               "class_weights", "sample_weights", "upstream_gradient",
                                               "generate",      "data_type"};

// Every tensor of a batch, absent where it was not given.
struct EvalTensors {
  Tensor logits;
  Tensor targets;
  Tensor target_probabilities;
  Tensor class_weights;
  Tensor sample_weights;
  Tensor upstream_gradient;
};

// What the flags name. With --generate=AxBx...: logits of --data_type, nearly normal with standard deviation 2, and,
// unless --targets is given, class indices (int64), or entries in [0, 1) for the losses whose elements are entries; the
// same on every machine for the same --seed. kInvalidArgument for flags that contradict each other, otherwise a file's
// error.
absl::StatusOr<EvalTensors> TensorsFromFlags(const Spec& spec);

// A batch of views into `tensors`, which must outlive it.
Batch MakeBatch(const Spec& spec, const EvalTensors& tensors);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_EVAL_TENSORS_H_
