// What a caller can ask for: which loss, how it is reduced, what else to return; and what a batch amounts to.
//
// Plain values with the names, defaults and ranges of proto/lossd/v1/loss.proto, where every field is explained; here
// for everyone who has no protobuf. Nothing is checked at construction: MakePlan() (loss.h) refuses what is out of
// range.
#ifndef LOSSD_LOSS_SPEC_H_
#define LOSSD_LOSS_SPEC_H_

#include <cstdint>
#include <initializer_list>
#include <optional>
#include <variant>

#include "loss/types.h"

namespace lossd {

inline constexpr int64_t kDefaultIgnoreIndex = -100;

struct CrossEntropy {
  double label_smoothing = 0;           // [0, 1]
  std::optional<int64_t> ignore_index;  // absent: kDefaultIgnoreIndex for class indices
  std::optional<int32_t> class_axis;    // absent: 1, or 0 where the logits have one axis
  double z_loss = 0;                    // >= 0
  double softcap = 0;                   // >= 0; 0 is off
  double temperature = 1;               // finite, >= 1e-30
  double focal_gamma = 0;               // >= 0
  double poly_epsilon = 0;              // finite
};

struct NegativeLogLikelihood {
  std::optional<int64_t> ignore_index;
  std::optional<int32_t> class_axis;
};

struct KlDivergence {
  bool log_target = false;
};

struct BinaryCrossEntropy {
  double label_smoothing = 0;  // [0, 1]
};

using Loss = std::variant<CrossEntropy, NegativeLogLikelihood, KlDivergence, BinaryCrossEntropy>;

// "cross_entropy", ...: the field names of LossSpec.loss, also the label values of metrics.
const char* Name(const Loss& loss);

enum class Reduction : uint8_t { kMean = 0, kSum = 1, kNone = 2, kBatchMean = 3 };
enum class InformationUnit : uint8_t { kNats = 0, kBits = 1 };

enum class Output : uint8_t {
  kUnspecified = 0,
  kLogitsGradient = 1,
  kTargetsGradient = 2,
  kElementLoss = 3,
  kLogSumExp = 4,
  kTargetLogProbability = 5,
  kPredictedClass = 6,
  kEntropy = 7,
  kProbabilities = 8,
  kLogProbabilities = 9,
};

// "OUTPUT_LOGITS_GRADIENT", ...: the names of the contract.
const char* Name(Output output);

// A set of outputs; a repeated output counts once.
class OutputSet {
 public:
  constexpr OutputSet() = default;
  constexpr OutputSet(std::initializer_list<Output> outputs) {
    for (Output output : outputs) Add(output);
  }
  constexpr void Add(Output output) { bits_ |= 1u << static_cast<unsigned>(output); }
  constexpr bool Has(Output output) const { return (bits_ >> static_cast<unsigned>(output)) & 1u; }

 private:
  uint32_t bits_ = 0;
};

struct Spec {
  Loss loss;
  Reduction reduction = Reduction::kMean;
  std::optional<double> normalizer;  // finite, > 0; only with kMean
  InformationUnit unit = InformationUnit::kNats;
  OutputSet outputs;
  DataType gradient_type = DataType::kUnspecified;  // a float type; unspecified: the logits' type
};

// What a whole batch amounts to, in double.
struct Summary {
  double loss_sum = 0;    // sum of the element losses, in the unit asked
  double weight_sum = 0;  // the loss's own denominator: what kMean divides by unless a normalizer is given
  int64_t element_count = 0;
  int64_t ignored_count = 0;             // elements with target = ignore_index or sample weight 0
  std::optional<int64_t> correct_count;  // with kPredictedClass and class indices
  int64_t nonfinite_count = 0;           // elements whose loss is NaN or infinite
};

}  // namespace lossd

#endif  // LOSSD_LOSS_SPEC_H_
