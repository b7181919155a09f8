#include "loss/types.h"

#include "loss/spec.h"

namespace lossd {

const char* Name(DataType type) {
  static constexpr const char* kNames[] = {"unspecified", "float32", "float64", "float16", "bfloat16", "int8", "int16",
                                           "int32",       "int64",   "uint8",   "uint16",  "uint32",   "bool"};
  const auto index = static_cast<size_t>(type);
  return index < std::size(kNames) ? kNames[index] : kNames[0];
}

const char* Name(const Loss& loss) {
  static constexpr const char* kNames[] = {"cross_entropy", "negative_log_likelihood", "kl_divergence",
                                           "binary_cross_entropy"};
  return kNames[loss.index()];
}

const char* Name(Output output) {
  static constexpr const char* kNames[] = {
      "OUTPUT_UNSPECIFIED",   "OUTPUT_LOGITS_GRADIENT",        "OUTPUT_TARGETS_GRADIENT", "OUTPUT_ELEMENT_LOSS",
      "OUTPUT_LOG_SUM_EXP",   "OUTPUT_TARGET_LOG_PROBABILITY", "OUTPUT_PREDICTED_CLASS",  "OUTPUT_ENTROPY",
      "OUTPUT_PROBABILITIES", "OUTPUT_LOG_PROBABILITIES"};
  const auto index = static_cast<size_t>(output);
  return index < std::size(kNames) ? kNames[index] : kNames[0];
}

std::string ToString(const Shape& shape) {
  std::string text = "[";
  for (int axis = 0; axis < shape.rank(); ++axis) {
    if (axis > 0) text += ", ";
    text += std::to_string(shape[axis]);
  }
  return text + "]";
}

int64_t NumElements(const Shape& shape) {
  int64_t product = 1;
  bool empty = false;
  for (int64_t dim : shape.dims()) {
    if (dim < 0) return -1;
    if (dim == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(product, dim, &product)) {
      return -1;
    }
  }
  return empty ? 0 : product;
}

}  // namespace lossd
