#include "client/cpp/training.h"

#include <algorithm>
#include <span>
#include <utility>

#include "absl/strings/str_cat.h"
#include "client/cpp/softmax_regression.h"

namespace lossd {
namespace {

// One batch of a job, and the memory it points to.
class Call {
 public:
  Call(const SoftmaxRegression& model, Examples examples, int64_t num_classes)
      : examples_(std::move(examples)), logits_(model.Logits(examples_.features)) {
    const int64_t count = static_cast<int64_t>(examples_.labels.size());
    batch_.logits = {logits_.data(), {DataType::kFloat32, {count, num_classes}}};
    batch_.targets = {examples_.labels.data(), {DataType::kInt64, {count}}};
  }

  absl::StatusOr<Evaluation> Evaluate(const Client& client, std::string job, int64_t step, Output output,
                                      absl::Duration timeout) {
    batch_.job = std::move(job);
    batch_.step = step;
    batch_.spec.outputs = {output};
    absl::StatusOr<Evaluation> answer = client.Evaluate(batch_, timeout);
    if (answer.ok()) return answer;
    return absl::Status(answer.status().code(), absl::StrCat("in step ", step, ": ", answer.status().message()));
  }

  const Examples& examples() const { return examples_; }

 private:
  Examples examples_;
  std::vector<float> logits_;
  Batch batch_;
};

class Trainer {
 public:
  Trainer(const Client& client, const Dataset& dataset, const TrainingOptions& options)
      : client_(client),
        dataset_(dataset),
        options_(options),
        model_(dataset.num_features, dataset.num_classes, options.seed) {}

  absl::StatusOr<float> Step(int64_t step, std::span<const int64_t> indices) {
    Call call(model_, Select(dataset_, indices), dataset_.num_classes);
    absl::StatusOr<Evaluation> answer =
        call.Evaluate(client_, options_.job, step, Output::kLogitsGradient, options_.timeout);
    if (!answer.ok()) return answer.status();
    model_.Step(call.examples().features, answer->logits_gradient.As<float>(), options_.learning_rate,
                options_.momentum);
    return static_cast<float>(answer->loss.scalar());
  }

  absl::Status HeldOut(int64_t step, std::span<const int64_t> indices, TrainingResult* result) {
    Call call(model_, Select(dataset_, indices), dataset_.num_classes);
    absl::StatusOr<Evaluation> answer =
        call.Evaluate(client_, options_.job + "/held-out", step, Output::kPredictedClass, options_.timeout);
    if (!answer.ok()) return answer.status();
    if (!answer->summary.correct_count) return absl::InternalError("the server's answer has no correct_count");
    result->held_out_loss = static_cast<float>(answer->loss.scalar());
    result->held_out_correct = *answer->summary.correct_count;
    result->held_out_count = answer->summary.element_count;
    return absl::OkStatus();
  }

 private:
  const Client& client_;
  const Dataset& dataset_;
  const TrainingOptions& options_;
  SoftmaxRegression model_;
};

}  // namespace

absl::StatusOr<TrainingResult> Train(const Client& client, const Dataset& dataset, const Split& split,
                                     const TrainingOptions& options,
                                     const std::function<void(const TrainingStep&)>& progress) {
  Trainer trainer(client, dataset, options);
  std::vector<int64_t> order = split.training;
  const int64_t count = static_cast<int64_t>(order.size());
  TrainingStep at;
  at.num_steps = options.epochs * ((count + options.batch_size - 1) / options.batch_size);
  TrainingResult result;
  for (at.epoch = 1; at.epoch <= options.epochs; ++at.epoch) {
    Shuffle(options.seed + static_cast<uint64_t>(at.epoch), order);
    for (int64_t begin = 0; begin < count; begin += options.batch_size) {
      const int64_t size = std::min(options.batch_size, count - begin);
      ++at.step;
      absl::StatusOr<float> loss =
          trainer.Step(at.step, std::span(order).subspan(static_cast<size_t>(begin), static_cast<size_t>(size)));
      if (!loss.ok()) return loss.status();
      at.loss = *loss;
      result.losses.push_back(at.loss);
      progress(at);
    }
  }
  absl::Status status = trainer.HeldOut(at.step, split.held_out, &result);
  if (!status.ok()) return status;
  return result;
}

}  // namespace lossd
