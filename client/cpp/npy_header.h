// The header of a .npy file, a Python dictionary:  {'descr': '<f4', 'fortran_order': False, 'shape': (3, 4), }
#ifndef LOSSD_CLIENT_CPP_NPY_HEADER_H_
#define LOSSD_CLIENT_CPP_NPY_HEADER_H_

#include <string>

#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "loss/types.h"

namespace lossd {

// What the dictionary says. The keys may come in any order, each exactly once, and no other. kUnimplemented for types
// and orders that npy.h refuses, kDataLoss for anything else; the messages are predicates ("is in Fortran order").
absl::StatusOr<TensorType> ParseNpyHeader(absl::string_view header);

// The dictionary for `type`, without padding. REQUIRES: type.data_type is not kUnspecified.
std::string NpyHeader(const TensorType& type);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_NPY_HEADER_H_
