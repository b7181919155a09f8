#include "client/cpp/dataset.h"

#include <algorithm>
#include <cmath>
#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/digits_data.h"
#include "client/cpp/npy.h"
#include "client/cpp/random.h"

namespace lossd {
namespace {

constexpr int64_t kMaxClasses = 65536;

template <typename From, typename To>
std::vector<To> Convert(const Tensor& tensor) {
  const std::span<const From> values = tensor.As<From>();
  std::vector<To> converted(values.size());
  std::transform(values.begin(), values.end(), converted.begin(), [](From value) { return static_cast<To>(value); });
  return converted;
}

absl::StatusOr<std::vector<float>> ToFeatures(const Tensor& images) {
  if (images.data_type() == DataType::kUint8) return Convert<uint8_t, float>(images);
  if (images.data_type() == DataType::kFloat32) return Convert<float, float>(images);
  return absl::InvalidArgumentError(absl::StrCat("images are ", Name(images.data_type()), ", not uint8 or float32"));
}

absl::StatusOr<std::vector<int64_t>> ToLabels(const Tensor& labels) {
  if (labels.data_type() == DataType::kUint8) return Convert<uint8_t, int64_t>(labels);
  if (labels.data_type() == DataType::kInt32) return Convert<int32_t, int64_t>(labels);
  if (labels.data_type() == DataType::kInt64) return Convert<int64_t, int64_t>(labels);
  return absl::InvalidArgumentError(
      absl::StrCat("labels are ", Name(labels.data_type()), ", not uint8, int32 or int64"));
}

absl::Status CheckShapes(const Shape& images, const Shape& labels) {
  if (labels.rank() == 1 && images.rank() >= 1 && images[0] == labels[0] && NumElements(images) > 0) {
    return absl::OkStatus();
  }
  return absl::InvalidArgumentError(absl::StrCat("images of shape ", ToString(images), " and labels of shape ",
                                                 ToString(labels), " are not (N, ...) and (N) with N > 0"));
}

absl::Status ScaleFeatures(std::vector<float>* features) {
  float largest = 0;
  for (float feature : *features) {
    if (!std::isfinite(feature)) return absl::InvalidArgumentError("images hold a value that is not finite");
    largest = std::max(largest, std::abs(feature));
  }
  if (largest == 0) return absl::OkStatus();
  for (float& feature : *features) feature /= largest;
  return absl::OkStatus();
}

absl::StatusOr<int64_t> CountClasses(const std::vector<int64_t>& labels) {
  int64_t largest = 0;
  for (size_t i = 0; i < labels.size(); ++i) {
    if (labels[i] < 0 || labels[i] >= kMaxClasses) {
      return absl::InvalidArgumentError(
          absl::StrCat("labels[", i, "] = ", labels[i], " is outside [0, ", kMaxClasses, ")"));
    }
    largest = std::max(largest, labels[i]);
  }
  return largest + 1;
}

}  // namespace

absl::StatusOr<Dataset> MakeDataset(const Tensor& images, const Tensor& labels) {
  absl::Status status = CheckShapes(images.shape(), labels.shape());
  if (!status.ok()) return status;
  absl::StatusOr<std::vector<float>> features = ToFeatures(images);
  if (!features.ok()) return features.status();
  absl::StatusOr<std::vector<int64_t>> classes = ToLabels(labels);
  if (!classes.ok()) return classes.status();
  absl::StatusOr<int64_t> num_classes = CountClasses(*classes);
  if (!num_classes.ok()) return num_classes.status();
  status = ScaleFeatures(&*features);
  if (!status.ok()) return status;
  Dataset dataset;
  dataset.num_features = NumElements(images.shape()) / images.shape()[0];
  dataset.num_classes = *num_classes;
  dataset.features = *std::move(features);
  dataset.labels = *std::move(classes);
  return dataset;
}

absl::StatusOr<Dataset> DigitsDataset() {
  absl::StatusOr<Tensor> images = ParseNpy(std::string(DigitsImagesNpy()), "digits_images.npy");
  if (!images.ok()) return images.status();
  absl::StatusOr<Tensor> labels = ParseNpy(std::string(DigitsLabelsNpy()), "digits_labels.npy");
  if (!labels.ok()) return labels.status();
  return MakeDataset(*images, *labels);
}

absl::StatusOr<Dataset> ReadDataset(const std::string& images_path, const std::string& labels_path) {
  absl::StatusOr<Tensor> images = ReadNpy(images_path);
  if (!images.ok()) return images.status();
  absl::StatusOr<Tensor> labels = ReadNpy(labels_path);
  if (!labels.ok()) return labels.status();
  return MakeDataset(*images, *labels);
}

void Shuffle(uint64_t seed, std::span<int64_t> indices) {
  Random random(seed);
  for (size_t i = indices.size(); i > 1; --i) std::swap(indices[i - 1], indices[random.Below(i)]);
}

Split MakeSplit(int64_t size, double held_out, uint64_t seed) {
  std::vector<int64_t> indices(static_cast<size_t>(size));
  std::iota(indices.begin(), indices.end(), int64_t{0});
  Shuffle(seed, indices);
  const auto boundary = indices.begin() + static_cast<int64_t>(static_cast<double>(size) * held_out);
  return {std::vector<int64_t>(boundary, indices.end()), std::vector<int64_t>(indices.begin(), boundary)};
}

Examples Select(const Dataset& dataset, std::span<const int64_t> indices) {
  Examples examples;
  examples.features.reserve(indices.size() * static_cast<size_t>(dataset.num_features));
  examples.labels.reserve(indices.size());
  for (int64_t index : indices) {
    const auto row = dataset.features.begin() + index * dataset.num_features;
    examples.features.insert(examples.features.end(), row, row + dataset.num_features);
    examples.labels.push_back(dataset.labels[static_cast<size_t>(index)]);
  }
  return examples;
}

}  // namespace lossd
