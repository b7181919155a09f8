#include "tests/server_fixture.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <random>

#include "absl/strings/str_cat.h"
#include "absl/synchronization/mutex.h"
#include "absl/time/clock.h"
#include "server/log.h"
#include "tests/messages.h"
#include "tests/raw_http.h"

namespace lossd {
namespace {

using testing::Batch;
using testing::BatchOptions;
using testing::OwnedTensor;
using testing::RandomFloats;

// ---- batches ----

// Axes before the class axis, classes, axes after it. The last ones take several blocks.
struct Layout {
  Shape outer;
  int64_t num_classes;
  Shape inner;
};
const Layout kLayouts[] = {
    {{}, 2, {}},      {{7}, 10, {}}, {{2, 4}, 5, {}},  {{3}, 6, {2, 2}},
    {{33}, 1000, {}}, {{0}, 3, {}},  {{1}, 30000, {}}, {{2000}, 64, {}},
};

// Where an element is one entry.
const Shape kEntryShapes[] = {{}, {1}, {0, 3}, {3, 5}, {2, 3, 4}, {65, 17}, {300, 500}};

const OutputSet kRowOutputs = {Output::kLogitsGradient, Output::kElementLoss, Output::kPredictedClass};
const OutputSet kEntryOutputs = {Output::kLogitsGradient, Output::kTargetsGradient, Output::kElementLoss};

// What every loss has. `i` varies it.
void FinishSpec(int i, Reduction reduction, const Shape& elements, std::mt19937_64& random, Batch& batch) {
  batch.spec.reduction = reduction;
  batch.spec.unit = static_cast<InformationUnit>(i % 11 % 2);
  batch.spec.gradient_type = static_cast<DataType>(i % 5);  // unspecified, then the four float types
  if (reduction == Reduction::kMean && i % 7 % 2 == 1) batch.spec.normalizer = 12.5;
  if (reduction == Reduction::kNone)
    batch.upstream_gradient = RandomFloats({DataType::kFloat64, elements}, random, 0, 1);
  if (reduction == Reduction::kSum) batch.upstream_gradient = OwnedTensor::Floats({}, {-2.5f});
}

BatchOptions OptionsOf(int i, DataType type, const Layout& layout) {
  return {.type = type,
          .outer = layout.outer,
          .num_classes = layout.num_classes,
          .inner = layout.inner,
          .class_weights = i % 2 == 0,
          .sample_weights = i % 7 >= 3,
          .ignore_some = i % 4 >= 2};
}

Batch CrossEntropyBatch(int i, DataType type, const Layout& layout, TargetKind kind, std::mt19937_64& random) {
  BatchOptions options = OptionsOf(i, type, layout);
  if (kind == TargetKind::kProbabilities) options.target_type = i % 2 == 0 ? type : DataType::kFloat32;
  if (kind == TargetKind::kSparseProbabilities) options.sparse_size = 1 + i % 5;
  Batch batch = testing::RandomBatch(options, random);
  CrossEntropy& loss = std::get<CrossEntropy>(batch.spec.loss);
  const Shape elements = batch.logits.type().shape.Without(*loss.class_axis);
  if (i % 2 == 1) *loss.class_axis -= batch.logits.type().shape.rank();
  loss.label_smoothing = i % 4 == 1 ? 0.1 : 0;
  loss.z_loss = i % 5 == 2 ? 1e-2 : 0;
  loss.temperature = i % 5 == 3 ? 1.7 : 1;
  loss.softcap = i % 5 == 4 ? 4 : 0;
  batch.spec.outputs = kRowOutputs;
  for (const Output output :
       {Output::kLogSumExp, Output::kEntropy, Output::kProbabilities, Output::kLogProbabilities}) {
    batch.spec.outputs.Add(output);
  }
  if (kind == TargetKind::kClassIndices) {
    loss.focal_gamma = i % 4 == 2 ? 2 : 0;
    loss.poly_epsilon = i % 4 == 3 ? 1.5 : 0;
    batch.spec.outputs.Add(Output::kTargetLogProbability);
  } else {
    batch.spec.outputs.Add(Output::kTargetsGradient);
  }
  FinishSpec(i, static_cast<Reduction>((i + i / 3) % 3), elements, random, batch);
  return batch;
}

Batch LikelihoodBatch(int i, DataType type, const Layout& layout, std::mt19937_64& random) {
  Batch batch = testing::RandomBatch(OptionsOf(i, type, layout), random);
  const CrossEntropy indices = std::get<CrossEntropy>(batch.spec.loss);
  batch.spec.loss = NegativeLogLikelihood{indices.ignore_index, indices.class_axis};
  batch.spec.outputs = kRowOutputs;
  batch.spec.outputs.Add(Output::kTargetLogProbability);
  FinishSpec(i, static_cast<Reduction>(i % 3), batch.targets.type().shape, random, batch);
  return batch;
}

Batch DivergenceBatch(int i, DataType type, const Shape& shape, std::mt19937_64& random) {
  Batch batch;
  const bool log_target = i % 3 == 1;
  batch.spec.loss = KlDivergence{log_target};
  batch.logits = RandomFloats({type, shape}, random, -2, 1);
  batch.targets = RandomFloats({type, shape}, random, log_target ? -2 : 0.3, 0.5, !log_target);
  if (i % 5 < 2) batch.sample_weights = RandomFloats({DataType::kFloat32, shape}, random, 1, 0.5);
  batch.spec.outputs = kEntryOutputs;
  const auto reduction = static_cast<Reduction>(i % 4);
  FinishSpec(i, reduction == Reduction::kBatchMean && shape.rank() == 0 ? Reduction::kMean : reduction, shape, random,
             batch);
  return batch;
}

Batch BinaryBatch(int i, DataType type, const Shape& shape, std::mt19937_64& random) {
  Batch batch;
  batch.spec.loss = BinaryCrossEntropy{i % 7 < 3 ? 0.2 : 0.0};
  batch.logits = RandomFloats({type, shape}, random, 0, 8);
  batch.targets = RandomFloats({type, shape}, random, 0, 0.4, true);
  const Shape last = shape.rank() == 0 ? Shape{} : Shape{shape[shape.rank() - 1]};
  if (i % 4 != 0) batch.class_weights = RandomFloats({type, i % 4 == 1 ? last : shape}, random, 1, 0.5, true);
  if (i % 5 == 1) batch.sample_weights = RandomFloats({type, shape}, random, 1, 0.5);
  batch.spec.outputs = kEntryOutputs;
  FinishSpec(i, static_cast<Reduction>((i + 1) % 3), shape, random, batch);
  return batch;
}

Batch SmallBatch(int64_t rows, int64_t num_classes) {
  std::mt19937_64 random(1);
  Batch batch = testing::RandomBatch({.outer = {rows}, .num_classes = num_classes}, random);
  batch.spec.outputs = kRowOutputs;
  return batch;
}

// A row with a NaN, one that is infinitely wrong, one with a class that cannot be.
Batch NonFiniteBatch(DataType type, std::mt19937_64& random) {
  Batch batch = testing::RandomBatch({.type = type, .outer = {4}, .num_classes = 6}, random);
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  batch.logits.set(1, std::numeric_limits<double>::quiet_NaN());
  batch.targets.set(1, 2);
  batch.logits.set(6 + 2, -kInfinity);
  batch.targets.set(2, 2);
  batch.logits.set(12 + 3, -kInfinity);
  batch.spec.reduction = Reduction::kNone;
  batch.spec.outputs = kRowOutputs;
  return batch;
}

// ---- messages ----

struct LossWriter {
  void operator()(const CrossEntropy& loss) const {
    v1::CrossEntropy* message = to->mutable_cross_entropy();
    message->set_label_smoothing(loss.label_smoothing);
    if (loss.ignore_index) message->set_ignore_index(*loss.ignore_index);
    if (loss.class_axis) message->set_class_axis(*loss.class_axis);
    message->set_z_loss(loss.z_loss);
    message->set_softcap(loss.softcap);
    if (loss.temperature != 1) message->set_temperature(loss.temperature);
    message->set_focal_gamma(loss.focal_gamma);
    message->set_poly_epsilon(loss.poly_epsilon);
  }
  void operator()(const NegativeLogLikelihood& loss) const {
    v1::NegativeLogLikelihood* message = to->mutable_negative_log_likelihood();
    if (loss.ignore_index) message->set_ignore_index(*loss.ignore_index);
    if (loss.class_axis) message->set_class_axis(*loss.class_axis);
  }
  void operator()(const KlDivergence& loss) const { to->mutable_kl_divergence()->set_log_target(loss.log_target); }
  void operator()(const BinaryCrossEntropy& loss) const {
    to->mutable_binary_cross_entropy()->set_label_smoothing(loss.label_smoothing);
  }

  v1::LossSpec* to;
};

OwnedTensor Owned(const v1::Tensor& message) {
  OwnedTensor tensor(TypeOf(message));
  EXPECT_EQ(message.raw().size(), tensor.Bits().size());
  message.raw().copy(reinterpret_cast<char*>(tensor.data()), tensor.Bits().size());
  return tensor;
}

// The answer as if it had been computed here.
testing::Outcome OutcomeOf(const Plan& plan, const v1::EvaluateResponse& response) {
  testing::Outcome outcome;
  outcome.plan = plan;
  ForEachResult(
      [&](const char* name, OwnedTensor& tensor) {
        if (HasTensor(response, name)) tensor = Owned(TensorOf(response, name));
      },
      outcome.results);
  const v1::Summary& summary = response.summary();
  outcome.summary.loss_sum = summary.loss_sum();
  outcome.summary.weight_sum = summary.weight_sum();
  outcome.summary.element_count = summary.element_count();
  outcome.summary.ignored_count = summary.ignored_count();
  if (summary.has_correct_count()) outcome.summary.correct_count = summary.correct_count();
  outcome.summary.nonfinite_count = summary.nonfinite_count();
  return outcome;
}

}  // namespace

std::vector<NamedBatch> EveryLoss(DataType type) {
  static constexpr const char* kKinds[] = {"indices", "dense", "sparse"};
  std::mt19937_64 random(static_cast<uint64_t>(type));
  std::vector<NamedBatch> batches;
  int i = 0;
  for (const Layout& layout : kLayouts) {
    for (const auto kind : {TargetKind::kClassIndices, TargetKind::kProbabilities, TargetKind::kSparseProbabilities}) {
      batches.push_back({absl::StrCat("cross_entropy ", kKinds[static_cast<int>(kind)]),
                         CrossEntropyBatch(i++, type, layout, kind, random)});
    }
    batches.push_back({"negative_log_likelihood", LikelihoodBatch(i / 3, type, layout, random)});
  }
  for (const Shape& shape : kEntryShapes) {
    for (int times = 0; times < 3; ++times, ++i) {
      batches.push_back({"kl_divergence", DivergenceBatch(i, type, shape, random)});
      batches.push_back({"binary_cross_entropy", BinaryBatch(i, type, shape, random)});
    }
  }
  batches.push_back({"cross_entropy, not finite", NonFiniteBatch(type, random)});
  for (NamedBatch& named : batches) {
    named.name += absl::StrCat(" ", Name(type), " ", ToString(named.batch.logits.type().shape), " reduction ",
                               static_cast<int>(named.batch.spec.reduction));
  }
  return batches;
}

v1::EvaluateRequest RequestOf(const Batch& batch) {
  v1::EvaluateRequest request;
  const Spec& spec = batch.spec;
  std::visit(LossWriter{request.mutable_loss()}, spec.loss);
  request.mutable_loss()->set_reduction(static_cast<v1::Reduction>(spec.reduction));
  if (spec.normalizer) request.mutable_loss()->set_normalizer(*spec.normalizer);
  request.mutable_loss()->set_unit(static_cast<v1::InformationUnit>(spec.unit));
  for (int output = v1::OUTPUT_LOGITS_GRADIENT; output <= v1::Output_MAX; ++output) {
    if (spec.outputs.Has(static_cast<Output>(output))) request.add_outputs(static_cast<v1::Output>(output));
  }
  request.set_gradient_type(static_cast<v1::DataType>(spec.gradient_type));
  const Inputs inputs = batch.inputs();
  ForEachInput(
      [&](const char* name, const TensorView& view) {
        if (view) CopyTensor(view, MutableTensor(&request, name));
      },
      inputs);
  return request;
}

v1::EvaluateRequest SmallRequest() { return RequestOf(SmallBatch(4, 5)); }

v1::EvaluateRequest LargeRequest(int64_t megabytes) {
  v1::EvaluateRequest request = RequestOf(SmallBatch(megabytes, 1));
  request.mutable_outputs()->Resize(1, v1::OUTPUT_LOGITS_GRADIENT);
  request.mutable_logits()->set_shape(1, kMegabyte / 4);
  request.mutable_logits()->mutable_raw()->assign(static_cast<size_t>(megabytes * kMegabyte), '\0');
  return request;
}

void ExpectTruth(const Batch& batch, const v1::EvaluateResponse& response) {
  const absl::StatusOr<Plan> plan = MakePlan(batch.spec, TypesOf(batch.inputs()));
  ASSERT_TRUE(plan.ok()) << plan.status();
  const testing::Outcome outcome = OutcomeOf(*plan, response);
  ForEachResult([](const char* name, const OwnedTensor& tensor,
                   const TensorType& want) { EXPECT_EQ(tensor.type(), want) << name; },
                outcome.results, plan->results);
  EXPECT_EQ(testing::CompareWithReference(batch, outcome), "");
  EXPECT_EQ(outcome.summary.element_count, plan->num_elements);
  EXPECT_EQ(outcome.summary.correct_count.has_value(),
            batch.spec.outputs.Has(Output::kPredictedClass) && plan->target_kind == TargetKind::kClassIndices);
}

// ---- servers and clients ----

Config SmallConfig() {
  Config config;
  config.grpc_listen = {"127.0.0.1:0"};
  config.http_listen = "127.0.0.1:0";
  config.threads = 2;
  config.memory_budget_bytes = config.max_message_bytes;
  return config;
}

std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address) {
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(-1);
  arguments.SetInt(GRPC_ARG_USE_LOCAL_SUBCHANNEL_POOL, 1);  // a connection of its own
  return grpc::CreateCustomChannel(address, grpc::InsecureChannelCredentials(), arguments);
}

std::unique_ptr<grpc::ClientContext> NewContext() {
  auto context = std::make_unique<grpc::ClientContext>();
  context->set_deadline(std::chrono::system_clock::now() + absl::ToChronoSeconds(kForever));
  return context;
}

Reply Call(v1::LossService::Stub& stub, const v1::EvaluateRequest& request) {
  Reply reply;
  reply.status = stub.Evaluate(NewContext().get(), request, &reply.response);
  return reply;
}

HeldCall::HeldCall(v1::LossService::Stub& stub, const v1::EvaluateRequest& request)
    : reader_(stub.PrepareAsyncEvaluate(context_.get(), request, &queue_)) {
  reader_->StartCall();
  reader_->ReadInitialMetadata(nullptr);  // sends the request, too
}

HeldCall::~HeldCall() {
  if (!finished_) {
    Cancel();
    Finish();
  }
  queue_.Shutdown();
  void* tag = nullptr;
  bool ok = false;
  while (queue_.Next(&tag, &ok)) {
  }
}

Reply HeldCall::Finish() {
  finished_ = true;
  Reply reply;
  reader_->Finish(&reply.response, &reply.status, this);
  void* tag = nullptr;
  for (bool ok = false; tag != this;) EXPECT_TRUE(queue_.Next(&tag, &ok));
  return reply;
}

grpc::health::v1::HealthCheckResponse::ServingStatus HealthOf(const std::shared_ptr<grpc::Channel>& channel,
                                                              const std::string& service) {
  grpc::health::v1::HealthCheckRequest request;
  request.set_service(service);
  grpc::health::v1::HealthCheckResponse response;
  const grpc::Status status = grpc::health::v1::Health::NewStub(channel)->Check(NewContext().get(), request, &response);
  EXPECT_TRUE(status.ok()) << status.error_message();
  return response.status();
}

// As main() does.
void ServerTest::SetUpTestSuite() {
  absl::SetMutexDeadlockDetectionMode(absl::OnDeadlockCycle::kIgnore);
  StartLog(LogFormat::kText, "info");  // as main() does, before there are threads that log
}

void ServerTest::Start(const Config& config) {
  const absl::StatusOr<Config> resolved = Resolve(config);
  ASSERT_TRUE(resolved.ok()) << resolved.status();
  absl::StatusOr<std::unique_ptr<Server>> started = Server::Start(*resolved);
  ASSERT_TRUE(started.ok()) << started.status();
  server_ = *std::move(started);
  channel_ = ChannelTo(server_->grpc_address());
  stub_ = v1::LossService::NewStub(channel_);
}

double ServerTest::Sample(const std::string& name) const {
  const std::string text = "\n" + HttpGet(server_->http_address(), "/metrics").body;
  const size_t at = text.find("\n" + name + " ");
  return at == std::string::npos ? -1 : std::strtod(text.c_str() + at + name.size() + 2, nullptr);
}

void ServerTest::AwaitSample(const std::string& name, double want) const {
  const absl::Time deadline = absl::Now() + kForever;
  while (Sample(name) != want) ASSERT_LT(absl::Now(), deadline) << name << " = " << Sample(name);
}

double ServerTest::Handled(const std::string& code) const {
  return Sample("grpc_server_handled_total{grpc_code=\"" + code + "\"," + kEvaluate + "}");
}

void ServerTest::ExpectServes() {
  EXPECT_TRUE(server_->AwaitIdle(kForever));
  EXPECT_EQ(Sample("lossd_inflight_requests"), 0);
  EXPECT_EQ(Sample("lossd_inflight_bytes"), 0);
  const Reply reply = Call(*stub_, SmallRequest());
  EXPECT_TRUE(reply.status.ok()) << reply.status.error_message();
  EXPECT_TRUE(server_->AwaitIdle(kForever));
}

}  // namespace lossd
