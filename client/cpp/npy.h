// Tensors in NumPy's .npy files, format versions 1 to 3.
//
// The types of lossd map to NumPy's as  float32 <f4   float64 <f8   float16 <f2   bfloat16 <V2   bool |b1
//   int8 |i1   int16 <i2   int32 <i4   int64 <i8   uint8 |u1   uint16 <u2   uint32 <u4
// NumPy has no bfloat16. '<V2' (two opaque bytes) is what ml_dtypes.bfloat16, the type of JAX and TensorFlow, writes;
// in Python: numpy.load(path).view(ml_dtypes.bfloat16).
//
// Refused, with a sentence: other types, big-endian files, Fortran order, more than 16 axes, and files whose length is
// not that of their header and shape. Files may be hostile: nothing is allocated from what a header claims.
// Format: https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html
#ifndef LOSSD_CLIENT_CPP_NPY_H_
#define LOSSD_CLIENT_CPP_NPY_H_

#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/string_view.h"
#include "client/cpp/tensor.h"

namespace lossd {

// Reads a whole regular file of at most 4 GiB. kNotFound or kPermissionDenied when it cannot be opened,
// kResourceExhausted when it is larger, else as ParseNpy().
absl::StatusOr<Tensor> ReadNpy(const std::string& path);

// The tensor of a file's contents; `name` is what error messages call it. kUnimplemented for a well-formed file of a
// kind that is refused, kDataLoss for anything that is not a whole .npy file.
absl::StatusOr<Tensor> ParseNpy(absl::string_view contents, const std::string& name);

// Writes `tensor` (any type but kUnspecified) in format version 1, replacing `path`. On an error the file may be
// incomplete.
absl::Status WriteNpy(const std::string& path, const TensorView& tensor);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_NPY_H_
