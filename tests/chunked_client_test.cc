// Batches in chunks: the bits of one call, whatever happens to the streams.
#include <cmath>
#include <cstring>
#include <functional>
#include <limits>
#include <mutex>
#include <random>
#include <set>
#include <string>
#include <thread>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/notification.h"
#include "absl/time/clock.h"
#include "client/cpp/client.h"
#include "client/cpp/eval_report.h"
#include "gmock/gmock.h"
#include "tests/batch.h"
#include "tests/fake_lossd.h"
#include "tests/server_fixture.h"

namespace lossd {
namespace {

using ::testing::HasSubstr;
using testing::OwnedTensor;
using Stream = FakeLossd::Stream;

constexpr double kInfinity = std::numeric_limits<double>::infinity();
constexpr OutputSet kRowOutputs = {Output::kLogitsGradient,  Output::kElementLoss, Output::kPredictedClass,
                                   Output::kLogSumExp,       Output::kEntropy,     Output::kProbabilities,
                                   Output::kLogProbabilities};

Batch ViewOf(const testing::Batch& batch) {
  Batch view;
  view.job = "chunks";
  view.step = 5;
  view.spec = batch.spec;
  view.logits = batch.logits.view();
  view.targets = batch.targets.view();
  view.target_probabilities = batch.target_probabilities.view();
  view.class_weights = batch.class_weights.view();
  view.sample_weights = batch.sample_weights.view();
  view.upstream_gradient = batch.upstream_gradient.view();
  return view;
}

EvaluateOptions Chunked(int num_streams = 1) {
  EvaluateOptions options;
  options.timeout = kForever;
  options.chunk_threshold_bytes = 0;
  options.num_streams = num_streams;
  return options;
}

EvaluateOptions OneCall() {
  EvaluateOptions options;
  options.timeout = kForever;
  options.chunk_threshold_bytes = std::numeric_limits<int64_t>::max();
  return options;
}

std::string Bits(const Tensor& tensor) {
  return {reinterpret_cast<const char*>(tensor.data()), static_cast<size_t>(tensor.size_bytes())};
}

bool Same(double a, double b) { return (std::isnan(a) && std::isnan(b)) || a == b; }

void ExpectSame(const Evaluation& answer, const Evaluation& want) {
  const std::vector<NamedTensor> tensors = ReturnedTensors(answer), wanted = ReturnedTensors(want);
  ASSERT_EQ(tensors.size(), wanted.size());
  for (size_t i = 0; i < tensors.size(); ++i) {
    ASSERT_EQ(tensors[i].tensor->type(), wanted[i].tensor->type()) << tensors[i].name;
    ASSERT_TRUE(Bits(*tensors[i].tensor) == Bits(*wanted[i].tensor)) << tensors[i].name;
  }
  EXPECT_PRED2(Same, answer.summary.loss_sum, want.summary.loss_sum);
  EXPECT_PRED2(Same, answer.summary.weight_sum, want.summary.weight_sum);
  EXPECT_EQ(answer.summary.element_count, want.summary.element_count);
  EXPECT_EQ(answer.summary.ignored_count, want.summary.ignored_count);
  EXPECT_EQ(answer.summary.correct_count, want.summary.correct_count);
  EXPECT_EQ(answer.summary.nonfinite_count, want.summary.nonfinite_count);
}

// Three chunks, the last one shorter.
testing::Batch ThreeChunks(uint64_t seed = 1) {
  std::mt19937_64 random(seed);
  testing::Batch batch = testing::RandomBatch({.outer = {2500}, .num_classes = 1000, .ignore_some = true}, random);
  batch.spec.outputs = {Output::kLogitsGradient, Output::kElementLoss};
  return batch;
}

class ChunkedClientTest : public ServerTest {
 protected:
  void SetUp() override {
    Start();
    client_ = std::make_unique<Client>(server_->grpc_address());
  }

  void ExpectOneCallsBits(const testing::Batch& batch, const std::string& what) {
    SCOPED_TRACE(what);
    const absl::StatusOr<Evaluation> want = client_->Evaluate(ViewOf(batch), OneCall());
    ASSERT_TRUE(want.ok()) << want.status();
    const absl::StatusOr<Evaluation> answer = client_->Evaluate(ViewOf(batch), Chunked());
    ASSERT_TRUE(answer.ok()) << answer.status();
    ExpectSame(*answer, *want);
  }

  // What a server does with a stream: evaluates what it reads.
  grpc::Status Serve(Stream* stream, int at_most = 1 << 30) {
    v1::EvaluateStreamRequest request;
    for (int i = 0; i < at_most && stream->Read(&request); ++i) {
      if (!stream->Write(Answer(request))) break;
    }
    return grpc::Status::OK;
  }

  v1::EvaluateStreamResponse Answer(const v1::EvaluateStreamRequest& request) {
    const Reply reply = Call(*stub_, request.request());
    EXPECT_TRUE(reply.status.ok()) << reply.status.error_message();
    v1::EvaluateStreamResponse response;
    response.set_sequence(request.sequence());
    *response.mutable_response() = reply.response;
    return response;
  }

  static v1::EvaluateStreamResponse Refusal(const v1::EvaluateStreamRequest& request, grpc::StatusCode code) {
    v1::EvaluateStreamResponse response;
    response.set_sequence(request.sequence());
    response.mutable_error()->set_code(code);
    response.mutable_error()->set_message("not now");
    return response;
  }

  static grpc::Status NoCalls(const v1::EvaluateRequest&, v1::EvaluateResponse*) {
    return {grpc::StatusCode::INTERNAL, "nobody should call this"};
  }

  std::unique_ptr<Client> client_;
};

// ---- the same bits ----

struct Layout {
  Shape outer;
  int64_t num_classes;
  Shape inner;
};
const Layout kLayouts[] = {
    {{2500}, 1000, {}}, {{2, 1250}, 1000, {}}, {{800'000}, 3, {}}, {{5}, 64, {8, 1024}}, {{40}, 60'000, {}},
};

// Options in turn, so that each meets each.
void Vary(int i, testing::Batch& batch, const Shape& elements, std::mt19937_64& random) {
  Spec& spec = batch.spec;
  spec.unit = static_cast<InformationUnit>(i % 2);
  spec.gradient_type = static_cast<DataType>(i % 5);
  if (spec.reduction == Reduction::kMean && i % 3 == 1) spec.normalizer = 12.5;
  if (spec.reduction == Reduction::kNone) {
    batch.upstream_gradient = testing::RandomFloats({DataType::kFloat64, elements}, random, 0, 1);
  } else if (i % 3 == 0) {
    batch.upstream_gradient = OwnedTensor::Floats({}, {-2.5f});
  }
}

// One reduction each, as the whole takes long under sanitizers.
class ChunkedCrossEntropyTest : public ChunkedClientTest, public ::testing::WithParamInterface<Reduction> {};
INSTANTIATE_TEST_SUITE_P(Reductions, ChunkedCrossEntropyTest,
                         ::testing::Values(Reduction::kMean, Reduction::kSum, Reduction::kNone));

TEST_P(ChunkedCrossEntropyTest, EqualsOneCall) {
  int i = 0;
  for (const Layout& layout : kLayouts) {
    for (const Reduction reduction : {Reduction::kMean, Reduction::kSum, Reduction::kNone}) {
      for (const TargetKind kind :
           {TargetKind::kClassIndices, TargetKind::kProbabilities, TargetKind::kSparseProbabilities}) {
        const DataType type = static_cast<DataType>(1 + ++i % 4);
        if (reduction != GetParam()) continue;
        std::mt19937_64 random(static_cast<uint64_t>(i));
        const bool dense = kind == TargetKind::kProbabilities;
        testing::Batch batch = testing::RandomBatch({.type = type,
                                                     .target_type = dense ? DataType::kFloat32 : DataType::kInt32,
                                                     .outer = layout.outer,
                                                     .num_classes = layout.num_classes,
                                                     .inner = layout.inner,
                                                     .sparse_size = kind == TargetKind::kSparseProbabilities ? 2 : 0,
                                                     .class_weights = i % 2 == 0,
                                                     .sample_weights = i % 3 == 0,
                                                     .ignore_some = !dense},
                                                    random);
        auto& loss = std::get<CrossEntropy>(batch.spec.loss);
        if (i % 2 == 1) *loss.class_axis -= batch.logits.type().shape.rank();
        loss.label_smoothing = i % 4 == 1 ? 0.1 : 0;
        loss.z_loss = i % 5 == 2 ? 1e-2 : 0;
        loss.temperature = i % 5 == 3 ? 1.7 : 1;
        if (kind == TargetKind::kClassIndices && i % 4 != 1) loss.focal_gamma = 2;
        batch.spec.reduction = reduction;
        batch.spec.outputs = kRowOutputs;
        batch.spec.outputs.Add(kind == TargetKind::kClassIndices ? Output::kTargetLogProbability
                                                                 : Output::kTargetsGradient);
        const Shape logits = batch.logits.type().shape;
        const int axis = *loss.class_axis < 0 ? *loss.class_axis + logits.rank() : *loss.class_axis;
        Vary(i, batch, logits.Without(axis), random);
        if (kind == TargetKind::kSparseProbabilities) batch.spec.outputs = kRowOutputs;
        ExpectOneCallsBits(batch, absl::StrCat("case ", i, " ", ToString(logits)));
      }
    }
  }
}

TEST_F(ChunkedClientTest, NegativeLogLikelihood) {
  std::mt19937_64 random(2);
  int i = 0;
  for (const Layout& layout : kLayouts) {
    testing::Batch batch = testing::RandomBatch({.outer = layout.outer,
                                                 .num_classes = layout.num_classes,
                                                 .inner = layout.inner,
                                                 .class_weights = true,
                                                 .ignore_some = true},
                                                random);
    const CrossEntropy indices = std::get<CrossEntropy>(batch.spec.loss);
    batch.spec.loss = NegativeLogLikelihood{indices.ignore_index, indices.class_axis};
    batch.spec.outputs = {Output::kLogitsGradient, Output::kPredictedClass, Output::kTargetLogProbability};
    batch.spec.reduction = static_cast<Reduction>(++i % 3);
    Vary(i, batch, batch.targets.type().shape, random);
    ExpectOneCallsBits(batch, absl::StrCat("case ", i));
  }
}

TEST_F(ChunkedClientTest, LossesOfEntries) {
  std::mt19937_64 random(3);
  const Shape shape = {500, 7, 600};
  const Shape pos_weights[] = {{}, {600}, {7, 600}, {7, 1}, {1}};
  for (int i = 0; i < 12; ++i) {
    const DataType type = static_cast<DataType>(1 + i % 4);
    testing::Batch batch;
    batch.logits = testing::RandomFloats({type, shape}, random, -2, 1);
    batch.targets = testing::RandomFloats({DataType::kFloat32, shape}, random, 0.3, 0.1, true);
    if (i % 2 == 1) batch.sample_weights = testing::RandomFloats({DataType::kFloat32, shape}, random, 1, 0.5);
    batch.spec.outputs = {Output::kLogitsGradient, Output::kTargetsGradient, Output::kElementLoss};
    if (i < 6) {
      batch.spec.loss = KlDivergence{};
      batch.spec.reduction = static_cast<Reduction>(i % 4);
    } else {
      batch.spec.loss = BinaryCrossEntropy{0.1};
      batch.spec.reduction = static_cast<Reduction>(i % 3);
      if (i > 6) batch.class_weights = testing::RandomFloats({type, pos_weights[i - 7]}, random, 1, 0.5, true);
    }
    Vary(i, batch, shape, random);
    ExpectOneCallsBits(batch, absl::StrCat("case ", i));
  }
}

// Where there is nothing to divide by, or something odd.
TEST_F(ChunkedClientTest, OddDenominators) {
  const std::function<void(testing::Batch&)> spoils[] = {
      [](testing::Batch& batch) { std::memset(batch.targets.data(), 0xff, batch.targets.Bits().size()); },  // all -1
      [](testing::Batch& batch) { batch.class_weights.set(7, std::nan("")); },
      [](testing::Batch& batch) { batch.class_weights.set(7, kInfinity); },
      [](testing::Batch& batch) { batch.class_weights.set(7, -kInfinity); },
      [](testing::Batch& batch) {
        for (int c = 0; c < 1000; ++c) batch.class_weights.set(c, -0.1 - c);
      },
      [](testing::Batch& batch) {
        for (int c = 0; c < 1000; ++c) batch.class_weights.set(c, 0);
      },
      [](testing::Batch& batch) { batch.logits.set(1'200'007, std::nan("")); },
      [](testing::Batch& batch) { batch.logits.set(2'300'007, kInfinity); },
  };
  int i = 0;
  for (const auto& spoil : spoils) {
    for (const InformationUnit unit : {InformationUnit::kNats, InformationUnit::kBits}) {
      testing::Batch batch = ThreeChunks();
      batch.class_weights = OwnedTensor::Floats({1000}, std::vector<float>(1000, 0.3f));
      std::get<CrossEntropy>(batch.spec.loss).ignore_index = -1;
      for (int row = 0; row < 2500; ++row) {
        if (batch.targets.integer(row) < 0) batch.targets.set(row, -1);
      }
      if (i % 3 != 0) batch.upstream_gradient = OwnedTensor::Doubles({}, {i % 3 == 1 ? -1.7 : kInfinity});
      batch.spec.unit = unit;
      spoil(batch);
      ExpectOneCallsBits(batch, absl::StrCat("case ", i++));
    }
  }
}

TEST_F(ChunkedClientTest, ErrorsNameTheWholeBatchAndNothingIsSent) {
  testing::Batch batch = ThreeChunks();
  batch.targets.set(2400, 1000);
  const absl::Status want = client_->Evaluate(ViewOf(batch), OneCall()).status();
  EXPECT_THAT(std::string(want.message()), HasSubstr("targets[2400] = 1000"));
  FakeLossd fake(NoCalls);
  EXPECT_EQ(Client(fake.target()).Evaluate(ViewOf(batch), Chunked()).status(), want);
  EXPECT_EQ(fake.num_streams(), 0);
}

TEST_F(ChunkedClientTest, SeveralStreams) {
  const testing::Batch batch = ThreeChunks();
  const absl::StatusOr<Evaluation> want = client_->Evaluate(ViewOf(batch), OneCall());
  ASSERT_TRUE(want.ok()) << want.status();
  for (int num_streams : {0, 2, 3, 7}) {
    const absl::StatusOr<Evaluation> answer = client_->Evaluate(ViewOf(batch), Chunked(num_streams));
    ASSERT_TRUE(answer.ok()) << answer.status();
    ExpectSame(*answer, *want);
  }
}

TEST_F(ChunkedClientTest, WritesTheGradientWhereTheCallerWantsItAndTellsOfProgress) {
  const testing::Batch batch = ThreeChunks();
  std::vector<float> gradient(2'500'000);
  std::vector<int64_t> done;
  EvaluateOptions options = Chunked();
  options.logits_gradient = std::as_writable_bytes(std::span(gradient));
  options.progress = [&](int64_t elements, int64_t total) {
    EXPECT_EQ(total, 2500);
    done.push_back(elements);
  };
  const absl::StatusOr<Evaluation> answer = client_->Evaluate(ViewOf(batch), options);
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(answer->logits_gradient.As<float>().data(), gradient.data());
  EXPECT_TRUE(std::is_sorted(done.begin(), done.end()));
  EXPECT_EQ(done.size(), 3u);
  EXPECT_EQ(done.back(), 2500);
  ExpectSame(*answer, *client_->Evaluate(ViewOf(batch), OneCall()));
}

// ---- what can go wrong ----

TEST_F(ChunkedClientTest, AServerWithoutStreams) {
  const testing::Batch batch = ThreeChunks();
  FakeLossd fake([&](const v1::EvaluateRequest& request, v1::EvaluateResponse* response) {
    const Reply reply = Call(*stub_, request);
    *response = reply.response;
    return reply.status;
  });
  const absl::StatusOr<Evaluation> answer = Client(fake.target()).Evaluate(ViewOf(batch), Chunked());
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(fake.num_calls(), 3);
  ExpectSame(*answer, *client_->Evaluate(ViewOf(batch), OneCall()));
}

TEST_F(ChunkedClientTest, StreamsThatBreak) {
  const testing::Batch batch = ThreeChunks();
  // A server that stops cancels what it has not ended.
  for (const auto code : {grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::CANCELLED}) {
    for (int num_streams : {1, 2}) {
      FakeLossd fake(NoCalls);
      fake.set_stream([&](grpc::ServerContext*, Stream* stream) {
        Serve(stream, 1);
        return grpc::Status(code, "draining");
      });
      const absl::StatusOr<Evaluation> answer = Client(fake.target()).Evaluate(ViewOf(batch), Chunked(num_streams));
      ASSERT_TRUE(answer.ok()) << answer.status();
      EXPECT_GE(fake.num_streams(), 3);
      ExpectSame(*answer, *client_->Evaluate(ViewOf(batch), OneCall()));
    }
  }
}

// A balancer may lead elsewhere by then.
TEST_F(ChunkedClientTest, AStreamThatBreaksIsTriedAgainOverAnotherConnection) {
  const testing::Batch batch = ThreeChunks();
  std::mutex mutex;
  std::set<std::string> peers;
  FakeLossd fake(NoCalls);
  fake.set_stream([&](grpc::ServerContext* context, Stream* stream) {
    const std::lock_guard lock(mutex);
    peers.insert(context->peer());
    Serve(stream, 1);
    return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
  });
  const absl::StatusOr<Evaluation> answer = Client(fake.target()).Evaluate(ViewOf(batch), Chunked());
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(static_cast<int>(peers.size()), fake.num_streams());
}

TEST_F(ChunkedClientTest, OneStreamThatLeadsNowhereLeavesItsChunksToTheOther) {
  constexpr int kTries = 6;
  const testing::Batch batch = ThreeChunks();
  std::atomic<bool> served = false;
  FakeLossd fake(NoCalls);
  fake.set_stream([&](grpc::ServerContext*, Stream* stream) {
    if (served.exchange(true)) return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining");
    while (fake.num_streams() < 1 + kTries) absl::SleepFor(absl::Milliseconds(5));  // the other one has given up
    return Serve(stream);
  });
  const absl::StatusOr<Evaluation> answer = Client(fake.target()).Evaluate(ViewOf(batch), Chunked(2));
  ASSERT_TRUE(answer.ok()) << answer.status();
  EXPECT_EQ(fake.num_streams(), 1 + kTries);
  ExpectSame(*answer, *client_->Evaluate(ViewOf(batch), OneCall()));
}

TEST_F(ChunkedClientTest, ChunksThatAreRefusedForTheMoment) {
  const testing::Batch batch = ThreeChunks();
  for (const auto code : {grpc::StatusCode::UNAVAILABLE, grpc::StatusCode::RESOURCE_EXHAUSTED}) {
    std::atomic<int> count = 0;
    FakeLossd fake(NoCalls);
    fake.set_stream([&](grpc::ServerContext*, Stream* stream) {
      v1::EvaluateStreamRequest request;
      while (stream->Read(&request)) stream->Write(count++ % 2 == 0 ? Refusal(request, code) : Answer(request));
      return grpc::Status::OK;
    });
    const absl::StatusOr<Evaluation> answer = Client(fake.target()).Evaluate(ViewOf(batch), Chunked());
    ASSERT_TRUE(answer.ok()) << answer.status();
    EXPECT_EQ(fake.num_streams(), 1);
    ExpectSame(*answer, *client_->Evaluate(ViewOf(batch), OneCall()));
  }
}

TEST_F(ChunkedClientTest, TriesThatLeadNowhereEnd) {
  const testing::Batch batch = ThreeChunks();
  FakeLossd fake(NoCalls);
  fake.set_stream(
      [](grpc::ServerContext*, Stream*) { return grpc::Status(grpc::StatusCode::UNAVAILABLE, "draining"); });
  EXPECT_EQ(Client(fake.target()).Evaluate(ViewOf(batch), Chunked()).status(), absl::UnavailableError("draining"));
  EXPECT_GT(fake.num_streams(), 3);
}

TEST_F(ChunkedClientTest, OtherErrorsFailTheCall) {
  const testing::Batch batch = ThreeChunks();
  FakeLossd fake(NoCalls);
  fake.set_stream([&](grpc::ServerContext*, Stream* stream) {
    v1::EvaluateStreamRequest request;
    while (stream->Read(&request)) {
      stream->Write(request.sequence() == 1 ? Refusal(request, grpc::StatusCode::UNIMPLEMENTED) : Answer(request));
    }
    return grpc::Status::OK;
  });
  EXPECT_EQ(Client(fake.target()).Evaluate(ViewOf(batch), Chunked()).status(),
            absl::UnimplementedError("not now (in a part of the batch: elements [1040, 2080))"));
}

TEST_F(ChunkedClientTest, TheTimeoutEndsACallInFlight) {
  absl::Notification done;
  FakeLossd fake(NoCalls);
  fake.set_stream([&](grpc::ServerContext*, Stream* stream) {
    Serve(stream, 1);
    done.WaitForNotification();
    return grpc::Status::OK;
  });
  const Client client(fake.target());
  for (int milliseconds : {1, 5, 20, 100, 300}) {
    auto batch = std::make_unique<testing::Batch>(ThreeChunks());
    EvaluateOptions options = Chunked(1 + milliseconds % 2);
    options.timeout = absl::Milliseconds(milliseconds);
    const absl::Time start = absl::Now();
    EXPECT_TRUE(absl::IsDeadlineExceeded(client.Evaluate(ViewOf(*batch), options).status()));
    EXPECT_LT(absl::Now() - start, absl::Seconds(10));
    batch.reset();
  }
  done.Notify();
}

TEST_F(ChunkedClientTest, MalformedAnswersAreInternalErrors) {
  const testing::Batch batch = ThreeChunks();
  const struct {
    const char* message;
    std::function<void(v1::EvaluateStreamResponse&)> spoil;
  } cases[] = {
      {"sequence is 7", [](v1::EvaluateStreamResponse& r) { r.set_sequence(7); }},
      {"loss is missing", [](v1::EvaluateStreamResponse& r) { r.clear_result(); }},
      {"code 0", [](v1::EvaluateStreamResponse& r) { r.mutable_error(); }},
      {"logits_gradient was asked for",
       [](v1::EvaluateStreamResponse& r) { r.mutable_response()->clear_logits_gradient(); }},
      {"logits_gradient has the shape [1000, 1040]",
       [](v1::EvaluateStreamResponse& r) {
         r.mutable_response()->mutable_logits_gradient()->set_shape(0, 1000);
         r.mutable_response()->mutable_logits_gradient()->set_shape(1, 1040);
       }},
      {"element_loss has the shape [2000000] for 1040 elements",
       [](v1::EvaluateStreamResponse& r) {
         r.mutable_response()->mutable_summary()->set_element_count(2'000'000);
         r.mutable_response()->mutable_element_loss()->set_shape(0, 2'000'000);
         r.mutable_response()->mutable_element_loss()->mutable_raw()->resize(8'000'000);
       }},
  };
  for (const auto& c : cases) {
    FakeLossd fake(NoCalls);
    fake.set_stream([&](grpc::ServerContext*, Stream* stream) {
      v1::EvaluateStreamRequest request;
      while (stream->Read(&request)) {
        v1::EvaluateStreamResponse response = Answer(request);
        if (request.sequence() == 0) c.spoil(response);
        stream->Write(response);
      }
      return grpc::Status::OK;
    });
    const absl::Status status = Client(fake.target()).Evaluate(ViewOf(batch), Chunked()).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInternal) << c.message << ": " << status;
    EXPECT_THAT(std::string(status.message()), HasSubstr(c.message));
  }
}

TEST_F(ChunkedClientTest, WhatCannotBeCutSaysSo) {
  Config config = SmallConfig();
  config.max_message_bytes = 3 * kMegabyte;
  config.memory_budget_bytes = 64 * kMegabyte;
  Start(config);
  const absl::Status status = Client(server_->grpc_address()).Evaluate(ViewOf(ThreeChunks()), Chunked()).status();
  EXPECT_TRUE(absl::IsResourceExhausted(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("cannot be cut into less than 1040 elements"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("max_message_bytes is 3145728"));
}

}  // namespace
}  // namespace lossd
