#include "client/cpp/training.h"

#include <cstdint>
#include <string>
#include <vector>

#include "fake_lossd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

// Five examples of one feature in two classes.
Dataset SmallDataset() {
  Dataset dataset;
  dataset.num_features = 1;
  dataset.num_classes = 2;
  dataset.features = {0, 1, 0, 1, 1};
  dataset.labels = {0, 1, 0, 1, 1};
  return dataset;
}

const Split kSplit = {{0, 1, 2}, {3, 4}};

// Says that every loss is the call's step and every gradient 0.
grpc::Status Answer(const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
  const int64_t count = request.logits().shape(0);
  SetTensor<float>(v1::DATA_TYPE_FLOAT32, {}, {static_cast<float>(request.step())}, response->mutable_loss());
  response->mutable_summary()->set_element_count(count);
  response->mutable_summary()->set_correct_count(1);
  SetTensor(v1::DATA_TYPE_FLOAT32, {count, 2}, std::vector<float>(static_cast<size_t>(2 * count)),
            response->mutable_logits_gradient());
  SetTensor(v1::DATA_TYPE_INT64, {count}, std::vector<int64_t>(static_cast<size_t>(count)),
            response->mutable_predicted_class());
  return grpc::Status::OK;
}

TrainingOptions SmallOptions() {
  TrainingOptions options;
  options.job = "toy";
  options.epochs = 2;
  options.batch_size = 2;
  return options;
}

TEST(TrainingTest, CountsStepsAndKeepsHeldOutApart) {
  std::vector<std::string> seen;
  FakeLossd fake([&](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
    seen.push_back(request.job() + " " + std::to_string(request.step()) + " " +
                   std::to_string(request.logits().shape(0)) + " " + v1::Output_Name(request.outputs(0)));
    return Answer(request, response);
  });
  std::vector<int64_t> epochs;
  const Client client(fake.target());
  absl::StatusOr<TrainingResult> result =
      Train(client, SmallDataset(), kSplit, SmallOptions(), [&](const TrainingStep& step) {
        epochs.push_back(step.epoch);
        EXPECT_EQ(step.num_steps, 4);
      });
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_THAT(seen, ElementsAre("toy 1 2 OUTPUT_LOGITS_GRADIENT", "toy 2 1 OUTPUT_LOGITS_GRADIENT",
                                "toy 3 2 OUTPUT_LOGITS_GRADIENT", "toy 4 1 OUTPUT_LOGITS_GRADIENT",
                                "toy/held-out 4 2 OUTPUT_PREDICTED_CLASS"));
  EXPECT_THAT(epochs, ElementsAre(1, 1, 2, 2));
  EXPECT_THAT(result->losses, ElementsAre(1, 2, 3, 4));
  EXPECT_EQ(result->held_out_correct, 1);
  EXPECT_EQ(result->held_out_count, 2);
}

TEST(TrainingTest, AFailedCallEndsItAndSaysWhere) {
  FakeLossd fake([](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
    return request.step() == 3 ? grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "no") : Answer(request, response);
  });
  const Client client(fake.target());
  int num_steps = 0;
  const absl::Status status =
      Train(client, SmallDataset(), kSplit, SmallOptions(), [&](const TrainingStep&) { ++num_steps; }).status();
  EXPECT_EQ(status, absl::InvalidArgumentError("in step 3: no"));
  EXPECT_EQ(num_steps, 2);
}

TEST(TrainingTest, AnAnswerWithoutCorrectCountIsAnError) {
  FakeLossd fake([](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
    const grpc::Status status = Answer(request, response);
    response->mutable_summary()->clear_correct_count();
    return status;
  });
  const Client client(fake.target());
  const absl::Status status =
      Train(client, SmallDataset(), kSplit, SmallOptions(), [](const TrainingStep&) {}).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(std::string(status.message()), HasSubstr("correct_count"));
}

}  // namespace
}  // namespace lossd
