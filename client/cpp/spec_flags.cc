#include "client/cpp/spec_flags.h"

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <variant>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_split.h"
#include "absl/strings/strip.h"

ABSL_FLAG(std::string, loss, "cross_entropy",
          "cross_entropy, negative_log_likelihood, kl_divergence or binary_cross_entropy.");
ABSL_FLAG(std::string, reduction, "mean", "mean, sum, none or batch_mean.");
ABSL_FLAG(std::optional<double>, normalizer, std::nullopt, "What mean divides by instead of its own denominator; > 0.");
ABSL_FLAG(std::string, unit, "nats", "nats or bits.");
ABSL_FLAG(std::optional<double>, label_smoothing, std::nullopt, "In [0, 1].");
ABSL_FLAG(std::optional<int64_t>, ignore_index, std::nullopt,
          "Elements with this target count nowhere; -100 if unset.");
ABSL_FLAG(std::optional<int32_t>, class_axis, std::nullopt,
          "The axis of the classes; 1 if unset, or 0 for logits of one axis. Negative counts from the end.");
ABSL_FLAG(std::optional<double>, temperature, std::nullopt, "Divides the logits; > 0.");
ABSL_FLAG(std::optional<double>, softcap, std::nullopt, "Caps the logits: c tanh(x / c); 0 is off.");
ABSL_FLAG(std::optional<double>, z_loss, std::nullopt, "Adds this times log_sum_exp^2; >= 0.");
ABSL_FLAG(std::optional<double>, focal_gamma, std::nullopt, "Focal loss: (1 - p_y)^gamma; >= 0.");
ABSL_FLAG(std::optional<double>, poly_epsilon, std::nullopt, "Poly-1 loss: adds epsilon (1 - p_y).");
ABSL_FLAG(bool, log_target, false, "The targets of kl_divergence are logarithms.");
ABSL_FLAG(std::string, gradient_type, "", "float32, float64, float16 or bfloat16; the logits' type if unset.");
ABSL_FLAG(std::vector<std::string>, outputs, {},
          "Any of logits_gradient, targets_gradient, element_loss, log_sum_exp, target_log_probability, "
          "predicted_class, entropy, probabilities, log_probabilities; with commas.");

namespace lossd {
namespace {

// The position of `value` in `names`, or an error that lists them.
absl::StatusOr<int> Choose(const char* flag, absl::string_view value, std::span<const char* const> names) {
  for (size_t i = 0; i < names.size(); ++i) {
    if (value == names[i]) return static_cast<int>(i);
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--", flag, "=", value, " is not one of ", absl::StrJoin(names, ", ")));
}

// Copies a flag that was given into its option.
template <typename T, typename Option>
void Apply(const absl::Flag<std::optional<T>>& flag, Option* option) {
  if (const std::optional<T> value = absl::GetFlag(flag)) *option = *value;
}

struct ReadOptions {
  void operator()(CrossEntropy& loss) const {
    Apply(FLAGS_label_smoothing, &loss.label_smoothing);
    Apply(FLAGS_ignore_index, &loss.ignore_index);
    Apply(FLAGS_class_axis, &loss.class_axis);
    Apply(FLAGS_temperature, &loss.temperature);
    Apply(FLAGS_softcap, &loss.softcap);
    Apply(FLAGS_z_loss, &loss.z_loss);
    Apply(FLAGS_focal_gamma, &loss.focal_gamma);
    Apply(FLAGS_poly_epsilon, &loss.poly_epsilon);
  }
  void operator()(NegativeLogLikelihood& loss) const {
    Apply(FLAGS_ignore_index, &loss.ignore_index);
    Apply(FLAGS_class_axis, &loss.class_axis);
  }
  void operator()(KlDivergence& loss) const { loss.log_target = absl::GetFlag(FLAGS_log_target); }
  void operator()(BinaryCrossEntropy& loss) const { Apply(FLAGS_label_smoothing, &loss.label_smoothing); }
};

constexpr const char* kLosses[] = {"cross_entropy", "negative_log_likelihood", "kl_divergence", "binary_cross_entropy"};

void SetLoss(int index, Loss* loss) {
  switch (index) {
    case 1:
      loss->emplace<NegativeLogLikelihood>();
      break;
    case 2:
      loss->emplace<KlDivergence>();
      break;
    case 3:
      loss->emplace<BinaryCrossEntropy>();
      break;
    default:
      loss->emplace<CrossEntropy>();
  }
}

// An option that the loss would not look at is a mistake, not a wish. Bit i: kLosses[i] has it.
struct Option {
  const char* name;
  bool given;
  unsigned losses;
};

absl::Status CheckOptions(int loss) {
  const Option options[] = {
      {"label_smoothing", absl::GetFlag(FLAGS_label_smoothing).has_value(), 0b1001},
      {"ignore_index", absl::GetFlag(FLAGS_ignore_index).has_value(), 0b0011},
      {"class_axis", absl::GetFlag(FLAGS_class_axis).has_value(), 0b0011},
      {"temperature", absl::GetFlag(FLAGS_temperature).has_value(), 0b0001},
      {"softcap", absl::GetFlag(FLAGS_softcap).has_value(), 0b0001},
      {"z_loss", absl::GetFlag(FLAGS_z_loss).has_value(), 0b0001},
      {"focal_gamma", absl::GetFlag(FLAGS_focal_gamma).has_value(), 0b0001},
      {"poly_epsilon", absl::GetFlag(FLAGS_poly_epsilon).has_value(), 0b0001},
      {"log_target", absl::GetFlag(FLAGS_log_target), 0b0100},
  };
  for (const Option& option : options) {
    if (option.given && (option.losses >> loss & 1u) == 0) {
      return absl::InvalidArgumentError(absl::StrCat("--", option.name, " is not an option of ", kLosses[loss]));
    }
  }
  return absl::OkStatus();
}

absl::Status ReadLoss(Spec* spec) {
  absl::StatusOr<int> loss = Choose("loss", absl::GetFlag(FLAGS_loss), kLosses);
  if (!loss.ok()) return loss.status();
  SetLoss(*loss, &spec->loss);
  std::visit(ReadOptions(), spec->loss);
  return CheckOptions(*loss);
}

absl::Status ReadReduction(Spec* spec) {
  static constexpr const char* kReductions[] = {"mean", "sum", "none", "batch_mean"};
  static constexpr const char* kUnits[] = {"nats", "bits"};
  absl::StatusOr<int> reduction = Choose("reduction", absl::GetFlag(FLAGS_reduction), kReductions);
  if (!reduction.ok()) return reduction.status();
  absl::StatusOr<int> unit = Choose("unit", absl::GetFlag(FLAGS_unit), kUnits);
  if (!unit.ok()) return unit.status();
  spec->reduction = static_cast<Reduction>(*reduction);
  spec->unit = static_cast<InformationUnit>(*unit);
  spec->normalizer = absl::GetFlag(FLAGS_normalizer);
  return absl::OkStatus();
}

absl::Status ReadGradientType(Spec* spec) {
  static constexpr const char* kTypes[] = {"", "float32", "float64", "float16", "bfloat16"};
  absl::StatusOr<int> type = Choose("gradient_type", absl::GetFlag(FLAGS_gradient_type), kTypes);
  if (!type.ok()) return type.status();
  spec->gradient_type = static_cast<DataType>(*type);
  return absl::OkStatus();
}

absl::Status ReadOutputs(Spec* spec) {
  for (const std::string& name : absl::GetFlag(FLAGS_outputs)) {
    Output found = Output::kUnspecified;
    for (int i = 1; i <= static_cast<int>(Output::kLogProbabilities); ++i) {
      if (FieldName(static_cast<Output>(i)) == name) found = static_cast<Output>(i);
    }
    if (found == Output::kUnspecified) {
      return absl::InvalidArgumentError(absl::StrCat("--outputs: there is no output '", name, "'"));
    }
    spec->outputs.Add(found);
  }
  return absl::OkStatus();
}

}  // namespace

std::string FieldName(Output output) { return absl::AsciiStrToLower(absl::StripPrefix(Name(output), "OUTPUT_")); }

absl::StatusOr<Spec> SpecFromFlags() {
  Spec spec;
  for (const auto& read : {ReadLoss, ReadReduction, ReadGradientType, ReadOutputs}) {
    absl::Status status = read(&spec);
    if (!status.ok()) return status;
  }
  return spec;
}

}  // namespace lossd
