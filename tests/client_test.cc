#include "client/cpp/client.h"

#include <atomic>
#include <cmath>
#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "absl/synchronization/notification.h"
#include "fake_lossd.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr absl::Duration kTimeout = absl::Seconds(20);

const std::vector<float> kLogits = {1, 2, 3, 4, 5, 6};
const std::vector<int64_t> kTargets = {0, 2};

Batch SmallBatch() {
  Batch batch;
  batch.logits = {kLogits.data(), {DataType::kFloat32, {2, 3}}};
  batch.targets = {kTargets.data(), {DataType::kInt64, {2}}};
  return batch;
}

// A right answer to SmallBatch() with every output that the tests ask for.
grpc::Status Answer(const v1::EvaluateRequest&, v1::EvaluateResponse* response) {
  SetTensor<float>(v1::DATA_TYPE_FLOAT32, {}, {1.5f}, response->mutable_loss());
  response->mutable_summary()->set_loss_sum(3);
  response->mutable_summary()->set_element_count(2);
  response->mutable_timing()->set_queue_seconds(0.25);
  response->mutable_timing()->set_compute_seconds(0.5);
  SetTensor<float>(v1::DATA_TYPE_FLOAT32, {2}, {1, 2}, response->mutable_element_loss());
  SetTensor<int64_t>(v1::DATA_TYPE_INT64, {2}, {2, 2}, response->mutable_predicted_class());
  SetTensor<float>(v1::DATA_TYPE_FLOAT32, {2, 3}, {1, 2, 3, 4, 5, 6}, response->mutable_logits_gradient());
  return grpc::Status::OK;
}

TEST(ClientTest, SendsTheWholeBatch) {
  v1::EvaluateRequest seen;
  FakeLossd fake([&](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
    seen = request;
    return Answer(request, response);
  });
  const std::vector<float> class_weights = {1, 2, 3}, sample_weights = {0.5f, 0.25f}, upstream = {2};
  Batch batch = SmallBatch();
  batch.job = "digits";
  batch.step = 17;
  batch.class_weights = {class_weights.data(), {DataType::kFloat32, {3}}};
  batch.sample_weights = {sample_weights.data(), {DataType::kFloat32, {2}}};
  batch.upstream_gradient = {upstream.data(), {DataType::kFloat32, {}}};
  CrossEntropy& loss = batch.spec.loss.emplace<CrossEntropy>();
  loss.label_smoothing = 0.125;
  loss.ignore_index = -1;
  loss.class_axis = -1;
  batch.spec.normalizer = 8;
  batch.spec.outputs = {Output::kLogitsGradient, Output::kPredictedClass};
  batch.spec.gradient_type = DataType::kFloat32;
  ASSERT_TRUE(Client(fake.target()).Evaluate(batch, kTimeout).ok());

  EXPECT_EQ(seen.job(), "digits");
  EXPECT_EQ(seen.step(), 17);
  EXPECT_EQ(seen.loss().cross_entropy().label_smoothing(), 0.125);
  EXPECT_EQ(seen.loss().cross_entropy().ignore_index(), -1);
  EXPECT_EQ(seen.loss().cross_entropy().class_axis(), -1);
  EXPECT_FALSE(seen.loss().cross_entropy().has_temperature());
  EXPECT_EQ(seen.loss().normalizer(), 8);
  EXPECT_THAT(seen.outputs(), ElementsAre(v1::OUTPUT_LOGITS_GRADIENT, v1::OUTPUT_PREDICTED_CLASS));
  EXPECT_EQ(seen.gradient_type(), v1::DATA_TYPE_FLOAT32);
  EXPECT_THAT(seen.logits().shape(), ElementsAre(2, 3));
  EXPECT_EQ(seen.logits().raw(), std::string(reinterpret_cast<const char*>(kLogits.data()), 24));
  EXPECT_EQ(seen.targets().data_type(), v1::DATA_TYPE_INT64);
  EXPECT_EQ(seen.targets().raw().size(), 16u);
  EXPECT_EQ(seen.class_weights().raw().size(), 12u);
  EXPECT_EQ(seen.sample_weights().raw().size(), 8u);
  EXPECT_EQ(seen.upstream_gradient().shape_size(), 0);
  EXPECT_FALSE(seen.has_target_probabilities());
}

TEST(ClientTest, SendsEveryLoss) {
  v1::LossSpec seen;
  FakeLossd fake([&](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
    seen = request.loss();
    return Answer(request, response);
  });
  const Client client(fake.target());
  const struct {
    Loss loss;
    const char* want;
  } cases[] = {
      {CrossEntropy{.ignore_index = {},
                    .class_axis = {},
                    .z_loss = 1,
                    .softcap = 2,
                    .temperature = 3,
                    .focal_gamma = 4,
                    .poly_epsilon = 5},
       "cross_entropy { z_loss: 1 softcap: 2 temperature: 3 focal_gamma: 4 poly_epsilon: 5 }"},
      {NegativeLogLikelihood{.ignore_index = 7, .class_axis = 1},
       "negative_log_likelihood { ignore_index: 7 class_axis: 1 }"},
      {KlDivergence{.log_target = true}, "kl_divergence { log_target: true }"},
      {BinaryCrossEntropy{.label_smoothing = 0.5}, "binary_cross_entropy { label_smoothing: 0.5 }"},
  };
  for (const auto& c : cases) {
    Batch batch = SmallBatch();
    batch.spec.loss = c.loss;
    ASSERT_TRUE(client.Evaluate(batch, kTimeout).ok());
    EXPECT_THAT(seen.ShortDebugString(), HasSubstr(c.want));
  }
}

TEST(ClientTest, ReturnsTheWholeAnswer) {
  FakeLossd fake(Answer);
  Batch batch = SmallBatch();
  batch.spec.outputs = {Output::kLogitsGradient, Output::kPredictedClass, Output::kElementLoss};
  absl::StatusOr<Evaluation> answer = Client(fake.target()).Evaluate(batch, kTimeout);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->loss.scalar(), 1.5);
  EXPECT_EQ(answer->summary.loss_sum, 3);
  EXPECT_FALSE(answer->summary.correct_count.has_value());
  EXPECT_EQ(answer->queue_seconds, 0.25);
  EXPECT_EQ(answer->compute_seconds, 0.5);
  EXPECT_THAT(answer->element_loss.As<float>(), ElementsAre(1, 2));
  EXPECT_THAT(answer->predicted_class.As<int64_t>(), ElementsAre(2, 2));
  EXPECT_THAT(answer->logits_gradient.As<float>(), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(answer->logits_gradient.shape(), Shape({2, 3}));
  EXPECT_FALSE(answer->entropy);
  EXPECT_TRUE(std::isnan(answer->element_loss.scalar()));
  EXPECT_TRUE(std::isnan(answer->entropy.scalar()));
}

TEST(ClientTest, EveryStatusArrivesAsItIs) {
  for (int code = 1; code <= 16; ++code) {
    FakeLossd fake([code](const v1::EvaluateRequest&, v1::EvaluateResponse*) {
      return grpc::Status(static_cast<grpc::StatusCode>(code), "targets[17] = 3");
    });
    const absl::Status status = Client(fake.target()).Evaluate(SmallBatch(), kTimeout).status();
    EXPECT_EQ(status, absl::Status(static_cast<absl::StatusCode>(code), "targets[17] = 3"));
    EXPECT_EQ(fake.num_calls(), status.code() == absl::StatusCode::kUnavailable ? 4 : 1);
  }
}

TEST(ClientTest, RetriesUnavailableForLargeBatchesToo) {
  const std::vector<float> logits(1 << 20);
  const std::vector<int64_t> targets(1 << 10);
  Batch batch;
  batch.logits = {logits.data(), {DataType::kFloat32, {1 << 10, 1 << 10}}};
  batch.targets = {targets.data(), {DataType::kInt64, {1 << 10}}};
  for (const Batch& each : {SmallBatch(), batch}) {
    std::atomic<int> refusals = 2;
    FakeLossd fake([&](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
      return refusals-- > 0 ? grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining") : Answer(request, response);
    });
    const absl::Status status = Client(fake.target()).Evaluate(each, kTimeout).status();
    EXPECT_TRUE(status.ok()) << status;
    EXPECT_EQ(fake.num_calls(), 3);
  }
}

TEST(ClientTest, DeclaresTheSizeOfTheRequest) {
  int64_t size = 0;
  FakeLossd fake([&](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
    size = static_cast<int64_t>(request.ByteSizeLong());
    return Answer(request, response);
  });
  const Client client(fake.target());
  ASSERT_TRUE(client.Evaluate(SmallBatch(), kTimeout).ok());
  EXPECT_EQ(fake.declared_bytes(), std::to_string(size));
}

TEST(ClientTest, ComesBackWhenAFullServerSaysSo) {
  for (const char* pushback : {"", "0", "20", "-1", "never"}) {
    std::atomic<int> refusals = 2;
    FakeLossd fake([&](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
      return refusals-- > 0 ? grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full") : Answer(request, response);
    });
    fake.set_pushback(pushback);
    const absl::Status status = Client(fake.target()).Evaluate(SmallBatch(), kTimeout).status();
    const bool again = pushback[0] == '0' || pushback[0] == '2';
    EXPECT_EQ(fake.num_calls(), again ? 3 : 1) << pushback;
    EXPECT_EQ(status.code(), again ? absl::StatusCode::kOk : absl::StatusCode::kResourceExhausted) << pushback;
  }
}

TEST(ClientTest, DoesNotComeBackAfterTheDeadline) {
  FakeLossd fake([&](const v1::EvaluateRequest&, v1::EvaluateResponse*) {
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
  });
  fake.set_pushback("60000");
  EXPECT_TRUE(absl::IsResourceExhausted(Client(fake.target()).Evaluate(SmallBatch(), absl::Seconds(30)).status()));
  EXPECT_EQ(fake.num_calls(), 1);
}

TEST(ClientTest, WritesTheGradientWhereTheCallerWantsIt) {
  FakeLossd fake(Answer);
  const Client client(fake.target());
  Batch batch = SmallBatch();
  batch.spec.outputs = {Output::kLogitsGradient};
  std::vector<float> gradient(6);
  EvaluateOptions options;
  options.timeout = kTimeout;
  options.logits_gradient = std::as_writable_bytes(std::span(gradient));
  const absl::StatusOr<Evaluation> answer = client.Evaluate(batch, options);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_THAT(gradient, ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(answer->logits_gradient.As<float>().data(), gradient.data());
  options.logits_gradient = options.logits_gradient.first(20);
  const absl::Status status = client.Evaluate(batch, options).status();
  EXPECT_EQ(status, absl::InvalidArgumentError(
                        "EvaluateOptions.logits_gradient has 20 bytes, and the gradient of the logits 24"));
}

// What was sent is the caller's again when the call has ended, whatever gRPC was doing with it.
TEST(ClientTest, TheBatchIsNotReadAfterACallThatWasCutShort) {
  absl::Notification done;
  FakeLossd fake([&](const v1::EvaluateRequest&, v1::EvaluateResponse*) {
    done.WaitForNotification();
    return grpc::Status(grpc::StatusCode::INTERNAL, "too late");
  });
  const Client client(fake.target());
  for (int milliseconds : {0, 1, 2, 5, 10, 20, 50}) {
    auto logits = std::make_unique<std::vector<float>>(16 << 20, 1.0f);
    Batch batch = SmallBatch();
    batch.logits = {logits->data(), {DataType::kFloat32, {2, 8 << 20}}};
    EXPECT_TRUE(absl::IsDeadlineExceeded(client.Evaluate(batch, absl::Milliseconds(milliseconds)).status()));
    logits.reset();  // and AddressSanitizer sees who reads it
  }
  done.Notify();
}

TEST(ClientTest, TheTimeoutEndsACall) {
  absl::Notification done;
  FakeLossd fake([&](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
    done.WaitForNotification();
    return Answer(request, response);
  });
  const Client client(fake.target());
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.Evaluate(SmallBatch(), absl::Milliseconds(50)).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.Evaluate(SmallBatch(), absl::ZeroDuration()).status()));
  EXPECT_TRUE(absl::IsDeadlineExceeded(client.Evaluate(SmallBatch(), -absl::InfiniteDuration()).status()));
  done.Notify();
  EXPECT_TRUE(client.Evaluate(SmallBatch(), absl::InfiniteDuration()).ok());
}

TEST(ClientTest, NoServerIsUnavailable) {
  const Client client("unix:/nonexistent/lossd.sock");
  EXPECT_TRUE(absl::IsUnavailable(client.Evaluate(SmallBatch(), kTimeout).status()));
  EXPECT_TRUE(absl::IsUnavailable(client.GetServerInfo(kTimeout).status()));
  EXPECT_TRUE(absl::IsUnavailable(client.CheckHealth("", kTimeout)));
}

TEST(ClientTest, AnswersBeyondFourMegabytesArrive) {
  const std::vector<float> logits(3 << 20);
  FakeLossd fake([&](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
    const grpc::Status status = Answer(request, response);
    response->clear_logits_gradient();
    SetTensor<float>(v1::DATA_TYPE_FLOAT32, {3, 1 << 20}, logits, response->mutable_logits_gradient());
    return status;
  });
  Batch batch = SmallBatch();
  batch.logits = {logits.data(), {DataType::kFloat32, {3, 1 << 20}}};
  batch.spec.outputs = {Output::kLogitsGradient};
  absl::StatusOr<Evaluation> answer = Client(fake.target()).Evaluate(batch, kTimeout);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->logits_gradient.As<float>().size(), logits.size());
}

TEST(ClientTest, BatchesThatNoMessageCarriesAreRefusedUnread) {
  const Client client("unix:/nonexistent/lossd.sock");
  const int64_t most = std::numeric_limits<int64_t>::max();
  Batch batch = SmallBatch();
  batch.targets.type.shape = Shape{1};
  for (const Shape& shape : {Shape{1, 1 << 30}, Shape{1, int64_t{1} << 40}}) {  // one row, which nobody can cut
    batch.logits = {nullptr, {DataType::kFloat32, shape}};
    const absl::Status status = client.Evaluate(batch, kTimeout).status();
    EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("cannot be cut into less than 1 element"));
    EXPECT_THAT(std::string(status.message()), HasSubstr("2147483647"));
  }
  std::byte destination[4];
  EvaluateOptions options;
  options.logits_gradient = destination;
  batch.logits = {nullptr, {DataType::kFloat32, Shape{1, int64_t{1} << 62}}};  // 2^64 bytes
  EXPECT_THAT(std::string(client.Evaluate(batch, options).status().message()),
              HasSubstr("of the logits 9223372036854775"));
  EXPECT_FALSE(client.Evaluate(Batch(), kTimeout).ok());  // of no type at all
  for (const Shape& shape : {Shape{-1}, Shape{most, 2}, Shape{0, most, most}}) {
    batch.logits = {nullptr, {DataType::kFloat32, shape}};
    const absl::Status status = client.Evaluate(batch, kTimeout).status();
    EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr("logits is float32 of shape ["));
  }
}

struct Malformed {
  const char* message;
  std::function<void(v1::EvaluateResponse*)> spoil;
};

TEST(ClientTest, MalformedAnswersAreInternalErrors) {
  const Malformed cases[] = {
      {"loss is missing", [](v1::EvaluateResponse* r) { r->clear_loss(); }},
      {"loss is float64",
       [](v1::EvaluateResponse* r) {
         r->mutable_loss()->set_data_type(v1::DATA_TYPE_FLOAT64);
         r->mutable_loss()->set_raw(std::string(8, '\0'));
       }},
      {"loss has the shape [1]", [](v1::EvaluateResponse* r) { r->mutable_loss()->add_shape(1); }},
      {"loss has the unknown data type 99",
       [](v1::EvaluateResponse* r) { r->mutable_loss()->set_data_type(static_cast<v1::DataType>(99)); }},
      {"loss has the unknown data type 0", [](v1::EvaluateResponse* r) { r->mutable_loss()->clear_data_type(); }},
      {"has 3 bytes", [](v1::EvaluateResponse* r) { r->mutable_loss()->mutable_raw()->pop_back(); }},
      {"has 0 bytes", [](v1::EvaluateResponse* r) { r->mutable_loss()->clear_contents(); }},
      {"raw contents", [](v1::EvaluateResponse* r) { r->mutable_loss()->mutable_floats()->add_values(1); }},
      {"logits_gradient was asked for and is missing", [](v1::EvaluateResponse* r) { r->clear_logits_gradient(); }},
      {"has 25 bytes", [](v1::EvaluateResponse* r) { r->mutable_logits_gradient()->mutable_raw()->push_back('x'); }},
      {"has 28 bytes", [](v1::EvaluateResponse* r) { r->mutable_logits_gradient()->mutable_raw()->append(4, 'x'); }},
      {"logits_gradient has the shape [3, 2]",
       [](v1::EvaluateResponse* r) {
         r->mutable_logits_gradient()->set_shape(0, 3);
         r->mutable_logits_gradient()->set_shape(1, 2);
       }},
      {"[-2, -3]",
       [](v1::EvaluateResponse* r) {
         r->mutable_logits_gradient()->set_shape(0, -2);
         r->mutable_logits_gradient()->set_shape(1, -3);
       }},
      {"logits_gradient has 40 axes",
       [](v1::EvaluateResponse* r) {
         while (r->logits_gradient().shape_size() < 40) r->mutable_logits_gradient()->add_shape(1);
       }},
      {"element_loss has the shape [3] for 2 elements",
       [](v1::EvaluateResponse* r) {
         r->mutable_summary()->set_element_count(3);
         r->mutable_element_loss()->set_shape(0, 3);
         r->mutable_element_loss()->mutable_raw()->append(4, '\0');
       }},
      {"predicted_class is uint32, not int64",
       [](v1::EvaluateResponse* r) {
         r->mutable_predicted_class()->set_data_type(v1::DATA_TYPE_UINT32);
         r->mutable_predicted_class()->set_raw(std::string(8, '\0'));
       }},
  };
  for (const Malformed& c : cases) {
    FakeLossd fake([&](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
      const grpc::Status status = Answer(request, response);
      c.spoil(response);
      return status;
    });
    Batch batch = SmallBatch();
    batch.spec.outputs = {Output::kLogitsGradient, Output::kPredictedClass, Output::kElementLoss};
    const absl::Status status = Client(fake.target()).Evaluate(batch, kTimeout).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << c.message << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST(ClientTest, UnreducedAndEmptyLosses) {
  FakeLossd fake([](const v1::EvaluateRequest&, v1::EvaluateResponse* response) {
    // A server may leave out what is zero or empty.
    response->mutable_loss()->set_data_type(v1::DATA_TYPE_FLOAT32);
    response->mutable_loss()->add_shape(0);
    return grpc::Status::OK;
  });
  Batch batch = SmallBatch();
  batch.logits = {nullptr, {DataType::kFloat32, {0, 3}}};
  batch.targets = {nullptr, {DataType::kInt64, {0}}};
  batch.spec.reduction = Reduction::kNone;
  absl::StatusOr<Evaluation> answer = Client(fake.target()).Evaluate(batch, kTimeout);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_TRUE(answer->loss);
  EXPECT_TRUE(answer->loss.As<float>().empty());
}

TEST(ClientTest, ServerInfoLeavesOutWhatHasNoName) {
  FakeLossd fake(Answer);
  v1::GetServerInfoResponse sent;
  sent.set_version("1.2.3");
  sent.set_compute_threads(8);
  sent.add_losses("cross_entropy");
  sent.add_data_types(v1::DATA_TYPE_FLOAT32);
  sent.add_data_types(static_cast<v1::DataType>(257));
  sent.add_outputs(v1::OUTPUT_ENTROPY);
  sent.add_outputs(static_cast<v1::Output>(1000));
  fake.set_info(sent);
  absl::StatusOr<ServerInfo> info = Client(fake.target()).GetServerInfo(kTimeout);
  ASSERT_TRUE(info.ok()) << info.status();
  EXPECT_EQ(info->version, "1.2.3");
  EXPECT_EQ(info->compute_threads, 8);
  EXPECT_THAT(info->losses, ElementsAre("cross_entropy"));
  EXPECT_THAT(info->data_types, ElementsAre(DataType::kFloat32));
  EXPECT_THAT(info->outputs, ElementsAre(Output::kEntropy));
}

TEST(ClientTest, Health) {
  using grpc::health::v1::HealthCheckResponse;
  FakeLossd fake(Answer);
  const Client client(fake.target());
  EXPECT_TRUE(client.CheckHealth("", kTimeout).ok());
  EXPECT_TRUE(client.CheckHealth("lossd.v1.LossService", kTimeout).ok());
  EXPECT_TRUE(absl::IsNotFound(client.CheckHealth("other", kTimeout)));
  fake.set_health(HealthCheckResponse::NOT_SERVING);
  EXPECT_EQ(client.CheckHealth("", kTimeout), absl::UnavailableError("the server is NOT_SERVING"));
}

}  // namespace
}  // namespace lossd
