#include <google/protobuf/util/message_differencer.h>
#include <grpcpp/support/slice.h>

#include <cmath>
#include <cstring>
#include <limits>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "server/wire.h"
#include "tests/messages.h"

namespace lossd {
namespace {

constexpr int64_t kMaxInt = std::numeric_limits<int64_t>::max();

// A buffer for `type`, with bytes that tell where they belong.
Buffer Filled(const TensorType& type, unsigned seed) {
  absl::StatusOr<Buffer> buffer = Buffer::Allocate(NumElements(type.shape) * SizeOf(type.data_type));
  EXPECT_TRUE(buffer.ok()) << buffer.status();
  for (int64_t i = 0; i < buffer->size(); ++i)
    buffer->data()[i] = static_cast<std::byte>(seed + 31u * static_cast<unsigned>(i));
  return *std::move(buffer);
}

Answer AnswerOf(const ResultTypes& types) {
  Answer answer;
  answer.types = types;
  unsigned seed = 0;
  ForEachResult(
      [&seed](const char*, const TensorType& type, Buffer& buffer) {
        if (type) buffer = Filled(type, ++seed);
      },
      types, answer.buffers);
  answer.summary = {.loss_sum = 1.5,
                    .weight_sum = 2.5,
                    .element_count = 6,
                    .ignored_count = 1,
                    .correct_count = 3,
                    .nonfinite_count = 2};
  answer.queue_seconds = 0.25;
  answer.compute_seconds = 0.5;
  return answer;
}

// What Encode(answer) must say, by protobuf's own means.
v1::EvaluateResponse MessageOf(const Answer& answer) {
  v1::EvaluateResponse message;
  ForEachResult(
      [&message](const char* name, const TensorType& type, const Buffer& buffer) {
        if (type) CopyTensor({buffer.data(), type}, MutableTensor(&message, name));
      },
      answer.types, answer.buffers);
  v1::Summary* summary = message.mutable_summary();
  summary->set_loss_sum(answer.summary.loss_sum);
  summary->set_weight_sum(answer.summary.weight_sum);
  summary->set_element_count(answer.summary.element_count);
  summary->set_ignored_count(answer.summary.ignored_count);
  if (answer.summary.correct_count) summary->set_correct_count(*answer.summary.correct_count);
  summary->set_nonfinite_count(answer.summary.nonfinite_count);
  message.mutable_timing()->set_queue_seconds(answer.queue_seconds);
  message.mutable_timing()->set_compute_seconds(answer.compute_seconds);
  return message;
}

std::vector<grpc::Slice> SlicesOf(const grpc::ByteBuffer& buffer) {
  std::vector<grpc::Slice> slices;
  EXPECT_TRUE(buffer.Dump(&slices).ok());
  return slices;
}

std::string BytesOf(const grpc::ByteBuffer& buffer) {
  std::string bytes;
  for (const grpc::Slice& slice : SlicesOf(buffer))
    bytes.append(reinterpret_cast<const char*>(slice.begin()), slice.size());
  return bytes;
}

void ExpectEncoded(Answer answer) {
  const v1::EvaluateResponse want = MessageOf(answer);
  const std::string bytes = BytesOf(Encode(std::move(answer)).Finish());
  v1::EvaluateResponse message;
  ASSERT_TRUE(message.ParseFromString(bytes));
  EXPECT_TRUE(google::protobuf::util::MessageDifferencer::Equals(message, want));
  EXPECT_EQ(bytes, want.SerializeAsString());  // byte for byte what protobuf would have written
}

constexpr auto kFloat32 = DataType::kFloat32, kFloat64 = DataType::kFloat64, kInt64 = DataType::kInt64;

// All ten tensors, of types as a plan gives them.
ResultTypes AllOf(const Shape& elements, const Shape& logits) {
  const TensorType each{kFloat32, elements}, all{kFloat32, logits};
  return {.loss = each,
          .element_loss = each,
          .log_sum_exp = each,
          .target_log_probability = each,
          .predicted_class = {kInt64, elements},
          .entropy = each,
          .probabilities = all,
          .log_probabilities = all,
          .targets_gradient = {DataType::kBfloat16, logits},
          .logits_gradient = {kFloat64, logits}};
}

std::vector<std::string> ResultNames() {
  std::vector<std::string> names;
  ForEachResult([&names](const char* name) { names.push_back(name); });
  return names;
}

// Those tensors of `types` that keep(name).
template <typename Keep>
ResultTypes Only(ResultTypes types, const Keep& keep) {
  ForEachResult(
      [&keep](const char* name, TensorType& type) {
        if (!keep(std::string(name))) type = {};
      },
      types);
  return types;
}

TEST(WireEncodeTest, EveryTensorFieldIsAResult) {
  EXPECT_EQ(static_cast<int>(ResultNames().size()), CountTensorFields(v1::EvaluateResponse::descriptor()));
}

TEST(WireEncodeTest, EveryTensorAloneAndAllButIt) {
  const ResultTypes sizes[] = {AllOf({2, 3}, {2, 5, 3}), AllOf({5000}, {5000, 11}), AllOf({0}, {0, 7}),
                               AllOf({}, {1 << 15}), AllOf({2000}, {2})};
  for (const ResultTypes& types : sizes) {
    SCOPED_TRACE(ToString(types.logits_gradient.shape));
    ExpectEncoded(AnswerOf(types));
    for (const std::string& it : ResultNames()) {
      SCOPED_TRACE(it);
      ExpectEncoded(AnswerOf(Only(types, [&it](const std::string& name) { return name == it; })));
      ExpectEncoded(AnswerOf(Only(types, [&it](const std::string& name) { return name != it; })));
    }
  }
}

TEST(WireEncodeTest, EverySecondTensorLarge) {
  for (const bool odd : {false, true}) {
    ResultTypes types = AllOf({10}, {10, 3});
    bool large = odd;
    ForEachResult(
        [&large](const char*, TensorType& type) {
          if (large) type.shape = {3000};
          large = !large;
        },
        types);
    ExpectEncoded(AnswerOf(types));
  }
}

TEST(WireEncodeTest, TheLossAlone) {
  v1::EvaluateResponse message;
  ASSERT_TRUE(message.ParseFromString(BytesOf(Encode(AnswerOf({.loss = {kFloat32, {}}})).Finish())));
  for (const std::string& name : ResultNames()) EXPECT_EQ(HasTensor(message, name.c_str()), name == "loss") << name;
  EXPECT_EQ(message.loss().raw().size(), 4u);
  EXPECT_EQ(message.summary().loss_sum(), 1.5);
  EXPECT_EQ(message.timing().compute_seconds(), 0.5);
}

TEST(WireEncodeTest, Encode) {
  struct Case {
    const char* name;
    ResultTypes types;
  };
  const Shape many_axes = {1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2, 1, 2};
  const Case cases[] = {
      {"float64", {.loss = {kFloat64, {}}, .logits_gradient = {kFloat64, {2, 3}}}},
      {"empty, of large rows", {.loss = {kFloat32, {}}, .logits_gradient = {kFloat32, {0, int64_t{1} << 40}}}},
      {"the largest that is copied", {.loss = {kFloat32, {}}, .element_loss = {kFloat32, {1024}}}},
      {"one more", {.loss = {kFloat32, {}}, .element_loss = {kFloat32, {1025}}}},
      {"16 axes", AllOf(many_axes, many_axes)},
      {"8 MB", {.loss = {kFloat32, {}}, .logits_gradient = {kFloat32, {1 << 21}}}},
      {"nothing", {}},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    ExpectEncoded(AnswerOf(test.types));
  }
}

TEST(WireEncodeTest, Summaries) {
  constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
  const Summary cases[] = {
      {},
      {.loss_sum = -1e300,
       .weight_sum = -0.0,
       .element_count = kMaxInt,
       .ignored_count = kMaxInt,
       .correct_count = kMaxInt,
       .nonfinite_count = kMaxInt},
      {.loss_sum = std::numeric_limits<double>::infinity(),
       .weight_sum = 1,
       .element_count = 1,
       .ignored_count = 0,
       .correct_count = 0,
       .nonfinite_count = 1},  // correct_count is there, and 0
      {.loss_sum = 1,
       .weight_sum = 1,
       .element_count = 1,
       .ignored_count = 0,
       .correct_count = {},
       .nonfinite_count = 0},
  };
  for (const Summary& summary : cases) {
    Answer answer = AnswerOf({.loss = {kFloat32, {}}});
    answer.summary = summary;
    ExpectEncoded(std::move(answer));
  }
  Answer answer = AnswerOf({});
  answer.summary.loss_sum = kNan;
  v1::EvaluateResponse message;
  ASSERT_TRUE(message.ParseFromString(BytesOf(Encode(std::move(answer)).Finish())));
  EXPECT_TRUE(std::isnan(message.summary().loss_sum()));
}

TEST(WireEncodeTest, LargeTensorsAreReferredToAndSmallOnesCopied) {
  Answer answer =
      AnswerOf({.loss = {kFloat32, {}}, .element_loss = {kFloat32, {10}}, .logits_gradient = {kFloat32, {100000}}});
  const void* const small = answer.buffers.element_loss.data();
  const void* const large = answer.buffers.logits_gradient.data();
  const grpc::ByteBuffer bytes = Encode(std::move(answer)).Finish();
  const std::vector<grpc::Slice> slices = SlicesOf(bytes);
  ASSERT_EQ(slices.size(), 2u);
  EXPECT_EQ(slices[1].begin(), large);
  EXPECT_EQ(slices[1].size(), 400000u);
  for (const grpc::Slice& slice : slices) EXPECT_NE(slice.begin(), small);
}

TEST(WireEncodeTest, AllTenAreReferredToWhereLarge) {
  Answer answer = AnswerOf(AllOf({5000}, {5000, 11}));
  std::vector<const void*> want;
  ForEachResult([&want](const char*, const Buffer& buffer) { want.push_back(buffer.data()); }, answer.buffers);
  const grpc::ByteBuffer bytes = Encode(std::move(answer)).Finish();
  const std::vector<grpc::Slice> slices = SlicesOf(bytes);
  ASSERT_EQ(slices.size(), 2 * want.size());  // in front of each tensor the text that leads to it
  for (size_t i = 0; i < want.size(); ++i) EXPECT_EQ(slices[2 * i + 1].begin(), want[i]);
}

TEST(WireEncodeTest, BytesOutliveCopiesOfThem) {
  auto bytes = std::make_unique<grpc::ByteBuffer>(Encode(AnswerOf(AllOf({5000}, {5000, 3}))).Finish());
  const grpc::ByteBuffer copy(*bytes);
  const std::string before = BytesOf(copy);
  bytes.reset();
  EXPECT_EQ(BytesOf(copy), before);
}

// ---- MaxResponseBytes ----

struct BoundCase {
  const char* name;
  Shape logits;
  int32_t class_axis;
  Reduction reduction;
};

// All outputs of cross-entropy, with class indices or with probabilities as targets.
void ExpectBound(const BoundCase& test, DataType type, bool indices) {
  SCOPED_TRACE(std::string(test.name) + " of " + Name(type) + (indices ? ", indices" : ", probabilities"));
  Spec spec;
  spec.loss = CrossEntropy{.class_axis = test.class_axis};
  spec.reduction = test.reduction;
  spec.outputs = {Output::kElementLoss, Output::kPredictedClass, Output::kLogitsGradient,  Output::kLogSumExp,
                  Output::kEntropy,     Output::kProbabilities,  Output::kLogProbabilities};
  spec.outputs.Add(indices ? Output::kTargetLogProbability : Output::kTargetsGradient);
  InputTypes inputs;
  inputs.logits = inputs.targets = {type, test.logits};
  if (indices) inputs.targets = {kInt64, test.logits.Without(test.class_axis)};
  const absl::StatusOr<Plan> plan = MakePlan(spec, inputs);
  ASSERT_TRUE(plan.ok()) << plan.status();
  Answer answer = AnswerOf(plan->results);
  answer.summary = {.loss_sum = -1e-300,
                    .weight_sum = 1e300,
                    .element_count = kMaxInt,
                    .ignored_count = kMaxInt,
                    .correct_count = kMaxInt,
                    .nonfinite_count = kMaxInt};
  const auto size = static_cast<int64_t>(Encode(std::move(answer)).size());
  EXPECT_LE(size, MaxResponseBytes(*plan));
  EXPECT_LE(MaxResponseBytes(*plan), size + 4096);  // and a close one
}

TEST(WireEncodeTest, MaxResponseBytesIsAnUpperBound) {
  constexpr int64_t kLong = int64_t{1} << 40;
  const BoundCase cases[] = {
      {"one row", {1, 1}, 1, Reduction::kMean},
      {"one axis", {10}, 0, Reduction::kMean},
      {"rows", {100, 1000}, 1, Reduction::kSum},
      {"a loss each", {1000, 3}, 1, Reduction::kNone},
      {"16 axes", {2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2, 2}, 15, Reduction::kNone},
      {"no elements", {0, 5}, 1, Reduction::kNone},
      {"no elements, long extents", {0, kLong, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1}, 1, Reduction::kNone},
  };
  for (const BoundCase& test : cases) {
    for (const DataType type : {kFloat32, kFloat64, DataType::kFloat16}) {
      for (const bool indices : {true, false}) ExpectBound(test, type, indices);
    }
  }
}

// ---- statuses ----

TEST(WireEncodeTest, StatusesAndTheirNames) {
  struct Case {
    absl::StatusCode code;
    grpc::StatusCode want;
    const char* name;
  };
  const Case cases[] = {
      {absl::StatusCode::kOk, grpc::StatusCode::OK, "OK"},
      {absl::StatusCode::kCancelled, grpc::StatusCode::CANCELLED, "Canceled"},
      {absl::StatusCode::kUnknown, grpc::StatusCode::UNKNOWN, "Unknown"},
      {absl::StatusCode::kInvalidArgument, grpc::StatusCode::INVALID_ARGUMENT, "InvalidArgument"},
      {absl::StatusCode::kDeadlineExceeded, grpc::StatusCode::DEADLINE_EXCEEDED, "DeadlineExceeded"},
      {absl::StatusCode::kNotFound, grpc::StatusCode::NOT_FOUND, "NotFound"},
      {absl::StatusCode::kAlreadyExists, grpc::StatusCode::ALREADY_EXISTS, "AlreadyExists"},
      {absl::StatusCode::kPermissionDenied, grpc::StatusCode::PERMISSION_DENIED, "PermissionDenied"},
      {absl::StatusCode::kResourceExhausted, grpc::StatusCode::RESOURCE_EXHAUSTED, "ResourceExhausted"},
      {absl::StatusCode::kFailedPrecondition, grpc::StatusCode::FAILED_PRECONDITION, "FailedPrecondition"},
      {absl::StatusCode::kAborted, grpc::StatusCode::ABORTED, "Aborted"},
      {absl::StatusCode::kOutOfRange, grpc::StatusCode::OUT_OF_RANGE, "OutOfRange"},
      {absl::StatusCode::kUnimplemented, grpc::StatusCode::UNIMPLEMENTED, "Unimplemented"},
      {absl::StatusCode::kInternal, grpc::StatusCode::INTERNAL, "Internal"},
      {absl::StatusCode::kUnavailable, grpc::StatusCode::UNAVAILABLE, "Unavailable"},
      {absl::StatusCode::kDataLoss, grpc::StatusCode::DATA_LOSS, "DataLoss"},
      {absl::StatusCode::kUnauthenticated, grpc::StatusCode::UNAUTHENTICATED, "Unauthenticated"},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    const bool ok = test.code == absl::StatusCode::kOk;
    const grpc::Status status = ToGrpcStatus(absl::Status(test.code, "targets[17] = 5"));
    EXPECT_EQ(status.error_code(), test.want);
    EXPECT_EQ(status.error_message(), ok ? "" : "targets[17] = 5");
    EXPECT_STREQ(CodeName(test.code), test.name);
  }
}

TEST(WireEncodeTest, CodesThatDoNotExistAreUnknown) {
  for (const int code : {-1, 17, 1000}) EXPECT_STREQ(CodeName(static_cast<absl::StatusCode>(code)), "Unknown");
}

TEST(WireEncodeTest, VeryLongMessagesAreCut) {
  const std::string text(2048, 'x');
  EXPECT_EQ(ToGrpcStatus(absl::InternalError(text)).error_message(), text);
  EXPECT_EQ(ToGrpcStatus(absl::InternalError(text + "y")).error_message(), text);
}

TEST(BufferTest, AlignedAndOfTheSizeAsked) {
  for (const int64_t bytes : {0, 1, 63, 64, 65, 1 << 20}) {
    const absl::StatusOr<Buffer> buffer = Buffer::Allocate(bytes);
    ASSERT_TRUE(buffer.ok()) << buffer.status();
    EXPECT_EQ(buffer->size(), bytes);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->data()) % Buffer::kAlignment, 0u);
    std::memset(buffer->data(), 1, static_cast<size_t>(bytes));
  }
}

}  // namespace
}  // namespace lossd
