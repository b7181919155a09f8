// Labelled examples for the sample job: loading, the built-in digits, and the split into training and held-out parts.
#ifndef LOSSD_CLIENT_CPP_DATASET_H_
#define LOSSD_CLIENT_CPP_DATASET_H_

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/cpp/client.h"

namespace lossd {

// N examples of D features each, with labels in [0, num_classes). Copyable, owns its memory.
struct Dataset {
  int64_t num_features = 0;     // D
  int64_t num_classes = 0;      // largest label + 1
  std::vector<float> features;  // (N, D), scaled to [-1, 1] by the largest magnitude
  std::vector<int64_t> labels;  // (N)

  int64_t size() const { return static_cast<int64_t>(labels.size()); }
};

// The UCI handwritten digits, built into this program: 1,797 images of 8x8 in 10 classes. data/README.md has the
// source.
absl::StatusOr<Dataset> DigitsDataset();

// The same from two .npy files: images (N, ...) of uint8 or float32, labels (N) of uint8, int32 or int64.
absl::StatusOr<Dataset> ReadDataset(const std::string& images_path, const std::string& labels_path);

// What both are made with. kInvalidArgument, with a sentence, for other types, unequal lengths, no examples, features
// that are not finite, and labels outside [0, 65536).
absl::StatusOr<Dataset> MakeDataset(const Tensor& images, const Tensor& labels);

// Which examples train and which are held out: disjoint, together all of them, each in random order.
struct Split {
  std::vector<int64_t> training;
  std::vector<int64_t> held_out;
};

// Holds out the share `held_out` (in [0, 1]), rounded down. The same seed gives the same split on every machine.
Split MakeSplit(int64_t size, double held_out, uint64_t seed);

// Shuffles in place, Fisher-Yates; the same seed gives the same order on every machine.
void Shuffle(uint64_t seed, std::span<int64_t> indices);

// The examples `indices`, in that order, dense. REQUIRES: every index is in [0, dataset.size()).
struct Examples {
  std::vector<float> features;  // (M, D)
  std::vector<int64_t> labels;  // (M)
};
Examples Select(const Dataset& dataset, std::span<const int64_t> indices);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_DATASET_H_
