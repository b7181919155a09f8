#include "client/cpp/dataset.h"

#include <algorithm>
#include <cstring>
#include <limits>
#include <set>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

template <typename T>
Tensor MakeTensor(DataType type, const Shape& shape, const std::vector<T>& values) {
  return Tensor({type, shape}, std::string(reinterpret_cast<const char*>(values.data()), values.size() * sizeof(T)));
}

TEST(DatasetTest, TheBuiltInDigitsAreWhole) {
  absl::StatusOr<Dataset> digits = DigitsDataset();
  ASSERT_TRUE(digits.ok()) << digits.status();
  EXPECT_EQ(digits->size(), 1797);
  EXPECT_EQ(digits->num_features, 64);
  EXPECT_EQ(digits->num_classes, 10);
  EXPECT_EQ(digits->features.size(), 1797u * 64u);
  EXPECT_EQ(*std::max_element(digits->features.begin(), digits->features.end()), 1.0f);
  EXPECT_EQ(*std::min_element(digits->features.begin(), digits->features.end()), 0.0f);
  EXPECT_THAT(std::vector<int64_t>(digits->labels.begin(), digits->labels.begin() + 5), ElementsAre(0, 1, 2, 3, 4));
  // scikit-learn's load_digits(): the classes have 174 to 183 examples.
  for (int64_t label = 0; label < 10; ++label) {
    const int64_t count = std::count(digits->labels.begin(), digits->labels.end(), label);
    EXPECT_GE(count, 174);
    EXPECT_LE(count, 183);
  }
}

TEST(DatasetTest, ScalesFeaturesAndCountsClasses) {
  absl::StatusOr<Dataset> dataset = MakeDataset(MakeTensor<float>(DataType::kFloat32, {2, 1, 2}, {-4, 2, 1, 0}),
                                                MakeTensor<int32_t>(DataType::kInt32, {2}, {0, 3}));
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_EQ(dataset->num_features, 2);
  EXPECT_EQ(dataset->num_classes, 4);
  EXPECT_THAT(dataset->features, ElementsAre(-1, 0.5f, 0.25f, 0));
}

TEST(DatasetTest, AllZeroFeaturesStayZero) {
  absl::StatusOr<Dataset> dataset = MakeDataset(MakeTensor<uint8_t>(DataType::kUint8, {1, 2}, {0, 0}),
                                                MakeTensor<uint8_t>(DataType::kUint8, {1}, {0}));
  ASSERT_TRUE(dataset.ok()) << dataset.status();
  EXPECT_THAT(dataset->features, ElementsAre(0, 0));
}

TEST(DatasetTest, RefusesWithASentence) {
  const float nan = std::numeric_limits<float>::quiet_NaN();
  const auto two_images = [] { return MakeTensor<float>(DataType::kFloat32, {2, 1}, {1, 2}); };
  const auto two_labels = [] { return MakeTensor<int64_t>(DataType::kInt64, {2}, {0, 1}); };
  const struct {
    const char* message;
    Tensor images;
    Tensor labels;
  } cases[] = {
      {"images are int64", two_labels(), two_labels()},
      {"labels are float32", two_images(), MakeTensor<float>(DataType::kFloat32, {2}, {0, 1})},
      {"[2, 1] and labels of shape [3]", two_images(), MakeTensor<int64_t>(DataType::kInt64, {3}, {0, 1, 2})},
      {"labels of shape [2, 1]", two_images(), MakeTensor<int64_t>(DataType::kInt64, {2, 1}, {0, 1})},
      {"N > 0", MakeTensor<float>(DataType::kFloat32, {0, 4}, {}), MakeTensor<int64_t>(DataType::kInt64, {0}, {})},
      {"N > 0", MakeTensor<float>(DataType::kFloat32, {2, 0}, {}), two_labels()},
      {"labels[1] = -1", two_images(), MakeTensor<int64_t>(DataType::kInt64, {2}, {0, -1})},
      {"labels[0] = 65536", two_images(), MakeTensor<int64_t>(DataType::kInt64, {2}, {65536, 0})},
      {"not finite", MakeTensor<float>(DataType::kFloat32, {2, 1}, {1, nan}), two_labels()},
  };
  for (const auto& c : cases) {
    const absl::Status status = MakeDataset(c.images, c.labels).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST(DatasetTest, TheSplitIsAPartition) {
  for (int64_t size : {0, 1, 5, 1797}) {
    const Split split = MakeSplit(size, 0.2, 7);
    EXPECT_EQ(split.held_out.size(), static_cast<size_t>(size / 5));
    std::set<int64_t> all(split.training.begin(), split.training.end());
    all.insert(split.held_out.begin(), split.held_out.end());
    EXPECT_EQ(all.size(), static_cast<size_t>(size));
    EXPECT_EQ(split.training.size() + split.held_out.size(), static_cast<size_t>(size));
    if (size > 0) {
      EXPECT_EQ(*all.rbegin(), size - 1);
    }
  }
}

TEST(DatasetTest, TheSplitDependsOnTheSeedAlone) {
  EXPECT_EQ(MakeSplit(1797, 0.2, 1).held_out, MakeSplit(1797, 0.2, 1).held_out);
  EXPECT_NE(MakeSplit(1797, 0.2, 1).held_out, MakeSplit(1797, 0.2, 2).held_out);
  // The same numbers on every machine and with every standard library.
  EXPECT_THAT(MakeSplit(6, 0.5, 1).held_out, ElementsAre(0, 1, 3));
}

TEST(DatasetTest, SelectKeepsTheOrderOfTheIndices) {
  Dataset dataset;
  dataset.num_features = 2;
  dataset.features = {0, 1, 2, 3, 4, 5};
  dataset.labels = {7, 8, 9};
  const Examples examples = Select(dataset, std::vector<int64_t>{2, 0});
  EXPECT_THAT(examples.features, ElementsAre(4, 5, 0, 1));
  EXPECT_THAT(examples.labels, ElementsAre(9, 7));
}

}  // namespace
}  // namespace lossd
