#include "server/server.h"

#include <grpcpp/generic/generic_stub.h>

#include <functional>
#include <future>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/ascii.h"
#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "loss/element.h"
#include "tests/messages.h"
#include "tests/raw_http.h"
#include "tests/server_fixture.h"

namespace lossd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr DataType kFloats[] = {DataType::kFloat32, DataType::kFloat64, DataType::kFloat16, DataType::kBfloat16};

// The field of the response that holds an output: "log_sum_exp" for OUTPUT_LOG_SUM_EXP.
std::string FieldOf(v1::Output output) {
  return absl::AsciiStrToLower(v1::Output_Name(output)).substr(std::string("output_").size());
}

// The names of the tensors that are there.
std::set<std::string> TensorsOf(const v1::EvaluateResponse& response) {
  std::set<std::string> names;
  ForEachResult([&](const char* name) {
    if (HasTensor(response, name)) names.insert(name);
  });
  return names;
}

std::string WithoutTiming(v1::EvaluateResponse response) {
  response.clear_timing();
  return response.SerializeAsString();
}

// ---- evaluating ----

TEST_F(ServerTest, AnswersAreTheTruth) {
  for (const DataType type : kFloats) {
    Start();
    std::set<std::string> compared;
    std::map<std::string, double> rows;
    for (const auto& [name, batch] : EveryLoss(type)) {
      SCOPED_TRACE(name);
      const Reply reply = Call(*stub_, RequestOf(batch));
      ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
      ExpectTruth(batch, reply.response);
      EXPECT_GE(reply.response.timing().queue_seconds(), 0);
      EXPECT_GE(reply.response.timing().compute_seconds(), 0);
      rows[Name(batch.spec.loss)] += static_cast<double>(reply.response.summary().element_count());
      compared.merge(TensorsOf(reply.response));
    }
    EXPECT_EQ(compared.size(), 10u);  // the loss and all outputs
    EXPECT_EQ(rows.size(), 4u);
    EXPECT_TRUE(server_->AwaitIdle(kForever));
    for (const auto& [loss, count] : rows) EXPECT_EQ(Sample("lossd_rows_total{loss=\"" + loss + "\"}"), count);
  }
}

// Long rows are read in the slices they were received in, of which these have many.
TEST_F(ServerTest, RowsInSlicesAreReadWhereTheyAre) {
  Start();
  std::mt19937_64 random(13);
  for (const DataType type : kFloats) {
    for (const DataType targets : {DataType::kInt64, type}) {
      SCOPED_TRACE(absl::StrCat(Name(type), ", targets ", Name(targets)));
      testing::Batch batch = testing::RandomBatch(
          {.type = type, .target_type = targets, .outer = {130}, .num_classes = 2503, .ignore_some = !IsFloat(targets)},
          random);
      batch.spec.outputs = {Output::kLogitsGradient, Output::kElementLoss};
      const Reply reply = Call(*stub_, RequestOf(batch));
      ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
      ExpectTruth(batch, reply.response);
    }
  }
}

TEST_F(ServerTest, OnlyWhatWasAskedForIsReturned) {
  Start();
  for (const auto& [name, batch] : EveryLoss(DataType::kFloat32)) {
    SCOPED_TRACE(name);
    v1::EvaluateRequest request = RequestOf(batch);
    const google::protobuf::RepeatedField<int> outputs = request.outputs();
    for (int asked = -1; asked < outputs.size(); ++asked) {
      request.clear_outputs();
      std::set<std::string> want = {"loss"};
      if (asked >= 0) {
        const auto output = static_cast<v1::Output>(outputs[asked]);
        request.add_outputs(output);
        want.insert(FieldOf(output));
      }
      const Reply reply = Call(*stub_, request);
      ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
      EXPECT_EQ(TensorsOf(reply.response), want);
      EXPECT_TRUE(want.count("predicted_class") == 1 || !reply.response.summary().has_correct_count());
    }
  }
}

TEST_F(ServerTest, TheBitsDoNotDependOnTheThreads) {
  std::vector<v1::EvaluateRequest> requests;
  for (const auto& [name, batch] : EveryLoss(DataType::kBfloat16)) requests.push_back(RequestOf(batch));
  std::mt19937_64 random(7);
  testing::Batch long_rows = testing::RandomBatch({.outer = {2}, .num_classes = 400000}, random);
  long_rows.spec.outputs = {Output::kLogitsGradient};
  requests.push_back(RequestOf(long_rows));
  std::vector<std::string> want(requests.size());
  for (const int threads : {1, 2, 7}) {
    Config config = SmallConfig();
    config.threads = threads;
    Start(config);
    for (size_t i = 0; i < requests.size(); ++i) {
      const Reply reply = Call(*stub_, requests[i]);
      ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
      if (want[i].empty()) want[i] = WithoutTiming(reply.response);
      EXPECT_TRUE(WithoutTiming(reply.response) == want[i]) << "request " << i << ", threads " << threads;
    }
  }
}

TEST_F(ServerTest, EightClientsAtOnce) {
  constexpr size_t kClients = 8, kCalls = 60;
  std::vector<v1::EvaluateRequest> requests;
  for (const DataType type : kFloats) {
    for (const auto& [name, batch] : EveryLoss(type)) requests.push_back(RequestOf(batch));
  }
  Start();
  std::vector<std::string> want;
  for (const v1::EvaluateRequest& request : requests) want.push_back(WithoutTiming(Call(*stub_, request).response));
  Start();
  std::vector<std::thread> clients;
  for (size_t c = 0; c < kClients; ++c) {
    clients.emplace_back([&, c] {
      const auto stub = v1::LossService::NewStub(c % 2 == 0 ? channel_ : ChannelTo(server_->grpc_address()));
      for (size_t i = 0; i < kCalls; ++i) {
        const size_t which = (c * 37 + i) % requests.size();
        v1::EvaluateRequest request = requests[which];
        const bool bad = i % 10 == 9;
        if (bad) request.mutable_targets()->add_shape(77777);
        const Reply reply = Call(*stub, request);
        EXPECT_EQ(reply.status.error_code(), bad ? grpc::INVALID_ARGUMENT : grpc::OK) << reply.status.error_message();
        EXPECT_TRUE(bad || WithoutTiming(reply.response) == want[which]) << which;
      }
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_TRUE(server_->AwaitIdle(kForever));
  EXPECT_EQ(Handled("OK"), kClients * kCalls * 9 / 10);
  EXPECT_EQ(Handled("InvalidArgument"), kClients * kCalls / 10);
  EXPECT_EQ(Sample(std::string("grpc_server_started_total{") + kEvaluate + "}"), kClients * kCalls);
  ExpectServes();
}

TEST_F(ServerTest, AJobLeavesItsLossInTheMetricsAndOnThePage) {
  Start();
  v1::EvaluateRequest request = SmallRequest();
  request.set_job("digits");
  request.set_step(42);
  const Reply reply = Call(*stub_, request);
  ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_EQ(static_cast<float>(Sample("lossd_job_loss{job=\"digits\"}")),
            LoadElement<float>(reply.response.loss().raw().data(), 0));
  EXPECT_EQ(Sample("lossd_job_step{job=\"digits\"}"), 42);
  EXPECT_EQ(Sample("lossd_job_rows_total{job=\"digits\"}"), 4);
  EXPECT_EQ(Sample("lossd_job_accuracy{job=\"digits\"}"),
            static_cast<double>(reply.response.summary().correct_count()) / 4);
  EXPECT_EQ(Sample("lossd_rows_total{loss=\"cross_entropy\"}"), 4);
  EXPECT_EQ(Sample("lossd_received_bytes_total"), static_cast<double>(request.ByteSizeLong()));
  EXPECT_EQ(Sample("lossd_sent_bytes_total"), static_cast<double>(reply.response.ByteSizeLong()));
  EXPECT_THAT(HttpGet(server_->http_address(), "/").body, HasSubstr("<td>digits</td><td>42</td>"));
}

// ---- bad input ----

struct Refusal {
  const char* name;
  std::function<void(v1::EvaluateRequest&)> change;
  grpc::StatusCode code;
  const char* want;
};

TEST_F(ServerTest, BadInputIsRefusedAndTheNextCallAnswered) {
  using Request = v1::EvaluateRequest;
  const auto target = [](int64_t value) {
    return [value](Request& request) {
      request.mutable_targets()->mutable_raw()->replace(24, 8, reinterpret_cast<const char*>(&value), 8);
    };
  };
  const Refusal cases[] = {
      {"nothing", [](Request& r) { r.Clear(); }, grpc::INVALID_ARGUMENT, "logits: missing"},
      {"no targets", [](Request& r) { r.clear_targets(); }, grpc::INVALID_ARGUMENT, "targets: missing"},
      {"target C", target(5), grpc::INVALID_ARGUMENT, "targets[3] = 5 is outside [0, 5)"},
      {"target -2", target(-2), grpc::INVALID_ARGUMENT, "targets[3] = -2 is outside [0, 5)"},
      {"target 2^32 + 1", target((int64_t{1} << 32) + 1), grpc::INVALID_ARGUMENT, "targets[3] = 4294967297"},
      {"one byte short", [](Request& r) { r.mutable_logits()->mutable_raw()->pop_back(); }, grpc::INVALID_ARGUMENT,
       "logits holds 79 bytes; float32 of shape [4, 5] needs 80"},
      {"bytes overflow", [](Request& r) { r.mutable_logits()->set_shape(0, int64_t{1} << 60); }, grpc::INVALID_ARGUMENT,
       "logits.shape"},
      {"job", [](Request& r) { r.set_job("a\nb"); }, grpc::INVALID_ARGUMENT, "job[1]"},
      {"loss", [](Request& r) { r.mutable_loss()->mutable_kl_divergence(); }, grpc::INVALID_ARGUMENT,
       "targets is int64 of shape [4]; probabilities must have the logits' shape, [4, 5]"},
      {"option", [](Request& r) { r.mutable_loss()->mutable_cross_entropy()->set_temperature(0); },
       grpc::INVALID_ARGUMENT, "loss.cross_entropy.temperature = 0"},
      {"sparse", [](Request& r) { *r.mutable_target_probabilities() = r.logits(); }, grpc::INVALID_ARGUMENT,
       "with target_probabilities it must have the element shape [4] and one more axis, K"},
      {"output", [](Request& r) { r.add_outputs(v1::OUTPUT_TARGETS_GRADIENT); }, grpc::INVALID_ARGUMENT,
       "OUTPUT_TARGETS_GRADIENT needs probability targets"},
      {"new output", [](Request& r) { r.add_outputs(static_cast<v1::Output>(99)); }, grpc::UNIMPLEMENTED, "99"},
  };
  Start();
  for (const Refusal& test : cases) {
    SCOPED_TRACE(test.name);
    v1::EvaluateRequest request = SmallRequest();
    test.change(request);
    const Reply reply = Call(*stub_, request);
    EXPECT_EQ(reply.status.error_code(), test.code);
    EXPECT_THAT(reply.status.error_message(), HasSubstr(test.want));
    ExpectServes();
  }
}

grpc::Status CallGeneric(
    const std::shared_ptr<grpc::Channel>& channel, const std::string& method, const std::string& bytes,
    const std::function<void(grpc::ClientContext&)>& change = [](grpc::ClientContext&) {}) {
  const std::unique_ptr<grpc::ClientContext> context = NewContext();
  change(*context);
  const grpc::ByteBuffer request = BufferOf(bytes);
  grpc::ByteBuffer response;
  grpc::Status result;
  std::promise<void> done;
  grpc::GenericStub(channel).UnaryCall(context.get(), method, grpc::StubOptions(), &request, &response,
                                       [&](grpc::Status status) {
                                         result = std::move(status);
                                         done.set_value();
                                       });
  done.get_future().wait();
  return result;
}

TEST_F(ServerTest, BytesThatAreNoRequest) {
  Start();
  const grpc::Status status = CallGeneric(channel_, "/lossd.v1.LossService/Evaluate", "\x7a\xff");
  EXPECT_EQ(status.error_code(), grpc::INVALID_ARGUMENT);
  EXPECT_THAT(status.error_message(), HasSubstr("request: these 2 bytes are not a lossd.v1.EvaluateRequest"));
  ExpectServes();
}

TEST_F(ServerTest, UnknownMethodsAndServices) {
  Start();
  for (const char* method : {"/lossd.v1.LossService/Guess", "/lossd.v9.LossService/Evaluate", "/nothing/at-all"}) {
    EXPECT_EQ(CallGeneric(channel_, method, "").error_code(), grpc::UNIMPLEMENTED) << method;
  }
  ExpectServes();
}

TEST_F(ServerTest, CompressedRequestsAreRefused) {
  Start();
  const std::string bytes(100000, '\0');
  for (const auto algorithm : {GRPC_COMPRESS_GZIP, GRPC_COMPRESS_DEFLATE}) {
    const auto compress = [algorithm](grpc::ClientContext& context) { context.set_compression_algorithm(algorithm); };
    const grpc::Status status = CallGeneric(channel_, "/lossd.v1.LossService/Evaluate", bytes, compress);
    EXPECT_EQ(status.error_code(), grpc::UNIMPLEMENTED) << status.error_message();
  }
  // gRPC answers by itself, it may be before our side of the call has begun.
  AwaitSample(std::string("grpc_server_handled_total{grpc_code=\"Canceled\",") + kEvaluate + "}", 2);
  ExpectServes();
}

// ---- info, health, pages ----

TEST_F(ServerTest, GetServerInfo) {
  Start();
  v1::GetServerInfoResponse info;
  ASSERT_TRUE(stub_->GetServerInfo(NewContext().get(), {}, &info).ok());
  EXPECT_EQ(info.version(), LOSSD_VERSION);
  EXPECT_EQ(info.simd_target(), SimdTarget());
  EXPECT_EQ(info.compute_threads(), 2);
  EXPECT_EQ(info.max_message_bytes(), SmallConfig().max_message_bytes);
  EXPECT_EQ(info.memory_budget_bytes(), SmallConfig().memory_budget_bytes);
  EXPECT_THAT(info.losses(),
              ElementsAre("cross_entropy", "negative_log_likelihood", "kl_divergence", "binary_cross_entropy"));
  EXPECT_THAT(info.data_types(),
              ElementsAre(v1::DATA_TYPE_FLOAT32, v1::DATA_TYPE_FLOAT64, v1::DATA_TYPE_FLOAT16, v1::DATA_TYPE_BFLOAT16));
  EXPECT_THAT(info.outputs(),
              ElementsAre(v1::OUTPUT_LOGITS_GRADIENT, v1::OUTPUT_TARGETS_GRADIENT, v1::OUTPUT_ELEMENT_LOSS,
                          v1::OUTPUT_LOG_SUM_EXP, v1::OUTPUT_TARGET_LOG_PROBABILITY, v1::OUTPUT_PREDICTED_CLASS,
                          v1::OUTPUT_ENTROPY, v1::OUTPUT_PROBABILITIES, v1::OUTPUT_LOG_PROBABILITIES));
}

TEST_F(ServerTest, Health) {
  Start();
  for (const char* service : {"", "lossd.v1.LossService"}) {
    EXPECT_EQ(HealthOf(channel_, service), grpc::health::v1::HealthCheckResponse::SERVING) << service;
  }
  grpc::health::v1::HealthCheckRequest request;
  request.set_service("nobody");
  grpc::health::v1::HealthCheckResponse response;
  EXPECT_EQ(grpc::health::v1::Health::NewStub(channel_)->Check(NewContext().get(), request, &response).error_code(),
            grpc::NOT_FOUND);
}

TEST_F(ServerTest, Pages) {
  Start();
  struct Case {
    const char* path;
    int status;
    const char* want;
  };
  const Case cases[] = {
      {"/", 200, "<h1>lossd</h1>"}, {"/metrics", 200, "lossd_build_info"}, {"/healthz", 200, "alive\n"},
      {"/readyz", 200, "ready\n"},  {"/missing", 404, "no such page"},
  };
  for (const Case& test : cases) {
    const RawResponse response = HttpGet(server_->http_address(), test.path);
    EXPECT_EQ(response.status, test.status) << test.path;
    EXPECT_THAT(response.body, HasSubstr(test.want));
  }
  EXPECT_EQ(HttpRequest(PortOf(server_->http_address()), "POST", "/metrics").status, 405);
}

}  // namespace
}  // namespace lossd
