// EvaluateStream: answers in order, errors in the stream, and nothing that one batch does to another.
#include <grpcpp/generic/generic_stub.h>

#include <string>
#include <thread>

#include "gmock/gmock.h"
#include "server/wire.h"
#include "tests/server_fixture.h"
#include "wire/write.h"

namespace lossd {
namespace {

using ::testing::HasSubstr;

constexpr char kStream[] =
    "grpc_method=\"EvaluateStream\",grpc_service=\"lossd.v1.LossService\",grpc_type=\"bidi_stream\"";

class ServerStreamTest : public ServerTest {
 protected:
  using Stream = grpc::ClientReaderWriter<v1::EvaluateStreamRequest, v1::EvaluateStreamResponse>;

  void Open() {
    context_ = NewContext();
    stream_ = stub_->EvaluateStream(context_.get());
  }

  static v1::EvaluateStreamRequest Message(int64_t sequence, const v1::EvaluateRequest& request) {
    v1::EvaluateStreamRequest message;
    message.set_sequence(sequence);
    *message.mutable_request() = request;
    return message;
  }

  // Sends all of them from a thread of its own, and returns what comes back.
  std::vector<v1::EvaluateStreamResponse> Exchange(const std::vector<v1::EvaluateStreamRequest>& messages,
                                                   grpc::Status* status) {
    Open();
    std::thread writer([&] {
      for (const v1::EvaluateStreamRequest& message : messages) {
        if (!stream_->Write(message)) break;
      }
      stream_->WritesDone();
    });
    std::vector<v1::EvaluateStreamResponse> answers;
    v1::EvaluateStreamResponse answer;
    while (stream_->Read(&answer)) answers.push_back(answer);
    writer.join();
    *status = stream_->Finish();
    return answers;
  }

  std::unique_ptr<grpc::ClientContext> context_;
  std::unique_ptr<Stream> stream_;
};

std::string WithoutTiming(v1::EvaluateResponse response) {
  response.clear_timing();
  return response.SerializeAsString();
}

// What takes long to decode is not decoded by the thread that waits for events: many fields, or many typed numbers.
TEST_F(ServerStreamTest, MessagesThatTakeLongToDecode) {
  Start();
  const v1::EvaluateRequest plain = SmallRequest();
  const Reply want = Call(*stub_, plain);
  ASSERT_TRUE(want.status.ok()) << want.status.error_message();
  v1::EvaluateRequest many = plain;
  auto* const unknown = many.GetReflection()->MutableUnknownFields(&many);
  for (int i = 0; i < 200'000; ++i) unknown->AddVarint(5000, 1);
  v1::EvaluateRequest bad = many;
  bad.clear_targets();
  const Reply got = Call(*stub_, many);
  ASSERT_TRUE(got.status.ok()) << got.status.error_message();
  EXPECT_EQ(WithoutTiming(got.response), WithoutTiming(want.response));
  EXPECT_EQ(Call(*stub_, bad).status.error_code(), grpc::INVALID_ARGUMENT);

  v1::EvaluateRequest typed;
  constexpr int kRows = 1'500'000;
  typed.mutable_logits()->set_data_type(v1::DATA_TYPE_FLOAT32);
  typed.mutable_logits()->add_shape(kRows);
  typed.mutable_logits()->add_shape(2);
  typed.mutable_logits()->mutable_raw()->resize(size_t{8} * kRows);
  typed.mutable_targets()->set_data_type(v1::DATA_TYPE_INT64);
  typed.mutable_targets()->add_shape(kRows);
  for (int i = 0; i < kRows; ++i) typed.mutable_targets()->mutable_ints()->add_values(i % 2);
  typed.mutable_loss()->mutable_cross_entropy();
  const Reply of_typed = Call(*stub_, typed);
  ASSERT_TRUE(of_typed.status.ok()) << of_typed.status.error_message();

  grpc::Status status;
  const auto answers = Exchange({Message(0, many), Message(1, bad), Message(2, plain), Message(3, typed)}, &status);
  EXPECT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(answers.size(), 4u);
  EXPECT_EQ(WithoutTiming(answers[0].response()), WithoutTiming(want.response));
  EXPECT_EQ(answers[1].error().code(), grpc::INVALID_ARGUMENT);
  EXPECT_EQ(WithoutTiming(answers[2].response()), WithoutTiming(want.response));
  EXPECT_EQ(WithoutTiming(answers[3].response()), WithoutTiming(of_typed.response));
  EXPECT_EQ(Sample("lossd_inflight_bytes"), 0);
}

TEST_F(ServerStreamTest, AnswersAreThoseOfUnaryCallsInOrder) {
  Start();
  std::vector<v1::EvaluateStreamRequest> messages;
  std::vector<std::string> want;
  for (int round = 0; round < 3; ++round) {
    for (const auto& [name, batch] : EveryLoss(DataType::kFloat32)) {
      const v1::EvaluateRequest request = RequestOf(batch);
      messages.push_back(Message(static_cast<int64_t>(messages.size()) * 7 - 3, request));
      const Reply reply = Call(*stub_, request);
      ASSERT_TRUE(reply.status.ok()) << reply.status.error_message();
      want.push_back(WithoutTiming(reply.response));
    }
  }
  grpc::Status status;
  const std::vector<v1::EvaluateStreamResponse> answers = Exchange(messages, &status);
  EXPECT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(answers.size(), messages.size());
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].sequence(), messages[i].sequence());
    EXPECT_TRUE(WithoutTiming(answers[i].response()) == want[i]) << i;
  }
  AwaitSample(std::string("grpc_server_handled_total{grpc_code=\"OK\",") + kStream + "}", 1);
  ExpectServes();
}

TEST_F(ServerStreamTest, ABadBatchIsAnsweredWithItsErrorAndTheStreamGoesOn) {
  Start();
  v1::EvaluateRequest bad = SmallRequest();
  bad.mutable_logits()->mutable_raw()->pop_back();
  v1::EvaluateRequest out_of_range = LargeRequest(1);
  out_of_range.mutable_targets()->mutable_raw()->back() = 0x7f;
  v1::EvaluateRequest unknown = SmallRequest();
  unknown.add_outputs(static_cast<v1::Output>(99));
  const std::vector<v1::EvaluateStreamRequest> messages = {Message(1, SmallRequest()),  Message(2, bad),
                                                           Message(3, LargeRequest(1)), Message(4, out_of_range),
                                                           Message(5, unknown),         Message(6, SmallRequest())};
  grpc::Status status;
  const std::vector<v1::EvaluateStreamResponse> answers = Exchange(messages, &status);
  EXPECT_TRUE(status.ok()) << status.error_message();
  ASSERT_EQ(answers.size(), messages.size());
  const int want[] = {grpc::OK, grpc::INVALID_ARGUMENT, grpc::OK, grpc::INVALID_ARGUMENT, grpc::UNIMPLEMENTED,
                      grpc::OK};
  for (size_t i = 0; i < answers.size(); ++i) {
    EXPECT_EQ(answers[i].sequence(), messages[i].sequence());
    EXPECT_EQ(answers[i].error().code(), want[i]) << i;
    EXPECT_EQ(answers[i].has_response(), want[i] == grpc::OK) << i;
  }
  EXPECT_THAT(answers[1].error().message(), HasSubstr("logits holds 79 bytes; float32 of shape [4, 5] needs 80"));
  EXPECT_THAT(answers[3].error().message(), HasSubstr("is outside [0, "));
  const std::pair<const char*, int> counts[] = {
      {"OK", 3}, {"InvalidArgument", 2}, {"Unimplemented", 1}, {"Internal", 0}};
  for (const auto& [code, count] : counts) {
    EXPECT_EQ(Sample(absl::StrCat("lossd_stream_batches_total{grpc_code=\"", code, "\"}")), count) << code;
  }
  ExpectServes();
}

TEST_F(ServerStreamTest, ABatchThatDoesNotDecodeIsAnsweredToo) {
  Start();
  Open();
  v1::EvaluateStreamRequest message = Message(9, SmallRequest());
  message.mutable_request()->mutable_logits()->set_data_type(static_cast<v1::DataType>(99));
  ASSERT_TRUE(stream_->Write(message));
  v1::EvaluateStreamResponse answer;
  ASSERT_TRUE(stream_->Read(&answer));
  EXPECT_EQ(answer.sequence(), 9);
  EXPECT_EQ(answer.error().code(), grpc::INVALID_ARGUMENT);
  ASSERT_TRUE(stream_->Write(v1::EvaluateStreamRequest()));
  ASSERT_TRUE(stream_->Read(&answer));
  EXPECT_THAT(answer.error().message(), HasSubstr("logits: missing"));
  stream_->WritesDone();
  EXPECT_TRUE(stream_->Finish().ok());
  ExpectServes();
}

// Whatever is wrong with a batch, its answer has its sequence: as far as that can be read.
TEST_F(ServerStreamTest, AnswersToWhatCannotBeParsedHaveTheirSequence) {
  Config config = SmallConfig();
  config.memory_budget_bytes = config.max_message_bytes = int64_t{64} << 20;
  Start(config);
  const auto field = [](int number, const std::string& contents) {
    std::string bytes;
    AppendVarint(static_cast<uint64_t>(number) << 3 | 2, bytes);
    AppendVarint(contents.size(), bytes);
    return bytes + contents;
  };
  const auto sequence = [](uint64_t value) {
    std::string bytes = "\x08";
    AppendVarint(value, bytes);
    return bytes;
  };
  v1::EvaluateRequest typed = SmallRequest();
  typed.mutable_logits()->mutable_floats()->mutable_values()->Resize(1 << 20, 0);
  std::string many_fields;
  for (int i = 0; i < 4096; ++i) many_fields += std::string("\x18\x00", 2);
  const struct {
    std::string bytes;
    int64_t sequence;
    int code;
  } cases[] = {
      {sequence(14) + field(2, field(1, "\xff")), 14, grpc::INVALID_ARGUMENT},                // a job that is not UTF-8
      {sequence(16) + field(2, field(15, "\x08").substr(0, 2)), 16, grpc::INVALID_ARGUMENT},  // cut short inside
      {field(2, field(1, "\xff")) + sequence(17), 17, grpc::INVALID_ARGUMENT},
      {sequence(18) + "\xff", 18, grpc::INVALID_ARGUMENT},
      {sequence(19) + sequence(20) + "\x07", 20, grpc::INVALID_ARGUMENT},
      {sequence(uint64_t{0} - 21) + "\x07", -21, grpc::INVALID_ARGUMENT},
      {"\x07", 0, grpc::INVALID_ARGUMENT},
      {"\x2b\x2c" + sequence(9) + "\x07", 9, grpc::INVALID_ARGUMENT},  // after a group
      {many_fields + sequence(10) + "\x07", 0, grpc::INVALID_ARGUMENT},
      {sequence(41) + field(2, typed.SerializeAsString()), 41, grpc::RESOURCE_EXHAUSTED},
      {sequence(42) + field(2, SmallRequest().SerializeAsString()), 42, grpc::OK},
  };
  grpc::GenericStub generic(channel_);
  grpc::CompletionQueue queue;
  const auto context = NewContext();
  const auto stream = generic.PrepareCall(context.get(), "/lossd.v1.LossService/EvaluateStream", &queue);
  const auto await = [&] {
    void* tag = nullptr;
    bool ok = false;
    return queue.Next(&tag, &ok) && ok;
  };
  stream->StartCall(nullptr);
  ASSERT_TRUE(await());
  for (const auto& c : cases) {
    const grpc::Slice slice(c.bytes);
    stream->Write(grpc::ByteBuffer(&slice, 1), nullptr);
    ASSERT_TRUE(await());
    grpc::ByteBuffer received;
    stream->Read(&received, nullptr);
    ASSERT_TRUE(await());
    v1::EvaluateStreamResponse answer;
    ASSERT_TRUE(ParseSmall(received, answer).ok());
    EXPECT_EQ(answer.sequence(), c.sequence);
    EXPECT_EQ(answer.error().code(), c.code) << answer.error().message();
  }
  stream->WritesDone(nullptr);
  ASSERT_TRUE(await());
  grpc::Status status;
  stream->Finish(&status, nullptr);
  ASSERT_TRUE(await());
  EXPECT_TRUE(status.ok());
}

TEST_F(ServerStreamTest, AnEmptyStreamEnds) {
  Start();
  Open();
  stream_->WritesDone();
  v1::EvaluateStreamResponse answer;
  EXPECT_FALSE(stream_->Read(&answer));
  EXPECT_TRUE(stream_->Finish().ok());
  ExpectServes();
}

// Larger in all than the budget: the server does not read more than it has room for, and answers everything.
TEST_F(ServerStreamTest, ABudgetSmallerThanTheStream) {
  Config config = SmallConfig();
  config.max_message_bytes = config.memory_budget_bytes = 16 * kMegabyte;
  Start(config);
  std::vector<v1::EvaluateStreamRequest> messages;
  for (int i = 0; i < 12; ++i) messages.push_back(Message(i, LargeRequest(4)));
  std::vector<std::thread> clients;
  std::vector<size_t> answered(3);
  for (size_t& count : answered) {
    clients.emplace_back([&] {
      const std::unique_ptr<grpc::ClientContext> context = NewContext();
      const auto stream = stub_->EvaluateStream(context.get());
      std::thread writer([&] {
        for (const v1::EvaluateStreamRequest& message : messages) stream->Write(message);
        stream->WritesDone();
      });
      v1::EvaluateStreamResponse answer;
      while (stream->Read(&answer)) {
        EXPECT_TRUE(answer.has_response()) << answer.error().message();
        ++count;
      }
      writer.join();
      EXPECT_TRUE(stream->Finish().ok());
    });
  }
  for (std::thread& client : clients) client.join();
  for (const size_t count : answered) EXPECT_EQ(count, messages.size());
  ExpectServes();
}

TEST_F(ServerStreamTest, ABatchThatNeverFitsIsRefusedAndTheStreamGoesOn) {
  Config config = SmallConfig();
  config.max_message_bytes = config.memory_budget_bytes = 8 * kMegabyte;
  Start(config);
  grpc::Status status;
  const auto answers = Exchange({Message(1, LargeRequest(6)), Message(2, SmallRequest())}, &status);
  EXPECT_TRUE(status.ok());
  ASSERT_EQ(answers.size(), 2u);
  EXPECT_EQ(answers[0].error().code(), grpc::RESOURCE_EXHAUSTED);
  EXPECT_THAT(answers[0].error().message(), HasSubstr("memory_budget_bytes is 8388608"));
  EXPECT_TRUE(answers[1].has_response());
  ExpectServes();
}

TEST_F(ServerStreamTest, CancelledWhileEverythingIsUnderWay) {
  Start();
  for (int round = 0; round < 5; ++round) {
    Open();
    std::thread writer([&] {
      while (stream_->Write(Message(1, LargeRequest(2)))) {
      }
    });
    v1::EvaluateStreamResponse answer;
    for (int i = 0; i <= round; ++i) ASSERT_TRUE(stream_->Read(&answer));
    context_->TryCancel();
    writer.join();
    EXPECT_EQ(stream_->Finish().error_code(), grpc::CANCELLED);
  }
  AwaitSample(std::string("grpc_server_handled_total{grpc_code=\"Canceled\",") + kStream + "}", 5);
  ExpectServes();
}

TEST_F(ServerStreamTest, ADrainAnswersWhatWasAdmittedAndSendsTheRestElsewhere) {
  Config config = SmallConfig();
  config.max_message_bytes = config.memory_budget_bytes = int64_t{48} << 20;
  Start(config);
  HeldCall held(*stub_, LargeRequest(16));  // holds 32 MB
  AwaitSample("lossd_compute_seconds_count", 1);
  Open();
  ASSERT_TRUE(stream_->Write(Message(1, SmallRequest())));
  v1::EvaluateStreamResponse answer;
  ASSERT_TRUE(stream_->Read(&answer));
  const double received = Sample("lossd_received_bytes_total");
  ASSERT_TRUE(stream_->Write(Message(2, LargeRequest(16))));  // waits for memory
  while (Sample("lossd_received_bytes_total") == received) std::this_thread::yield();
  server_->StartDraining();
  EXPECT_FALSE(stream_->Read(&answer));
  const grpc::Status status = stream_->Finish();
  EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE) << status.error_message();
  EXPECT_THAT(status.error_message(), HasSubstr("draining"));
  EXPECT_TRUE(held.Finish().status.ok());
  EXPECT_TRUE(server_->AwaitIdle(kForever));
}

TEST_F(ServerStreamTest, ADrainWaitsForAnswersThatAreBeingSent) {
  Start();
  Open();
  ASSERT_TRUE(stream_->Write(Message(1, LargeRequest(32))));  // more than flow control lets go
  AwaitSample("lossd_compute_seconds_count", 1);
  server_->StartDraining();
  EXPECT_FALSE(server_->AwaitIdle(absl::ZeroDuration()));
  v1::EvaluateStreamResponse answer;
  ASSERT_TRUE(stream_->Read(&answer));
  EXPECT_TRUE(answer.has_response());
  EXPECT_FALSE(stream_->Read(&answer));
  EXPECT_EQ(stream_->Finish().error_code(), grpc::UNAVAILABLE);
  EXPECT_TRUE(server_->AwaitIdle(kForever));
}

TEST_F(ServerStreamTest, ADrainEndsAStreamThatHasNoRoomToRead) {
  Config config = SmallConfig();
  config.max_message_bytes = config.memory_budget_bytes = int64_t{48} << 20;
  Start(config);
  Open();
  ASSERT_TRUE(stream_->Write(Message(1, LargeRequest(16))));
  v1::EvaluateStreamResponse answer;
  ASSERT_TRUE(stream_->Read(&answer));
  EXPECT_TRUE(server_->AwaitIdle(kForever));
  HeldCall held(*stub_, LargeRequest(16));  // leaves no room for another one as large
  AwaitSample("lossd_compute_seconds_count", 2);
  server_->StartDraining();
  EXPECT_FALSE(stream_->Read(&answer));
  EXPECT_EQ(stream_->Finish().error_code(), grpc::UNAVAILABLE);
  EXPECT_TRUE(held.Finish().status.ok());
}

TEST_F(ServerStreamTest, ADrainEndsStreamsThatAreIdle) {
  Start();
  Open();
  const std::unique_ptr<v1::LossService::Stub> stub = v1::LossService::NewStub(channel_);
  const auto context = NewContext();
  const auto silent = stub->EvaluateStream(context.get());  // has never sent anything
  ASSERT_TRUE(stream_->Write(Message(1, SmallRequest())));
  v1::EvaluateStreamResponse answer;
  ASSERT_TRUE(stream_->Read(&answer));
  AwaitSample(std::string("grpc_server_started_total{") + kStream + "}", 2);
  server_->StartDraining();
  for (auto* stream : {stream_.get(), silent.get()}) {
    EXPECT_FALSE(stream->Read(&answer));
    const grpc::Status status = stream->Finish();
    EXPECT_EQ(status.error_code(), grpc::UNAVAILABLE) << status.error_message();
    EXPECT_THAT(status.error_message(), HasSubstr("draining"));
  }
}

TEST_F(ServerStreamTest, StoppingEndsAnIdleStream) {
  Start();
  Open();
  ASSERT_TRUE(stream_->Write(Message(1, SmallRequest())));
  v1::EvaluateStreamResponse answer;
  ASSERT_TRUE(stream_->Read(&answer));
  server_.reset();
  EXPECT_FALSE(stream_->Read(&answer));
  EXPECT_EQ(stream_->Finish().error_code(), grpc::UNAVAILABLE);
}

}  // namespace
}  // namespace lossd
