#include <google/protobuf/unknown_field_set.h>

#include <algorithm>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "loss/element.h"
#include "tests/wire_fixture.h"

namespace lossd {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using WireDecodeTest = WireTest;

std::vector<double> FloatsOf(const TensorView& tensor) {
  std::vector<double> values;
  for (int64_t i = 0; i < NumElements(tensor.type.shape); ++i) values.push_back(FloatAt(tensor, i));
  return values;
}

std::vector<int64_t> IntegersOf(const TensorView& tensor) {
  std::vector<int64_t> values;
  for (int64_t i = 0; i < NumElements(tensor.type.shape); ++i) values.push_back(IntegerAt(tensor, i));
  return values;
}

// ---- what a request says ----

void ExpectSmallFields(const Request& request) {
  EXPECT_EQ(request.job, "team/digits_1.0:a-b");
  EXPECT_EQ(request.step, -17);
  const auto& loss = std::get<CrossEntropy>(request.spec.loss);
  EXPECT_EQ(loss.label_smoothing, 0.125);
  EXPECT_EQ(loss.ignore_index, -1);
  EXPECT_EQ(loss.class_axis, -1);
  EXPECT_EQ(request.spec.reduction, Reduction::kMean);
  EXPECT_EQ(request.spec.normalizer, 4);
  EXPECT_EQ(request.spec.unit, InformationUnit::kBits);
  EXPECT_EQ(request.spec.gradient_type, DataType::kFloat32);
  EXPECT_TRUE(request.spec.outputs.Has(Output::kLogitsGradient));
  EXPECT_TRUE(request.spec.outputs.Has(Output::kElementLoss));
  EXPECT_FALSE(request.spec.outputs.Has(Output::kPredictedClass));
}

void ExpectTensors(const Request& request) {
  const Inputs& inputs = request.inputs;
  EXPECT_EQ(inputs.logits.type, (TensorType{DataType::kFloat32, {2, 3}}));
  EXPECT_THAT(FloatsOf(inputs.logits), ElementsAre(1, 2, 3, 4, 5, 6));
  EXPECT_EQ(inputs.targets.type, (TensorType{DataType::kInt64, {2}}));
  EXPECT_THAT(IntegersOf(inputs.targets), ElementsAre(2, -1));
  EXPECT_FALSE(inputs.target_probabilities);
  EXPECT_EQ(inputs.class_weights.type, (TensorType{DataType::kFloat32, {3}}));
  EXPECT_THAT(FloatsOf(inputs.class_weights), ElementsAre(1, 2, 3));
  EXPECT_EQ(inputs.sample_weights.type, (TensorType{DataType::kFloat64, {2}}));
  EXPECT_THAT(FloatsOf(inputs.sample_weights), ElementsAre(0.5, 0.25));
  EXPECT_EQ(inputs.upstream_gradient.type, (TensorType{DataType::kFloat32, {}}));
  EXPECT_THAT(FloatsOf(inputs.upstream_gradient), ElementsAre(2));
  EXPECT_TRUE(CheckContents(request).ok());
}

TEST_F(WireDecodeTest, EveryFieldArrivesHoweverTheBytesAreSliced) {
  const std::string bytes = FullRequest().SerializeAsString();
  for (const size_t slice_bytes : {kWhole, size_t{64}, size_t{7}, size_t{1}}) {
    SCOPED_TRACE(slice_bytes);
    const absl::StatusOr<Request> request = DecodeBuffer(BufferOf(bytes, slice_bytes));
    ASSERT_TRUE(request.ok()) << request.status();
    ExpectSmallFields(*request);
    ExpectTensors(*request);
    EXPECT_TRUE(MakePlan(request->spec, TypesOf(request->inputs)).ok());
  }
}

// Parts of a message, in any order, in their place where that is one slice.
TEST(SliceReaderTest, ReadsWhatIsThere) {
  std::string bytes(1000, '\0');
  for (size_t i = 0; i < bytes.size(); ++i) bytes[i] = static_cast<char>(i % 251);
  std::mt19937 random(7);
  for (const size_t slice_bytes : {size_t{1000}, size_t{333}, size_t{64}, size_t{7}, size_t{1}}) {
    const Slices slices(BufferOf(bytes, slice_bytes));
    SliceReader reader(slices);
    size_t begin = 0;
    for (int i = 0; i < 2000; ++i) {
      if (i % 3 == 0 || begin >= bytes.size()) begin = random() % bytes.size();
      const size_t size = std::min<size_t>(random() % 70, bytes.size() - begin);
      std::vector<char> room(size + 1, 'x');
      const void* const read = reader.Read(static_cast<int64_t>(begin), static_cast<int64_t>(size), room.data());
      ASSERT_EQ(std::string(static_cast<const char*>(read), size), bytes.substr(begin, size)) << slice_bytes;
      const bool in_one = size > 0 && begin / slice_bytes == (begin + size - 1) / slice_bytes;
      if (slice_bytes >= 64) {  // gRPC joins shorter ones
        ASSERT_EQ(read != room.data(), in_one) << slice_bytes << ' ' << begin << ' ' << size;
      }
      ASSERT_EQ(room[size], 'x');
      begin += size;
    }
  }
}

TEST_F(WireDecodeTest, TheSparseRequestIsOne) {
  const absl::StatusOr<Request> request = DecodeMessage(SparseRequest());
  ASSERT_TRUE(request.ok()) << request.status();
  ASSERT_EQ(request->inputs.target_probabilities.type, (TensorType{DataType::kFloat32, {2, 1}}));
  EXPECT_THAT(FloatsOf(request->inputs.target_probabilities), ElementsAre(0.75, 0.5));
  EXPECT_TRUE(CheckContents(*request).ok());
  const absl::StatusOr<Plan> plan = MakePlan(request->spec, TypesOf(request->inputs));
  ASSERT_TRUE(plan.ok()) << plan.status();
  EXPECT_EQ(plan->target_kind, TargetKind::kSparseProbabilities);
}

TEST_F(WireDecodeTest, ARequestOutlivesItsBytesAndMoves) {
  auto buffer = std::make_unique<grpc::ByteBuffer>(BufferOf(FullRequest().SerializeAsString(), 5));
  absl::StatusOr<Request> decoded = DecodeBuffer(*buffer);
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  buffer.reset();
  const Request request = *std::move(decoded);
  ExpectTensors(request);
}

TEST_F(WireDecodeTest, DecodingLeavesTheBytesAlone) {
  const grpc::ByteBuffer buffer = BufferOf(FullRequest().SerializeAsString(), 5);
  const size_t length = buffer.Length();
  for (int i = 0; i < 2; ++i) EXPECT_TRUE(DecodeBuffer(buffer).ok());
  EXPECT_EQ(buffer.Length(), length);
}

TEST_F(WireDecodeTest, AnEmptyRequestHasTheDefaults) {
  const absl::StatusOr<Request> request = DecodeBuffer(BufferOf(""));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->job, "");
  EXPECT_FALSE(request->step.has_value());
  const auto& loss = std::get<CrossEntropy>(request->spec.loss);
  EXPECT_EQ(loss.label_smoothing, 0);
  EXPECT_FALSE(loss.ignore_index.has_value());
  EXPECT_FALSE(loss.class_axis.has_value());
  EXPECT_EQ(loss.temperature, 1);
  EXPECT_FALSE(request->spec.normalizer.has_value());
  EXPECT_EQ(request->spec.gradient_type, DataType::kUnspecified);
  EXPECT_FALSE(request->inputs.logits);
  EXPECT_FALSE(request->inputs.targets);
}

TEST_F(WireDecodeTest, ABufferWithoutBytesIsNoRequest) {
  EXPECT_EQ(DecodeBuffer(grpc::ByteBuffer()).status().code(), absl::StatusCode::kInvalidArgument);
}

TEST_F(WireDecodeTest, EveryOptionOfCrossEntropy) {
  v1::EvaluateRequest message;
  v1::CrossEntropy* from = message.mutable_loss()->mutable_cross_entropy();
  from->set_z_loss(1);
  from->set_softcap(2);
  from->set_temperature(0);  // explicit, and MakePlan's to refuse
  from->set_focal_gamma(4);
  from->set_poly_epsilon(5);
  from->set_ignore_index(0);
  from->set_class_axis(0);
  const absl::StatusOr<Request> request = DecodeMessage(message);
  ASSERT_TRUE(request.ok()) << request.status();
  const auto& loss = std::get<CrossEntropy>(request->spec.loss);
  EXPECT_EQ(loss.z_loss, 1);
  EXPECT_EQ(loss.softcap, 2);
  EXPECT_EQ(loss.temperature, 0);
  EXPECT_EQ(loss.focal_gamma, 4);
  EXPECT_EQ(loss.poly_epsilon, 5);
  EXPECT_EQ(loss.ignore_index, 0);
  EXPECT_EQ(loss.class_axis, 0);
}

TEST_F(WireDecodeTest, TheOtherLosses) {
  v1::EvaluateRequest message;
  message.mutable_loss()->mutable_negative_log_likelihood()->set_ignore_index(3);
  message.mutable_loss()->mutable_negative_log_likelihood()->set_class_axis(2);
  const Spec likelihood = DecodeMessage(message)->spec;
  EXPECT_EQ(std::get<NegativeLogLikelihood>(likelihood.loss).ignore_index, 3);
  EXPECT_EQ(std::get<NegativeLogLikelihood>(likelihood.loss).class_axis, 2);
  message.mutable_loss()->mutable_kl_divergence()->set_log_target(true);
  message.mutable_loss()->set_reduction(v1::REDUCTION_BATCH_MEAN);
  const Spec divergence = DecodeMessage(message)->spec;
  EXPECT_TRUE(std::get<KlDivergence>(divergence.loss).log_target);
  EXPECT_EQ(divergence.reduction, Reduction::kBatchMean);
  message.mutable_loss()->mutable_binary_cross_entropy()->set_label_smoothing(0.5);
  EXPECT_EQ(std::get<BinaryCrossEntropy>(DecodeMessage(message)->spec.loss).label_smoothing, 0.5);
}

TEST_F(WireDecodeTest, EveryOutput) {
  for (int number = v1::OUTPUT_LOGITS_GRADIENT; number <= v1::Output_MAX; ++number) {
    v1::EvaluateRequest message;
    message.add_outputs(static_cast<v1::Output>(number));
    const absl::StatusOr<Request> request = DecodeMessage(message);
    ASSERT_TRUE(request.ok()) << request.status();
    for (int other = 0; other <= v1::Output_MAX; ++other) {
      EXPECT_EQ(request->spec.outputs.Has(static_cast<Output>(other)), other == number);
    }
  }
}

// ---- what is refused ----

struct Refusal {
  const char* name;
  std::function<void(v1::EvaluateRequest&)> change;
  absl::StatusCode code;
  const char* want;
};

void ExpectRefused(const Refusal& test) {
  SCOPED_TRACE(test.name);
  v1::EvaluateRequest message = FullRequest();
  test.change(message);
  const absl::Status status = DecodeMessage(message).status();
  EXPECT_EQ(status.code(), test.code) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr(test.want));
}

TEST_F(WireDecodeTest, SmallFieldsThatAreRefused) {
  using Message = v1::EvaluateRequest;
  const Refusal cases[] = {
      {"129 characters", [](Message& m) { m.set_job(std::string(129, 'a')); }, kInvalid,
       "job has 129 characters; at most 128 are allowed"},
      {"10 KiB", [](Message& m) { m.set_job(std::string(10240, 'a')); }, kInvalid, "job has 10240 characters"},
      {"newline", [](Message& m) { m.set_job("job\n"); }, kInvalid,
       "job[3] is the character with code 10; allowed are"},
      {"quote", [](Message& m) { m.set_job("\"}"); }, kInvalid, "job[0] is the character with code 34"},
      {"zero byte", [](Message& m) { m.set_job(std::string("a\0b", 3)); }, kInvalid,
       "job[1] is the character with code 0"},
      {"space", [](Message& m) { m.set_job("a b"); }, kInvalid, "code 32"},
      {"letter outside ASCII", [](Message& m) { m.set_job("\xc3\xa4"); }, kInvalid,
       "job[0] is the character with code 195"},
      {"reduction", [](Message& m) { m.mutable_loss()->set_reduction(static_cast<v1::Reduction>(17)); }, kUnimplemented,
       "loss.reduction = 17 is a value that this build of lossd does not know"},
      {"reduction -1", [](Message& m) { m.mutable_loss()->set_reduction(static_cast<v1::Reduction>(-1)); },
       kUnimplemented, "loss.reduction = -1 is"},
      {"reduction 256", [](Message& m) { m.mutable_loss()->set_reduction(static_cast<v1::Reduction>(256)); },
       kUnimplemented, "loss.reduction = 256 is"},
      {"unit", [](Message& m) { m.mutable_loss()->set_unit(static_cast<v1::InformationUnit>(2)); }, kUnimplemented,
       "loss.unit = 2 is a value"},
      {"output 0", [](Message& m) { m.add_outputs(v1::OUTPUT_UNSPECIFIED); }, kInvalid,
       "outputs[3] is OUTPUT_UNSPECIFIED; name an output"},
      {"output 10", [](Message& m) { m.add_outputs(static_cast<v1::Output>(10)); }, kUnimplemented, "outputs = 10 is"},
      {"output 2^31 - 1", [](Message& m) { m.add_outputs(static_cast<v1::Output>(0x7fffffff)); }, kUnimplemented,
       "outputs = 2147483647 is"},
      {"gradient type", [](Message& m) { m.set_gradient_type(static_cast<v1::DataType>(13)); }, kInvalid,
       "gradient_type = 13 is not a DataType"},
      {"gradient type 257", [](Message& m) { m.set_gradient_type(static_cast<v1::DataType>(257)); }, kInvalid,
       "gradient_type = 257 is not a DataType"},
  };
  for (const Refusal& test : cases) ExpectRefused(test);
}

TEST_F(WireDecodeTest, JobsThatAreAllowed) {
  for (const std::string& job : {std::string(), std::string(128, 'z'), std::string("azAZ09_.:/-")}) {
    v1::EvaluateRequest message;
    message.set_job(job);
    EXPECT_EQ(DecodeMessage(message)->job, job);
  }
}

TEST_F(WireDecodeTest, AJobThatIsNotUtf8IsNotAMessage) {
  const absl::Status status = DecodeBuffer(BufferOf("\x0a\x02\xff\xfe")).status();
  EXPECT_EQ(status.code(), kInvalid);
  EXPECT_THAT(std::string(status.message()), HasSubstr("request: these 4 bytes are not a lossd.v1.EvaluateRequest"));
}

// ---- protobuf's own rules ----

TEST_F(WireDecodeTest, UnknownFieldsOfTheRequestAreSkipped) {
  v1::EvaluateRequest message = FullRequest();
  google::protobuf::UnknownFieldSet* unknown = message.GetReflection()->MutableUnknownFields(&message);
  unknown->AddVarint(1000, 1);
  unknown->AddFixed32(1001, 1);
  unknown->AddFixed64(1002, 1);
  unknown->AddLengthDelimited(1003, std::string(100000, 'x'));
  unknown->AddGroup(1004)->AddVarint(1, 1);
  const absl::StatusOr<Request> request = DecodeMessage(message);
  ASSERT_TRUE(request.ok()) << request.status();
  ExpectSmallFields(*request);
  ExpectTensors(*request);
}

template <typename Message>
void AddUnknown(Message* message) {
  message->GetReflection()->MutableUnknownFields(message)->AddVarint(77, 1);
}

TEST_F(WireDecodeTest, UnknownFieldsOfTheLossAreRefused) {
  using Message = v1::EvaluateRequest;
  const Refusal cases[] = {
      {"of LossSpec", [](Message& m) { AddUnknown(m.mutable_loss()); }, kUnimplemented,
       "loss has a field with number 77 that this build of lossd does not know"},
      {"of CrossEntropy", [](Message& m) { AddUnknown(m.mutable_loss()->mutable_cross_entropy()); }, kUnimplemented,
       "loss.cross_entropy has a field with number 77"},
      {"of NegativeLogLikelihood", [](Message& m) { AddUnknown(m.mutable_loss()->mutable_negative_log_likelihood()); },
       kUnimplemented, "loss.negative_log_likelihood has a field with number 77"},
      {"of KlDivergence", [](Message& m) { AddUnknown(m.mutable_loss()->mutable_kl_divergence()); }, kUnimplemented,
       "loss.kl_divergence has a field with number 77"},
      {"of BinaryCrossEntropy", [](Message& m) { AddUnknown(m.mutable_loss()->mutable_binary_cross_entropy()); },
       kUnimplemented, "loss.binary_cross_entropy has a field with number 77"},
  };
  for (const Refusal& test : cases) ExpectRefused(test);
}

TEST_F(WireDecodeTest, DuplicatesAreMergedAsProtobufDoes) {
  v1::EvaluateRequest first = FullRequest(), second;
  second.set_job("second");
  second.mutable_loss()->set_reduction(v1::REDUCTION_SUM);
  second.mutable_targets()->mutable_raw()->assign(16, '\1');  // another contents: the last one counts
  second.mutable_targets()->set_data_type(v1::DATA_TYPE_INT64);
  second.mutable_upstream_gradient()->mutable_floats()->add_values(3);  // the same contents: merged
  const absl::StatusOr<Request> request =
      DecodeBuffer(BufferOf(first.SerializeAsString() + second.SerializeAsString(), 3));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_EQ(request->job, "second");
  EXPECT_EQ(request->step, -17);
  EXPECT_EQ(request->spec.reduction, Reduction::kSum);
  EXPECT_EQ(std::get<CrossEntropy>(request->spec.loss).label_smoothing, 0.125);
  EXPECT_THAT(IntegersOf(request->inputs.targets), ElementsAre(0x0101010101010101, 0x0101010101010101));
  EXPECT_EQ(request->contents.upstream_gradient.bytes, 8);
}

TEST_F(WireDecodeTest, TheLastLossOfSeveralCounts) {
  v1::EvaluateRequest first, second;
  first.mutable_loss()->mutable_cross_entropy()->set_label_smoothing(0.5);
  second.mutable_loss()->mutable_kl_divergence();
  const absl::StatusOr<Request> request =
      DecodeBuffer(BufferOf(first.SerializeAsString() + second.SerializeAsString()));
  ASSERT_TRUE(request.ok()) << request.status();
  EXPECT_TRUE(std::holds_alternative<KlDivergence>(request->spec.loss));
}

}  // namespace
}  // namespace lossd
