#include "client/cpp/eval_tensors.h"

#include <algorithm>
#include <cstdint>
#include <cstring>
#include <optional>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "absl/flags/flag.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_split.h"
#include "client/cpp/lossctl.h"
#include "client/cpp/npy.h"
#include "client/cpp/random.h"
#include "loss/element.h"

ABSL_FLAG(std::string, logits, "", "A .npy file. See the contract, proto/lossd/v1/loss.proto, for types and shapes.");
ABSL_FLAG(std::string, targets, "", "A .npy file: class indices, or probabilities.");
ABSL_FLAG(std::string, target_probabilities, "", "A .npy file: sparse probabilities, in the shape of the targets.");
ABSL_FLAG(std::string, class_weights, "", "A .npy file: a weight for each class.");
ABSL_FLAG(std::string, sample_weights, "", "A .npy file: a weight for each element.");
ABSL_FLAG(std::string, upstream_gradient, "", "A .npy file: a scalar, or one for each element with --reduction=none.");
ABSL_FLAG(std::string, generate, "",
          "Instead of --logits, and --targets too if unset: random ones of this shape, as 1024x32000.");
ABSL_FLAG(std::string, data_type, "float32", "Of the logits of --generate: float32, float64, float16 or bfloat16.");

namespace lossd {
namespace {

constexpr float kLogitsDeviation = 2.0f;
constexpr int64_t kMaxGenerated = int64_t{1} << 31;  // elements: 8 GiB of float32

absl::StatusOr<Shape> ParseShape(const std::string& text) {
  Shape shape;
  for (const std::string& part : std::vector<std::string>(absl::StrSplit(text, 'x'))) {
    int64_t dim = 0;
    if (!absl::SimpleAtoi(part, &dim) || dim < 0 || shape.rank() == Shape::kMaxRank) {
      return absl::InvalidArgumentError(absl::StrCat("--generate=", text, " is not a shape, as 1024x32000"));
    }
    shape.push_back(dim);
  }
  const int64_t count = NumElements(shape);
  if (count < 0 || count > kMaxGenerated) {
    return absl::InvalidArgumentError(absl::StrCat("--generate=", text, " is more than ", kMaxGenerated, " elements"));
  }
  return shape;
}

absl::StatusOr<DataType> ParseFloatType(const std::string& name) {
  for (DataType type : {DataType::kFloat32, DataType::kFloat64, DataType::kFloat16, DataType::kBfloat16}) {
    if (name == Name(type)) return type;
  }
  return absl::InvalidArgumentError(
      absl::StrCat("--data_type=", name, " is not one of float32, float64, float16, bfloat16"));
}

// A tensor of `next()` called once for each element.
template <typename T, typename Next>
Tensor Generate(DataType type, const Shape& shape, Next next) {
  Tensor tensor(TensorType{type, shape});
  for (int64_t at = 0; at < tensor.size_bytes(); at += static_cast<int64_t>(sizeof(T))) {
    const T value = next();
    std::memcpy(tensor.data() + at, &value, sizeof(T));
  }
  return tensor;
}

Tensor GenerateLogits(DataType type, const Shape& shape, uint64_t seed) {
  Random random(seed);
  const auto next = [&] { return kLogitsDeviation * random.Normal(); };
  switch (type) {
    case DataType::kFloat64:
      return Generate<double>(type, shape, [&] { return double{next()}; });
    case DataType::kFloat16:
      return Generate<uint16_t>(type, shape, [&] { return ToFloat16(next()); });
    case DataType::kBfloat16:
      return Generate<uint16_t>(type, shape, [&] { return ToBfloat16(next()); });
    default:
      return Generate<float>(type, shape, next);
  }
}

// The class axis that `spec` chooses, or nothing where an element is one entry. A wrong axis counts as the default:
// the server refuses it in better words.
std::optional<int> ClassAxis(const Spec& spec, int rank) {
  std::optional<int32_t> axis;
  if (const auto* loss = std::get_if<CrossEntropy>(&spec.loss)) {
    axis = loss->class_axis;
  } else if (const auto* likelihood = std::get_if<NegativeLogLikelihood>(&spec.loss)) {
    axis = likelihood->class_axis;
  } else {
    return std::nullopt;
  }
  const int chosen = axis && *axis < 0 ? *axis + rank : axis.value_or(std::min(rank - 1, 1));
  return chosen >= 0 && chosen < rank ? chosen : std::min(rank - 1, 1);
}

Tensor GenerateTargets(const Spec& spec, const Shape& logits, uint64_t seed) {
  Random random(seed);
  const std::optional<int> axis = ClassAxis(spec, logits.rank());
  if (!axis) return Generate<float>(DataType::kFloat32, logits, [&] { return random.Uniform(); });
  const uint64_t num_classes = static_cast<uint64_t>(std::max<int64_t>(logits[*axis], 1));
  return Generate<int64_t>(DataType::kInt64, logits.Without(*axis),
                           [&] { return static_cast<int64_t>(random.Below(num_classes)); });
}

absl::Status ReadFlag(const absl::Flag<std::string>& flag, Tensor* tensor) {
  const std::string path = absl::GetFlag(flag);
  if (path.empty()) return absl::OkStatus();
  absl::StatusOr<Tensor> read = ReadNpy(path);
  if (!read.ok()) return read.status();
  *tensor = *std::move(read);
  return absl::OkStatus();
}

absl::Status ReadFiles(EvalTensors* tensors) {
  absl::Status status = ReadFlag(FLAGS_logits, &tensors->logits);
  if (status.ok()) status = ReadFlag(FLAGS_targets, &tensors->targets);
  if (status.ok()) status = ReadFlag(FLAGS_target_probabilities, &tensors->target_probabilities);
  if (status.ok()) status = ReadFlag(FLAGS_class_weights, &tensors->class_weights);
  if (status.ok()) status = ReadFlag(FLAGS_sample_weights, &tensors->sample_weights);
  if (status.ok()) status = ReadFlag(FLAGS_upstream_gradient, &tensors->upstream_gradient);
  return status;
}

}  // namespace

absl::StatusOr<EvalTensors> TensorsFromFlags(const Spec& spec) {
  const std::string generate = absl::GetFlag(FLAGS_generate);
  if (absl::GetFlag(FLAGS_logits).empty() == generate.empty()) {
    return absl::InvalidArgumentError("give either --logits=FILE.npy or --generate=SHAPE");
  }
  EvalTensors tensors;
  absl::Status status = ReadFiles(&tensors);
  if (!status.ok()) return status;
  if (generate.empty()) return tensors;
  absl::StatusOr<Shape> shape = ParseShape(generate);
  if (!shape.ok()) return shape.status();
  absl::StatusOr<DataType> type = ParseFloatType(absl::GetFlag(FLAGS_data_type));
  if (!type.ok()) return type.status();
  const uint64_t seed = absl::GetFlag(FLAGS_seed);
  tensors.logits = GenerateLogits(*type, *shape, seed);
  if (!tensors.targets) tensors.targets = GenerateTargets(spec, *shape, ~seed);
  return tensors;
}

Batch MakeBatch(const Spec& spec, const EvalTensors& tensors) {
  Batch batch;
  batch.job = absl::GetFlag(FLAGS_job).value_or("");
  batch.spec = spec;
  batch.logits = tensors.logits.view();
  batch.targets = tensors.targets.view();
  batch.target_probabilities = tensors.target_probabilities.view();
  batch.class_weights = tensors.class_weights.view();
  batch.sample_weights = tensors.sample_weights.view();
  batch.upstream_gradient = tensors.upstream_gradient.view();
  return batch;
}

}  // namespace lossd
