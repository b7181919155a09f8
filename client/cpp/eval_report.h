// What `lossctl eval` prints.
#ifndef LOSSD_CLIENT_CPP_EVAL_REPORT_H_
#define LOSSD_CLIENT_CPP_EVAL_REPORT_H_

#include <string>
#include <vector>

#include "absl/time/time.h"
#include "client/cpp/client.h"

namespace lossd {

// One tensor of an answer under its field's name.
struct NamedTensor {
  const char* name;
  const Tensor* tensor;
};

// The tensors that `evaluation` has, the loss first. Valid as long as `evaluation`.
std::vector<NamedTensor> ReturnedTensors(const Evaluation& evaluation);

// An answer, aligned, for people. `round_trip` is the client's own measurement of the call.
std::string TextReport(const Spec& spec, const Evaluation& evaluation, absl::Duration round_trip);

// The same as one JSON object: loss (a number, or null where it is not reduced), summary, seconds, and the tensors'
// types and shapes. Their values are for --output_dir.
std::string JsonReport(const Evaluation& evaluation, absl::Duration round_trip);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_EVAL_REPORT_H_
