#include "client/cpp/load_generator.h"

#include <atomic>
#include <cmath>
#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "client/cpp/load_report.h"
#include "gmock/gmock.h"
#include "grpcpp/grpcpp.h"
#include "gtest/gtest.h"
#include "lossd/v1/loss.grpc.pb.h"

namespace lossd {
namespace {

using ::testing::AllOf;
using ::testing::HasSubstr;

// Answers what a test tells it to, and sees the metadata.
class FakeServer final : public v1::LossService::Service {
 public:
  using Answer = std::function<grpc::Status(int call, grpc::ServerContext*, v1::EvaluateResponse*)>;

  explicit FakeServer(Answer answer) : answer_(std::move(answer)) {
    int port = 0;
    grpc::ServerBuilder builder;
    builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
    builder.RegisterService(this);
    server_ = builder.BuildAndStart();
    target_ = absl::StrCat("127.0.0.1:", port);
  }
  ~FakeServer() override { server_->Shutdown(); }

  grpc::Status Evaluate(grpc::ServerContext* context, const v1::EvaluateRequest*,
                        v1::EvaluateResponse* response) override {
    return answer_(num_calls_++, context, response);
  }

  // Each message as a call of its own; a loss of ABORTED ends the whole stream instead of the message.
  grpc::Status EvaluateStream(
      grpc::ServerContext* context,
      grpc::ServerReaderWriter<v1::EvaluateStreamResponse, v1::EvaluateStreamRequest>* stream) override {
    ++num_streams_;
    v1::EvaluateStreamRequest request;
    while (stream->Read(&request)) {
      v1::EvaluateStreamResponse response;
      response.set_sequence(request.sequence() + skew_);
      const grpc::Status status = answer_(num_calls_++, context, response.mutable_response());
      if (status.error_code() == grpc::StatusCode::ABORTED) return status;
      if (!status.ok()) {
        response.mutable_error()->set_code(status.error_code());
        response.mutable_error()->set_message(status.error_message());
      }
      stream->Write(response);
    }
    return grpc::Status::OK;
  }

  const std::string& target() const { return target_; }
  int num_streams() const { return num_streams_; }
  // What is added to the sequence numbers of answers.
  void set_skew(int64_t skew) { skew_ = skew; }
  int num_calls() const { return num_calls_; }

 private:
  const Answer answer_;
  std::atomic<int> num_calls_ = 0;  // the first of a run is number 0: the one that is looked at
  std::atomic<int> num_streams_ = 0;
  std::atomic<int64_t> skew_ = 0;
  std::unique_ptr<grpc::Server> server_;
  std::string target_;
};

// A scalar loss.
grpc::Status Fill(v1::EvaluateResponse* response) {
  response->mutable_loss()->set_data_type(v1::DATA_TYPE_FLOAT32);
  response->mutable_loss()->set_raw(std::string(4, '\0'));
  response->mutable_summary()->set_element_count(2);
  return grpc::Status::OK;
}

constexpr float kLogits[] = {1, 2, 3, 4, 5, 6};
constexpr int64_t kTargets[] = {0, 2};

Batch SmallBatch() {
  Batch batch;
  batch.logits = {kLogits, {DataType::kFloat32, {2, 3}}};
  batch.targets = {kTargets, {DataType::kInt64, {2}}};
  return batch;
}

LoadOptions SmallLoad(const std::string& target) {
  LoadOptions options;
  options.target = target;
  options.warmup = absl::ZeroDuration();
  options.timeout = absl::Minutes(5);
  return options;
}

absl::StatusOr<LoadResult> RunSmall(const LoadOptions& options) {
  EXPECT_EQ(CheckLoadOptions(options), absl::OkStatus());
  const Batch batch = SmallBatch();
  const grpc::ByteBuffer request = *SerializeRequest(batch);
  return RunLoad(
      options, request, [&](const grpc::ByteBuffer& response) { return CheckResponse(options.calls, batch, response); },
      [](const LoadResult&) {});
}

TEST(LoadGeneratorTest, ClosedLoopMakesAsManyCallsAsWereAskedFor) {
  for (int channels : {1, 3}) {
    FakeServer fake([](int, grpc::ServerContext*, v1::EvaluateResponse* response) { return Fill(response); });
    LoadOptions options = SmallLoad(fake.target());
    options.num_channels = channels;
    options.concurrency = 4;
    options.count = 50;
    absl::StatusOr<LoadResult> result = RunSmall(options);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->counts.num_answered(), 50);
    EXPECT_EQ(result->counts.num_errors(), 0);
    EXPECT_EQ(result->counts.by_code[0], 50);
    EXPECT_EQ(result->num_dropped, 0);
    EXPECT_EQ(fake.num_calls(), 51);
    v1::EvaluateResponse response;
    Fill(&response);
    EXPECT_EQ(result->counts.received_bytes, 50 * static_cast<int64_t>(response.ByteSizeLong()));
    EXPECT_GT(result->counts.seconds(), 0);
  }
}

TEST(LoadGeneratorTest, TheWarmUpIsNotCounted) {
  FakeServer fake([](int, grpc::ServerContext*, v1::EvaluateResponse* response) { return Fill(response); });
  LoadOptions options = SmallLoad(fake.target());
  options.warmup = absl::Milliseconds(20);
  options.count = 5;
  absl::StatusOr<LoadResult> result = RunSmall(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->counts.num_answered(), 5);
  EXPECT_GE(fake.num_calls(), 6);
}

TEST(LoadGeneratorTest, ErrorsAreCountedByCodeAndNotRetried) {
  FakeServer fake([](int call, grpc::ServerContext* context, v1::EvaluateResponse* response) {
    if (call % 4 == 1) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
    if (call % 4 == 2) {
      context->AddTrailingMetadata("grpc-retry-pushback-ms", "100");
      return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
    }
    return Fill(response);
  });
  LoadOptions options = SmallLoad(fake.target());
  options.concurrency = 3;
  options.count = 40;
  absl::StatusOr<LoadResult> result = RunSmall(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->counts.num_answered(), 20);
  EXPECT_EQ(result->counts.num_errors(), 20);
  EXPECT_EQ(result->counts.by_code[static_cast<size_t>(absl::StatusCode::kUnavailable)], 10);
  EXPECT_EQ(result->counts.by_code[static_cast<size_t>(absl::StatusCode::kResourceExhausted)], 10);
  EXPECT_EQ(result->counts.num_pushbacks, 10);
  EXPECT_FALSE(result->counts.first_error.empty());
  EXPECT_EQ(fake.num_calls(), 41);
  const std::string json = LoadJson(options, {}, *result);
  EXPECT_THAT(json, AllOf(HasSubstr(R"("errors": {"RESOURCE_EXHAUSTED": 10, "UNAVAILABLE": 10})"),
                          HasSubstr(R"("errors_with_pushback": 10)"), HasSubstr(R"("answered": 20)")));
  EXPECT_THAT(LoadText(options, {}, *result), HasSubstr("RESOURCE_EXHAUSTED 10  UNAVAILABLE 10"));
}

// Who honours a pushback does not come back before its time; who does not, as many times as it likes.
TEST(LoadGeneratorTest, HonorsThePushback) {
  constexpr auto kPause = std::chrono::milliseconds(50);
  std::mutex mutex;
  std::vector<std::chrono::steady_clock::time_point> refusals;
  std::vector<std::chrono::steady_clock::duration> pauses;
  FakeServer fake([&](int call, grpc::ServerContext* context, v1::EvaluateResponse* response) {
    if (call == 0) return Fill(response);
    const auto now = std::chrono::steady_clock::now();
    std::lock_guard<std::mutex> lock(mutex);
    if (!refusals.empty()) pauses.push_back(now - refusals.back());
    refusals.push_back(std::chrono::steady_clock::now());
    context->AddTrailingMetadata("grpc-retry-pushback-ms", std::to_string(kPause.count()));
    return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
  });
  LoadOptions options = SmallLoad(fake.target());
  options.count = 4;
  options.honor_pushback = true;
  absl::StatusOr<LoadResult> result = RunSmall(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->counts.num_errors(), 4);
  ASSERT_EQ(pauses.size(), 3u);
  for (const auto pause : pauses) EXPECT_GE(pause, kPause);
}

TEST(LoadGeneratorTest, EveryCallSaysHowLargeItsRequestIs) {
  std::atomic<int> wrong = 0;
  const std::string bytes = absl::StrCat(SerializeRequest(SmallBatch())->Length());
  FakeServer fake([&](int, grpc::ServerContext* context, v1::EvaluateResponse* response) {
    const auto found = context->client_metadata().find("lossd-request-bytes");
    if (found == context->client_metadata().end() || found->second != bytes) ++wrong;
    return Fill(response);
  });
  LoadOptions options = SmallLoad(fake.target());
  options.count = 5;
  ASSERT_TRUE(RunSmall(options).ok());
  EXPECT_EQ(wrong, 0);
}

// Nobody is answered before ten are there: in a closed loop of one, that would be never.
TEST(LoadGeneratorTest, ArrivalsDoNotWaitForAnswers) {
  constexpr int kTogether = 10;
  std::mutex mutex;
  std::condition_variable all;
  int waiting = 0;
  FakeServer fake([&](int call, grpc::ServerContext*, v1::EvaluateResponse* response) {
    std::unique_lock<std::mutex> lock(mutex);
    if (call > 0 && ++waiting == kTogether) all.notify_all();
    if (call > 0) all.wait(lock, [&] { return waiting >= kTogether; });
    return Fill(response);
  });
  LoadOptions options = SmallLoad(fake.target());
  options.rate = 1000;
  options.num_channels = 2;
  options.count = kTogether;
  absl::StatusOr<LoadResult> result = RunSmall(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->counts.num_answered(), kTogether);
  EXPECT_EQ(result->num_dropped, 0);
}

TEST(LoadGeneratorTest, TheScheduleDecidesHowManyArriveAndTheCapHowManyAreSent) {
  FakeServer fake([](int, grpc::ServerContext*, v1::EvaluateResponse* response) { return Fill(response); });
  LoadOptions options = SmallLoad(fake.target());
  options.rate = 2000;
  options.max_outstanding = 1;
  options.duration = absl::Milliseconds(50);
  absl::StatusOr<LoadResult> result = RunSmall(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->counts.num_answered() + result->num_dropped, 100);
  EXPECT_EQ(fake.num_calls(), result->counts.num_answered() + 1);
}

// A server that is stuck for a while: what arrived meanwhile waits in it, and its latency says so.
TEST(LoadGeneratorTest, LatencyCountsFromTheScheduledArrival) {
  FakeServer fake([](int, grpc::ServerContext*, v1::EvaluateResponse* response) { return Fill(response); });
  LoadOptions options = SmallLoad(fake.target());
  options.rate = 1e6;  // more than one thread can start
  options.max_outstanding = 100000;
  options.count = 3000;
  absl::StatusOr<LoadResult> result = RunSmall(options);
  ASSERT_TRUE(result.ok()) << result.status();
  ASSERT_EQ(result->counts.num_answered(), 3000);
  // All 3000 were to start within 3 ms, and the last was answered at the end.
  EXPECT_GE(result->counts.answered.max_seconds(), result->counts.seconds() - 0.003 - 1e-6);
}

TEST(LoadGeneratorTest, TheFirstCallIsLookedAt) {
  FakeServer refuses([](int, grpc::ServerContext*, v1::EvaluateResponse*) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "targets[0] is wrong");
  });
  EXPECT_EQ(RunSmall(SmallLoad(refuses.target())).status(), absl::InvalidArgumentError("targets[0] is wrong"));

  FakeServer empty([](int, grpc::ServerContext*, v1::EvaluateResponse*) { return grpc::Status::OK; });
  EXPECT_EQ(RunSmall(SmallLoad(empty.target())).status().code(), absl::StatusCode::kInternal);
  EXPECT_EQ(empty.num_calls(), 1);
}

LoadOptions SmallStreams(const std::string& target) {
  LoadOptions options = SmallLoad(target);
  options.calls = Calls::kStream;
  return options;
}

TEST(LoadStreamTest, EveryMessageIsAnswered) {
  const struct {
    int channels, streams, concurrency;
  } cases[] = {{1, 0, 1}, {1, 1, 4}, {1, 3, 7}, {2, 0, 2}, {2, 5, 12}};
  for (const auto& c : cases) {
    FakeServer fake([](int, grpc::ServerContext*, v1::EvaluateResponse* response) { return Fill(response); });
    LoadOptions options = SmallStreams(fake.target());
    options.num_channels = c.channels;
    options.num_streams = c.streams;
    options.concurrency = c.concurrency;
    options.count = 100;
    absl::StatusOr<LoadResult> result = RunSmall(options);
    ASSERT_TRUE(result.ok()) << result.status();
    EXPECT_EQ(result->counts.num_answered(), 100);
    EXPECT_EQ(result->counts.num_errors(), 0);
    EXPECT_EQ(fake.num_calls(), 101);
    EXPECT_EQ(fake.num_streams(), 1 + std::max(c.streams, c.channels));
    EXPECT_GT(result->counts.received_bytes, 0);
  }
}

TEST(LoadStreamTest, ErrorsInTheStreamAreCountedByTheirCodes) {
  FakeServer fake([](int call, grpc::ServerContext*, v1::EvaluateResponse* response) {
    if (call % 5 == 1) return grpc::Status(grpc::StatusCode::RESOURCE_EXHAUSTED, "full");
    return Fill(response);
  });
  LoadOptions options = SmallStreams(fake.target());
  options.concurrency = 4;
  options.count = 50;
  absl::StatusOr<LoadResult> result = RunSmall(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->counts.num_answered(), 40);
  EXPECT_EQ(result->counts.by_code[static_cast<size_t>(absl::StatusCode::kResourceExhausted)], 10);
  EXPECT_EQ(result->counts.first_error, "full");
  EXPECT_EQ(fake.num_streams(), 2);
}

TEST(LoadStreamTest, AStreamThatEndsTakesItsMessagesAlongAndIsOpenedAgain) {
  FakeServer fake([](int call, grpc::ServerContext*, v1::EvaluateResponse* response) {
    if (call % 10 == 9) return grpc::Status(grpc::StatusCode::ABORTED, "broken");
    return Fill(response);
  });
  LoadOptions options = SmallStreams(fake.target());
  options.concurrency = 3;
  options.count = 100;
  absl::StatusOr<LoadResult> result = RunSmall(options);
  ASSERT_TRUE(result.ok()) << result.status();
  const int64_t aborted = result->counts.by_code[static_cast<size_t>(absl::StatusCode::kAborted)];
  EXPECT_EQ(result->counts.num_answered() + aborted, 100);
  EXPECT_GE(aborted, 7);
  EXPECT_GE(fake.num_streams(), 8);
}

TEST(LoadStreamTest, AnswersMustComeInTheirTurn) {
  FakeServer fake([](int, grpc::ServerContext*, v1::EvaluateResponse* response) { return Fill(response); });
  fake.set_skew(1);
  LoadOptions options = SmallStreams(fake.target());
  options.count = 10;
  absl::StatusOr<LoadResult> result = RunSmall(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->counts.by_code[static_cast<size_t>(absl::StatusCode::kInternal)], 10);
}

TEST(LoadStreamTest, OpenLoop) {
  FakeServer fake([](int, grpc::ServerContext*, v1::EvaluateResponse* response) { return Fill(response); });
  LoadOptions options = SmallStreams(fake.target());
  options.rate = 2000;
  options.num_streams = 2;
  options.max_outstanding = 4;
  options.duration = absl::Milliseconds(50);
  absl::StatusOr<LoadResult> result = RunSmall(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->counts.num_answered() + result->num_dropped, 100);
}

TEST(LoadStreamTest, AMessageThatIsNeverAnsweredIsOverdue) {
  FakeServer fake([](int call, grpc::ServerContext* context, v1::EvaluateResponse* response) {
    while (call > 0 && !context->IsCancelled()) absl::SleepFor(absl::Milliseconds(1));
    return Fill(response);
  });
  LoadOptions options = SmallStreams(fake.target());
  options.concurrency = 2;
  options.count = 2;
  options.timeout = absl::Milliseconds(300);
  absl::StatusOr<LoadResult> result = RunSmall(options);
  ASSERT_TRUE(result.ok()) << result.status();
  EXPECT_EQ(result->counts.by_code[static_cast<size_t>(absl::StatusCode::kDeadlineExceeded)], 2);
}

TEST(LoadStreamTest, TheFirstMessageIsLookedAt) {
  FakeServer refuses([](int, grpc::ServerContext*, v1::EvaluateResponse*) {
    return grpc::Status(grpc::StatusCode::INVALID_ARGUMENT, "targets[0] is wrong");
  });
  EXPECT_EQ(RunSmall(SmallStreams(refuses.target())).status(), absl::InvalidArgumentError("targets[0] is wrong"));

  FakeServer ends([](int, grpc::ServerContext*, v1::EvaluateResponse*) {
    return grpc::Status(grpc::StatusCode::ABORTED, "no streams");
  });
  EXPECT_EQ(RunSmall(SmallStreams(ends.target())).status(), absl::AbortedError("no streams"));
}

TEST(LoadGeneratorTest, NobodyThere) {
  LoadOptions options = SmallLoad("unix:/no/such/socket");
  options.timeout = absl::Milliseconds(50);
  EXPECT_EQ(RunSmall(options).status().code(), absl::StatusCode::kUnavailable);
}

TEST(CheckResponseTest, BytesThatAreNoEvaluateResponse) {
  const std::string bytes = "\xff\xff\xff";
  const grpc::Slice slice(bytes);
  EXPECT_THAT(std::string(CheckResponse(Calls::kUnary, SmallBatch(), grpc::ByteBuffer(&slice, 1)).message()),
              HasSubstr("cannot be parsed"));
}

TEST(SerializeRequestTest, IsTheMessageInOneSlice) {
  grpc::ByteBuffer buffer = *SerializeRequest(SmallBatch());
  grpc::Slice slice;
  ASSERT_TRUE(buffer.TrySingleSlice(&slice).ok());
  v1::EvaluateRequest request;
  ASSERT_TRUE(request.ParseFromArray(slice.begin(), static_cast<int>(slice.size())));
  EXPECT_EQ(request.logits().raw().size(), sizeof(kLogits));
  EXPECT_EQ(request.targets().raw().size(), sizeof(kTargets));
}

TEST(LoadOptionsTest, RefusesWithASentence) {
  const struct {
    std::function<void(LoadOptions&)> change;
    const char* message;  // null: it is fine
  } cases[] = {
      {[](LoadOptions&) {}, nullptr},
      {[](LoadOptions& o) { o.num_channels = 4; }, nullptr},
      {[](LoadOptions& o) { o.num_channels = 0; }, "--channels must be 1 to 1000"},
      {[](LoadOptions& o) { o.num_channels = 1001; }, "--channels must be 1 to 1000"},
      {[](LoadOptions& o) { o.concurrency = 0; }, "--concurrency must be at least the 1 of --channels"},
      {[](LoadOptions& o) { o.num_channels = 4, o.concurrency = 3; }, "at least the 4 of --channels"},
      {[](LoadOptions& o) { o.concurrency = 1000001; }, "at most 1000000"},
      {[](LoadOptions& o) { o.concurrency = 1, o.rate = 1; }, "either --concurrency or --rate"},
      {[](LoadOptions& o) { o.rate = 0; }, "--rate must be more than 0"},
      {[](LoadOptions& o) { o.rate = std::nan(""); }, "--rate must be more than 0"},
      {[](LoadOptions& o) { o.rate = 1e9; }, "at most 1e+06"},
      {[](LoadOptions& o) { o.rate = 0.1; }, nullptr},
      {[](LoadOptions& o) { o.rate = 1, o.max_outstanding = 0; }, "--max_outstanding must be at least the 1"},
      {[](LoadOptions& o) { o.num_streams = 2; }, "--streams needs --calls=stream"},
      {[](LoadOptions& o) { o.calls = Calls::kStream, o.num_streams = 2; }, nullptr},
      {[](LoadOptions& o) { o.calls = Calls::kStream, o.num_channels = 3, o.num_streams = 2; },
       "--streams must be at least the 3 of --channels"},
      {[](LoadOptions& o) { o.calls = Calls::kStream, o.num_streams = 2, o.concurrency = 1; },
       "--concurrency must be at least the 2 of --streams"},
      {[](LoadOptions& o) { o.honor_pushback = true; }, nullptr},
      {[](LoadOptions& o) { o.honor_pushback = true, o.rate = 1; }, "--honor_pushback needs unary calls"},
      {[](LoadOptions& o) { o.honor_pushback = true, o.calls = Calls::kStream; }, "--honor_pushback needs unary calls"},
      {[](LoadOptions& o) { o.warmup = -absl::Seconds(1); }, "--warmup must not be negative"},
      {[](LoadOptions& o) { o.duration = absl::ZeroDuration(); }, "--duration must be more than 0"},
      {[](LoadOptions& o) { o.count = 0; }, "--count must be at least 1"},
      {[](LoadOptions& o) { o.frame_bytes = 16383; }, "--frame_bytes must be 0, or 16384 to 16777215"},
  };
  for (const auto& c : cases) {
    LoadOptions options;
    c.change(options);
    const absl::Status status = CheckLoadOptions(options);
    if (c.message == nullptr) {
      EXPECT_EQ(status, absl::OkStatus());
    } else {
      EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << c.message;
      EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
    }
  }
}

}  // namespace
}  // namespace lossd
