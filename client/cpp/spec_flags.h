// The options of a loss as flags with the names of proto/lossd/v1/loss.proto.
#ifndef LOSSD_CLIENT_CPP_SPEC_FLAGS_H_
#define LOSSD_CLIENT_CPP_SPEC_FLAGS_H_

#include <string>

#include "absl/status/statusor.h"
#include "loss/spec.h"

namespace lossd {

// The names of the flags that SpecFromFlags() reads, in the order of their help.
inline constexpr const char* kSpecFlags[] = {
    "loss",         "reduction",    "normalizer",  "unit",          "label_smoothing",
    "ignore_index", "class_axis",   "temperature", "softcap",       "z_loss",
    "focal_gamma",  "poly_epsilon", "log_target",  "gradient_type", "outputs"};

// What the flags ask for. kInvalidArgument, with a sentence, for a name that the contract does not have, and for an
// option that the chosen loss does not have; ranges are the server's to check.
absl::StatusOr<Spec> SpecFromFlags();

// "element_loss" for Output::kElementLoss, and so on: the name of the response's field.
std::string FieldName(Output output);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_SPEC_FLAGS_H_
