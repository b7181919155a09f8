// The comparison of an answer with the long double reference: `lossctl eval --verify`.
#ifndef LOSSD_CLIENT_CPP_VERIFY_H_
#define LOSSD_CLIENT_CPP_VERIFY_H_

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cpp/client.h"

namespace lossd {

// How far one field is from the reference, at its worst entry.
struct Difference {
  std::string field;
  int64_t index = 0;  // of the worst entry, row-major
  double answer = 0;  // there
  double truth = 0;   // there, rounded to double
  double error = 0;   // |answer - truth|; 0 where both are NaN or the same infinity, infinite where only one is
  double tolerance_share = 0;  // error / tolerance, which is Tolerance() of loss/reference.h; over 1 is wrong
};

// Evaluates `batch` by itself, slowly (some 32 bytes and a microsecond for each logit), and compares every field that
// has a reference. Fails as MakePlan() does where the reference cannot evaluate the batch.
absl::StatusOr<std::vector<Difference>> CompareWithReference(const Batch& batch, const Evaluation& evaluation);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_VERIFY_H_
