// What happens to calls that are too large, cancelled or in flight when the server drains; and where it listens.
#include <unistd.h>

#include "absl/strings/str_cat.h"
#include "gmock/gmock.h"
#include "tests/raw_http.h"
#include "tests/server_fixture.h"

namespace lossd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;
using ::testing::StartsWith;
using ServerDrainTest = ServerTest;

// ---- limits ----

TEST_F(ServerDrainTest, AMessageOverTheLimit) {
  Config config = SmallConfig();
  config.max_message_bytes = kMegabyte;
  Start(config);
  v1::EvaluateRequest request = SmallRequest();
  std::string& raw = *request.mutable_logits()->mutable_raw();
  raw.assign(kMegabyte, '\0');
  raw.resize(2 * raw.size() + 1 - request.ByteSizeLong());  // leaves room for the other fields
  ASSERT_EQ(static_cast<int64_t>(request.ByteSizeLong()), kMegabyte + 1);
  const Reply reply = Call(*stub_, request);
  EXPECT_EQ(reply.status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(reply.status.error_message(), AllOf(HasSubstr("1048577"), HasSubstr("1048576")));
  ExpectServes();
}

TEST_F(ServerDrainTest, ADeclaredSizeOverTheLimitIsRefusedBeforeTheBody) {
  Config config = SmallConfig();
  config.max_message_bytes = kMegabyte;
  Start(config);
  const std::unique_ptr<grpc::ClientContext> context = NewContext();
  context->AddMetadata("lossd-request-bytes", absl::StrCat(kMegabyte + 1));
  v1::EvaluateResponse response;
  const grpc::Status status = stub_->Evaluate(context.get(), SmallRequest(), &response);
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), AllOf(StartsWith("lossd-request-bytes: "), HasSubstr("1048577"),
                                            HasSubstr("max_message_bytes is 1048576")));
  EXPECT_EQ(context->GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 0u);
  EXPECT_EQ(Sample("lossd_rejected_total{reason=\"too_large\"}"), 1);
  ExpectServes();
}

TEST_F(ServerDrainTest, AnAnswerOverTheLimitIsRefusedBeforeComputing) {
  Config config = SmallConfig();
  config.max_message_bytes = kMegabyte;
  Start(config);
  std::mt19937_64 random(1);
  testing::Batch batch = testing::RandomBatch({.outer = {80000}, .num_classes = 1}, random);
  batch.spec.outputs = {Output::kLogitsGradient, Output::kElementLoss, Output::kPredictedClass};
  // 320 kB of logits and 640 kB of targets; 1.28 MB of results.
  const Reply reply = Call(*stub_, RequestOf(batch));
  EXPECT_EQ(reply.status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(reply.status.error_message(), AllOf(StartsWith("outputs: "), HasSubstr("max_message_bytes is 1048576")));
  EXPECT_EQ(Sample("lossd_rejected_total{reason=\"too_large\"}"), 1);
  EXPECT_EQ(Sample("lossd_compute_seconds_count"), 0);
  ExpectServes();
}

TEST_F(ServerDrainTest, ACallThatNeverFitsTheBudget) {
  Config config = SmallConfig();
  config.max_message_bytes = config.memory_budget_bytes = 8 * kMegabyte;
  Start(config);
  const std::unique_ptr<grpc::ClientContext> context = NewContext();
  v1::EvaluateResponse response;
  const grpc::Status status = stub_->Evaluate(context.get(), LargeRequest(6), &response);
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("memory_budget_bytes is 8388608"));
  EXPECT_EQ(context->GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 0u);
  EXPECT_EQ(Sample("lossd_rejected_total{reason=\"too_large\"}"), 1);
  ExpectServes();
}

TEST_F(ServerDrainTest, ACallThatDoesNotFitNowIsToldToRetry) {
  Config config = SmallConfig();
  config.max_message_bytes = config.memory_budget_bytes = 48 * kMegabyte;
  Start(config);
  HeldCall held(*stub_, LargeRequest(16));  // holds 32 MB
  AwaitSample("lossd_compute_seconds_count", 1);
  EXPECT_GT(Sample("lossd_inflight_bytes"), 32 * kMegabyte);
  const std::unique_ptr<grpc::ClientContext> context = NewContext();
  v1::EvaluateResponse response;
  const grpc::Status status = stub_->Evaluate(context.get(), LargeRequest(16), &response);
  EXPECT_EQ(status.error_code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(status.error_message(), HasSubstr("retry later"));
  EXPECT_EQ(context->GetServerTrailingMetadata().count("grpc-retry-pushback-ms"), 1u);
  EXPECT_EQ(Sample("lossd_rejected_total{reason=\"memory\"}"), 1);
  EXPECT_TRUE(held.Finish().status.ok());
  EXPECT_TRUE(server_->AwaitIdle(kForever));
  EXPECT_TRUE(Call(*stub_, LargeRequest(16)).status.ok());
  ExpectServes();
}

// ---- cancelling ----

TEST_F(ServerDrainTest, ACallCancelledWhileItsAnswerIsSent) {
  Start();
  HeldCall held(*stub_, LargeRequest(32));
  AwaitSample("lossd_compute_seconds_count", 1);
  EXPECT_EQ(Sample("lossd_inflight_requests"), 1);
  EXPECT_FALSE(server_->AwaitIdle(absl::ZeroDuration()));
  held.Cancel();
  EXPECT_EQ(held.Finish().status.error_code(), grpc::CANCELLED);
  EXPECT_TRUE(server_->AwaitIdle(kForever));
  EXPECT_EQ(Handled("Canceled"), 1);
  EXPECT_EQ(Handled("OK"), 0);
  ExpectServes();
}

// Where the cancellation finds them (queue, compute, sending) is a matter of luck; what is left after it is not.
TEST_F(ServerDrainTest, CallsCancelledAtAnyStage) {
  Config config = SmallConfig();
  config.threads = 1;
  Start(config);
  constexpr int kRounds = 5, kCalls = 6;
  const v1::EvaluateRequest request = LargeRequest(8);
  for (int round = 0; round < kRounds; ++round) {
    std::vector<std::unique_ptr<HeldCall>> calls;
    for (int i = 0; i < kCalls; ++i) calls.push_back(std::make_unique<HeldCall>(*stub_, request));
    const absl::Time deadline = absl::Now() + kForever;
    while (Sample("lossd_inflight_requests") <= 0) ASSERT_LT(absl::Now(), deadline);
    for (const auto& call : calls) call->Cancel();
    for (const auto& call : calls) EXPECT_EQ(call->Finish().status.error_code(), grpc::CANCELLED);
  }
  ExpectServes();
  const double started = Sample(std::string("grpc_server_started_total{") + kEvaluate + "}");
  // A call whose whole answer was under way when it was cancelled is OK as far as the server knows; nothing else is.
  EXPECT_EQ(Handled("Canceled") + Handled("OK"), started);
  EXPECT_GE(Handled("Canceled"), kRounds);
}

TEST_F(ServerDrainTest, StoppingCancelsWhatIsStillInFlight) {
  Start();
  HeldCall held(*stub_, LargeRequest(32));
  AwaitSample("lossd_compute_seconds_count", 1);
  server_.reset();
  EXPECT_FALSE(held.Finish().status.ok());
}

// ---- draining ----

TEST_F(ServerDrainTest, ADrainLetsCallsInFlightFinishAndNoneEnter) {
  Start();
  HeldCall held(*stub_, LargeRequest(32));
  AwaitSample("lossd_compute_seconds_count", 1);
  server_->StartDraining();
  server_->StartDraining();
  for (const char* service : {"", "lossd.v1.LossService"}) {
    EXPECT_EQ(HealthOf(channel_, service), grpc::health::v1::HealthCheckResponse::NOT_SERVING) << service;
  }
  EXPECT_EQ(HttpGet(server_->http_address(), "/readyz").status, 503);
  EXPECT_EQ(HttpGet(server_->http_address(), "/healthz").status, 200);
  EXPECT_EQ(Sample("lossd_draining"), 1);
  const Reply late = Call(*stub_, SmallRequest());
  EXPECT_EQ(late.status.error_code(), grpc::UNAVAILABLE);
  EXPECT_THAT(late.status.error_message(), HasSubstr("draining"));
  EXPECT_EQ(Sample("lossd_rejected_total{reason=\"draining\"}"), 1);
  EXPECT_FALSE(server_->AwaitIdle(absl::ZeroDuration()));

  const Reply reply = held.Finish();
  EXPECT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_EQ(reply.response.logits_gradient().raw().size(), 32u << 20);
  EXPECT_TRUE(server_->AwaitIdle(kForever));
}

TEST_F(ServerDrainTest, AnIdleServerDrainsAtOnce) {
  Start();
  server_->StartDraining();
  EXPECT_TRUE(server_->AwaitIdle(absl::ZeroDuration()));
}

// ---- addresses ----

absl::Status StartStatus(const std::vector<std::string>& grpc, const std::string& http) {
  Config config = SmallConfig();
  config.grpc_listen = grpc;
  config.http_listen = http;
  return Server::Start(config).status();
}

TEST_F(ServerDrainTest, ATakenPortIsNamed) {
  Start();
  const std::string taken_grpc = server_->grpc_address(), taken_http = server_->http_address();
  struct Case {
    const char* name;
    std::vector<std::string> grpc;
    std::string http, want;
  };
  const Case cases[] = {
      {"gRPC", {taken_grpc}, "127.0.0.1:0", "--grpc_listen=" + taken_grpc},
      {"the second of gRPC", {"127.0.0.1:0", taken_grpc}, "127.0.0.1:0", "--grpc_listen=" + taken_grpc},
      {"the first of gRPC", {taken_grpc, "127.0.0.1:0"}, "127.0.0.1:0", "--grpc_listen=" + taken_grpc},
      {"HTTP", {"127.0.0.1:0"}, taken_http, "--http_listen=" + taken_http},
      {"HTTP on a gRPC port", {"127.0.0.1:0"}, taken_grpc, "--http_listen=" + taken_grpc},
      {"gRPC on an HTTP port", {taken_http}, "127.0.0.1:0", "--grpc_listen=" + taken_http},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    const absl::Status status = StartStatus(test.grpc, test.http);
    EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
    EXPECT_THAT(std::string(status.message()), HasSubstr(test.want + ":"));
  }
  ExpectServes();
}

TEST_F(ServerDrainTest, SeveralAddresses) {
  const std::string folder = ::testing::TempDir() + "/lossd_server_test." + std::to_string(getpid());
  const std::string socket = "unix:" + folder + ".sock";
  Config config = SmallConfig();
  config.grpc_listen = {"127.0.0.1:0", socket, "127.0.0.1:0"};
  Start(config);
  std::vector<std::string> addresses;
  std::string rest = server_->grpc_address();
  for (size_t comma; (comma = rest.find(',')) != std::string::npos; rest.erase(0, comma + 1)) {
    addresses.push_back(rest.substr(0, comma));
  }
  addresses.push_back(rest);
  ASSERT_EQ(addresses.size(), 3u);
  EXPECT_EQ(addresses[1], socket);
  EXPECT_NE(addresses[0], addresses[2]);
  for (const std::string& address : addresses) {
    EXPECT_TRUE(Call(*v1::LossService::NewStub(ChannelTo(address)), SmallRequest()).status.ok()) << address;
  }
}

TEST_F(ServerDrainTest, TwoServersInOneProcess) {
  Start();
  const std::unique_ptr<Server> first = std::move(server_);
  const std::unique_ptr<v1::LossService::Stub> first_stub = std::move(stub_);
  Start();
  EXPECT_NE(first->grpc_address(), server_->grpc_address());
  first->StartDraining();
  EXPECT_EQ(Call(*first_stub, SmallRequest()).status.error_code(), grpc::UNAVAILABLE);
  ExpectServes();
}

}  // namespace
}  // namespace lossd
