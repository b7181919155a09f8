// Batches for the tests of loss/: owned tensors, random contents, and one call that plans and evaluates.
#ifndef LOSSD_TESTS_BATCH_H_
#define LOSSD_TESTS_BATCH_H_

#include <cstdint>
#include <cstring>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "loss/loss.h"
#include "loss/reference.h"

namespace lossd::testing {

// A tensor that owns its elements, `misalignment` bytes past a 64-byte boundary.
class OwnedTensor {
 public:
  OwnedTensor() = default;
  OwnedTensor(TensorType type, int misalignment = 0);

  template <typename T>
  static OwnedTensor Of(DataType type, const Shape& shape, const std::vector<T>& values) {
    OwnedTensor tensor({type, shape});
    std::memcpy(tensor.data(), values.data(), values.size() * sizeof(T));
    return tensor;
  }
  static OwnedTensor Floats(const Shape& shape, const std::vector<float>& values) {
    return Of(DataType::kFloat32, shape, values);
  }
  static OwnedTensor Doubles(const Shape& shape, const std::vector<double>& values) {
    return Of(DataType::kFloat64, shape, values);
  }
  static OwnedTensor Indices(const Shape& shape, const std::vector<int64_t>& values) {
    return Of(DataType::kInt64, shape, values);
  }

  explicit operator bool() const { return static_cast<bool>(type_); }
  const TensorType& type() const { return type_; }
  int64_t size() const { return NumElements(type_.shape); }
  std::byte* data() { return bytes_.data() + offset_; }
  const std::byte* data() const { return bytes_.data() + offset_; }
  std::string Bits() const { return {reinterpret_cast<const char*>(data()), bytes_.size() - 128}; }
  TensorView view() const { return {data(), type_}; }
  MutableTensorView mutable_view() { return {data(), type_}; }
  // Element `index` of a float tensor; of an integer tensor.
  double at(int64_t index) const;
  int64_t integer(int64_t index) const;
  // Stores the nearest value of the tensor's type, float or integer.
  void set(int64_t index, double value);

 private:
  TensorType type_;
  std::vector<std::byte> bytes_;
  size_t offset_ = 0;
};

// One request, with tensors of its own.
struct Batch : InputSet<OwnedTensor> {
  Spec spec;
  const PieceReader* pieces = nullptr;  // if set, what the logits are read from

  Inputs inputs() const;
};

struct Outcome {
  Plan plan;
  Weights weights;
  Summary summary;
  ResultSet<OwnedTensor> results;
};

// MakePlan, WeighElements, all blocks on `threads` threads, Summarize.
absl::StatusOr<Outcome> Evaluate(const Batch& batch, int threads = 1);

// The same by reference.h. REQUIRES: Evaluate(batch) is OK.
Reference Truth(const Batch& batch);

// What a random batch looks like.
struct BatchOptions {
  DataType type = DataType::kFloat32;
  DataType target_type = DataType::kInt64;  // a float type: probabilities
  Shape outer = {4};                        // axes before the class axis
  int64_t num_classes = 10;
  Shape inner;                                    // axes after it
  int64_t sparse_size = 0;                        // K > 0: sparse probabilities, target_type is an integer type
  DataType weight_type = DataType::kUnspecified;  // of weights and sparse masses; unspecified: type
  bool class_weights = false;
  bool sample_weights = false;
  bool ignore_some = false;  // integer targets only
  double scale = 3;          // standard deviation of the logits
  int misalignment = 0;
};

// A cross-entropy batch.
Batch RandomBatch(const BatchOptions& options, std::mt19937_64& random);

// Makes 16 rows from `first` on ones that no formula likes, each beside ordinary ones. `inner`: elements of the axes
// after the class axis.
void SpoilRows(Batch& batch, int64_t num_classes, int64_t inner, int64_t first = 0);

// A tensor of normal values.
OwnedTensor RandomFloats(TensorType type, std::mt19937_64& random, double mean, double scale, bool positive = false,
                         int misalignment = 0);

// "" if every loss, sum, count and gradient of `outcome` is within Tolerance() of the truth; else the first that is
// not.
std::string CompareWithReference(const Batch& batch, const Outcome& outcome);
std::string Compare(const Outcome& outcome, Reference truth);

// Evaluates the batch on every SIMD target; "" if all agree with the truth, else the target and the first difference.
std::string CompareOnEverySimdTarget(const Batch& batch);

// Calls test(name) with each compiled SIMD target that this machine can run chosen in turn.
void ForEachSimdTarget(const std::function<void(const char* name)>& test);

}  // namespace lossd::testing

#endif  // LOSSD_TESTS_BATCH_H_
