// Decode(): what ParseMessage() read becomes a request in the words of loss/.
#include <google/protobuf/unknown_field_set.h>

#include <algorithm>
#include <limits>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/string_view.h"
#include "loss/element.h"
#include "server/wire.h"

namespace lossd {
namespace {

constexpr size_t kMaxJobBytes = 128;

template <typename... Parts>
absl::Status Invalid(const Parts&... parts) {
  return absl::InvalidArgumentError(absl::StrCat(parts...));
}

// What a Request points into.
struct Storage {
  v1::EvaluateRequest message;
  v1::EvaluateStreamRequest streamed;             // one of the two
  std::vector<std::vector<std::byte>> converted;  // typed contents that had to change their type
};

// ---- small fields ----

absl::Status CheckJob(absl::string_view job) {
  if (job.size() > kMaxJobBytes) {
    return Invalid("job has ", job.size(), " characters; at most ", kMaxJobBytes, " are allowed");
  }
  for (size_t i = 0; i < job.size(); ++i) {
    const char c = job[i];
    const bool allowed = absl::ascii_isalnum(static_cast<unsigned char>(c)) ||
                         absl::string_view("_.:/-").find(c) != absl::string_view::npos;
    if (!allowed) {
      return Invalid("job[", i, "] is the character with code ", static_cast<int>(static_cast<unsigned char>(c)),
                     "; allowed are letters, digits and _ . : / -");
    }
  }
  return absl::OkStatus();
}

// An option that this build does not know would be a wrong number if it were skipped.
absl::Status CheckUnknown(const char* name, const google::protobuf::Message& message) {
  const auto& unknown = message.GetReflection()->GetUnknownFields(message);
  if (unknown.empty()) return absl::OkStatus();
  return absl::UnimplementedError(absl::StrCat(name, " has a field with number ", unknown.field(0).number(),
                                               " that this build of lossd does not know; use a newer server"));
}

Loss ReadLoss(const v1::LossSpec& spec) {
  switch (spec.loss_case()) {
    case v1::LossSpec::kNegativeLogLikelihood: {
      const auto& message = spec.negative_log_likelihood();
      NegativeLogLikelihood loss;
      if (message.has_ignore_index()) loss.ignore_index = message.ignore_index();
      if (message.has_class_axis()) loss.class_axis = message.class_axis();
      return loss;
    }
    case v1::LossSpec::kKlDivergence:
      return KlDivergence{.log_target = spec.kl_divergence().log_target()};
    case v1::LossSpec::kBinaryCrossEntropy:
      return BinaryCrossEntropy{.label_smoothing = spec.binary_cross_entropy().label_smoothing()};
    default: {
      const auto& message = spec.cross_entropy();
      CrossEntropy loss;
      loss.label_smoothing = message.label_smoothing();
      if (message.has_ignore_index()) loss.ignore_index = message.ignore_index();
      if (message.has_class_axis()) loss.class_axis = message.class_axis();
      loss.z_loss = message.z_loss();
      loss.softcap = message.softcap();
      if (message.has_temperature()) loss.temperature = message.temperature();
      loss.focal_gamma = message.focal_gamma();
      loss.poly_epsilon = message.poly_epsilon();
      return loss;
    }
  }
}

absl::Status CheckUnknownOptions(const v1::LossSpec& spec) {
  const std::pair<const char*, const google::protobuf::Message*> messages[] = {
      {"loss", &spec},
      {"loss.cross_entropy", &spec.cross_entropy()},
      {"loss.negative_log_likelihood", &spec.negative_log_likelihood()},
      {"loss.kl_divergence", &spec.kl_divergence()},
      {"loss.binary_cross_entropy", &spec.binary_cross_entropy()},
  };
  for (const auto& [name, message] : messages) {
    if (absl::Status status = CheckUnknown(name, *message); !status.ok()) return status;
  }
  return absl::OkStatus();
}

template <typename Enum>
absl::Status UnknownValue(const char* name, Enum value) {
  return absl::UnimplementedError(
      absl::StrCat(name, " = ", static_cast<int>(value), " is a value that this build of lossd does not know"));
}

absl::Status ReadSpec(const v1::EvaluateRequest& message, Spec& spec) {
  const v1::LossSpec& from = message.loss();
  if (absl::Status status = CheckUnknownOptions(from); !status.ok()) return status;
  spec.loss = ReadLoss(from);
  if (!v1::Reduction_IsValid(from.reduction())) return UnknownValue("loss.reduction", from.reduction());
  if (!v1::InformationUnit_IsValid(from.unit())) return UnknownValue("loss.unit", from.unit());
  spec.reduction = static_cast<Reduction>(from.reduction());
  spec.unit = static_cast<InformationUnit>(from.unit());
  if (from.has_normalizer()) spec.normalizer = from.normalizer();
  for (int i = 0; i < message.outputs_size(); ++i) {
    const v1::Output output = message.outputs(i);
    if (output == v1::OUTPUT_UNSPECIFIED) return Invalid("outputs[", i, "] is OUTPUT_UNSPECIFIED; name an output");
    if (!v1::Output_IsValid(output)) return UnknownValue("outputs", output);
    spec.outputs.Add(static_cast<Output>(output));
  }
  if (!v1::DataType_IsValid(message.gradient_type())) {
    return Invalid("gradient_type = ", static_cast<int>(message.gradient_type()), " is not a DataType");
  }
  spec.gradient_type = static_cast<DataType>(message.gradient_type());
  return absl::OkStatus();
}

// ---- tensors ----

// Stores `value` as `type`, if it can hold it: integers exactly, floats to rounding but not to infinity.
bool StoreInteger(int64_t value, DataType type, void* data, int64_t index) {
  return WithIntegerType(type, [&]<typename T>(T) {
    const T stored = static_cast<T>(value);
    StoreElement(data, index, stored);
    return int64_t{stored} == value;
  });
}

bool StoreReal(double value, DataType type, void* data, int64_t index) {
  const MutableTensorView tensor{data, {type, {}}};
  StoreFloat(tensor, index, value);
  return std::isinf(value) || !std::isinf(FloatAt({data, {type, {}}}, index));
}

// Reads what people type: floats, doubles and ints.
template <typename Values>
absl::Status ReadTyped(const char* name, const Values& values, DataType natural, TensorView& view, Contents& contents,
                       Storage& storage) {
  DataType& type = view.type.data_type;
  if (type == DataType::kUnspecified) type = natural;
  const bool integers = natural == DataType::kInt64;
  if (integers == IsFloat(type)) {
    return Invalid(name, ".data_type is ", Name(type), ", which ", integers ? "ints" : "floats and doubles",
                   " do not go with; leave it out, or send the other contents");
  }
  contents.bytes = int64_t{values.size()} * SizeOf(type);
  if (type == natural) {
    view.data = values.data();
    return absl::OkStatus();
  }
  std::vector<std::byte>& converted = storage.converted.emplace_back(static_cast<size_t>(contents.bytes));
  view.data = converted.data();
  for (int i = 0; i < values.size(); ++i) {
    bool held;
    if constexpr (std::is_same_v<typename Values::value_type, int64_t>) {
      held = StoreInteger(values[i], type, converted.data(), i);
    } else {
      held = StoreReal(values[i], type, converted.data(), i);
    }
    if (!held) return Invalid(name, ": element ", i, " is ", values[i], ", which ", Name(type), " cannot hold");
  }
  return absl::OkStatus();
}

void ReadRaw(const RawReference& raw, const Slices& message, TensorView& view, Contents& contents) {
  contents.bytes = raw.size;
  view.data = message.Contiguous(raw.offset, raw.size);
  if (view.data == nullptr) contents.scattered = raw.offset;
}

absl::Status ReadTensor(const char* name, const v1::Tensor& message, const Slices& slices, TensorView& view,
                        Contents& contents, Storage& storage) {
  if (message.shape_size() > Shape::kMaxRank) {
    return Invalid(name, ".shape has ", message.shape_size(), " axes; at most ", Shape::kMaxRank, " are allowed");
  }
  if (!v1::DataType_IsValid(message.data_type())) {
    return Invalid(name, ".data_type = ", static_cast<int>(message.data_type()), " is not a DataType");
  }
  view.type.shape = Shape({message.shape().data(), static_cast<size_t>(message.shape_size())});
  view.type.data_type = static_cast<DataType>(message.data_type());
  switch (message.contents_case()) {
    case v1::Tensor::kFloats:
      return ReadTyped(name, message.floats().values(), DataType::kFloat32, view, contents, storage);
    case v1::Tensor::kDoubles:
      return ReadTyped(name, message.doubles().values(), DataType::kFloat64, view, contents, storage);
    case v1::Tensor::kInts:
      return ReadTyped(name, message.ints().values(), DataType::kInt64, view, contents, storage);
    default:
      break;
  }
  if (!view.type) return Invalid(name, ".data_type is unset; raw contents need it, e.g. DATA_TYPE_FLOAT32");
  ReadRaw(ReferenceOf(message), slices, view, contents);
  return absl::OkStatus();
}

absl::Status ReadTensors(const v1::EvaluateRequest& message, Request& request, Storage& storage) {
  const auto present = [](bool has, const v1::Tensor& tensor) { return has ? &tensor : nullptr; };
  InputSet<const v1::Tensor*> tensors;
  tensors.logits = present(message.has_logits(), message.logits());
  tensors.targets = present(message.has_targets(), message.targets());
  tensors.target_probabilities = present(message.has_target_probabilities(), message.target_probabilities());
  tensors.class_weights = present(message.has_class_weights(), message.class_weights());
  tensors.sample_weights = present(message.has_sample_weights(), message.sample_weights());
  tensors.upstream_gradient = present(message.has_upstream_gradient(), message.upstream_gradient());
  absl::Status status;
  ForEachInput(
      [&](const char* name, const v1::Tensor* tensor, TensorView& view, Contents& contents) {
        if (tensor != nullptr && status.ok()) {
          status = ReadTensor(name, *tensor, request.message, view, contents, storage);
        }
      },
      tensors, request.inputs, request.contents);
  return status;
}

// `message` is part of `storage`.
absl::StatusOr<Request> ReadRequest(const v1::EvaluateRequest& message, std::shared_ptr<Storage> storage,
                                    Slices slices) {
  Request request;
  request.message = std::move(slices);
  request.job = message.job();
  if (message.has_step()) request.step = message.step();
  absl::Status status = CheckJob(request.job);
  if (status.ok()) status = ReadSpec(message, request.spec);
  if (status.ok()) status = ReadTensors(message, request, *storage);
  if (!status.ok()) return status;
  request.storage = std::move(storage);
  return request;
}

}  // namespace

absl::StatusOr<Request> Decode(grpc::ByteBuffer bytes, ReserveBytes reserve) {
  Slices slices(bytes);
  auto storage = std::make_shared<Storage>();
  if (absl::Status status = ParseMessage(slices, reserve, storage->message); !status.ok()) return status;
  const v1::EvaluateRequest& message = storage->message;
  return ReadRequest(message, std::move(storage), std::move(slices));
}

absl::StatusOr<Request> DecodeStreamed(grpc::ByteBuffer bytes, ReserveBytes reserve, int64_t& sequence) {
  Slices slices(bytes);
  auto storage = std::make_shared<Storage>();
  if (absl::Status status = ParseMessage(slices, reserve, storage->streamed); !status.ok()) {
    sequence = SequenceOf(slices);
    return status;
  }
  sequence = storage->streamed.sequence();
  const v1::EvaluateRequest& message = storage->streamed.request();
  return ReadRequest(message, std::move(storage), std::move(slices));
}

absl::Status CheckContents(const Request& request) {
  absl::Status status;
  ForEachInput(
      [&status](const char* name, const TensorView& tensor, const Contents& contents) {
        if (!tensor) return;
        const int64_t wanted = NumElements(tensor.type.shape) * SizeOf(tensor.type.data_type);
        if (contents.bytes == wanted) return;
        status.Update(Invalid(name, " holds ", contents.bytes, " bytes; ", Name(tensor.type.data_type), " of shape ",
                              ToString(tensor.type.shape), " needs ", wanted));
      },
      request.inputs, request.contents);
  return status;
}

int64_t ScatteredBytes(const Request& request, const InputSet<bool>& tensors) {
  int64_t bytes = 0;
  ForEachInput(
      [&bytes](const char*, const Contents& contents, bool wanted) {
        if (wanted && contents.scattered) bytes += contents.bytes;
      },
      request.contents, tensors);
  return bytes;
}

absl::Status Gather(const InputSet<bool>& tensors, Request& request) {
  absl::Status status;
  ForEachInput(
      [&](const char*, bool wanted, const Contents& contents, TensorView& view, Buffer& buffer) {
        if (!wanted || !contents.scattered || !status.ok()) return;
        absl::StatusOr<Buffer> memory = Buffer::Allocate(contents.bytes);
        if (!memory.ok()) {
          status = memory.status();
          return;
        }
        buffer = *std::move(memory);
        request.message.CopyTo(*contents.scattered, contents.bytes, buffer.data());
        request.message.Release(*contents.scattered, contents.bytes);
        view.data = buffer.data();
      },
      tensors, request.contents, request.inputs, request.gathered);
  return status;
}

}  // namespace lossd
