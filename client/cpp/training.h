// The sample job: fits a softmax regression with losses and gradients that a lossd computes.
#ifndef LOSSD_CLIENT_CPP_TRAINING_H_
#define LOSSD_CLIENT_CPP_TRAINING_H_

#include <cstdint>
#include <functional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "absl/time/time.h"
#include "client/cpp/client.h"
#include "client/cpp/dataset.h"

namespace lossd {

struct TrainingOptions {
  std::string job = "digits";                  // the held-out examples are evaluated as job + "/held-out"
  absl::Duration timeout = absl::Seconds(30);  // for each call
  uint64_t seed = 1;                           // of the initial weights and the order of the examples
  int64_t epochs = 30;                         // >= 1
  int64_t batch_size = 64;                     // >= 1; the last batch of an epoch may be smaller
  float learning_rate = 0.1f;
  float momentum = 0.9f;
};

// Where the training is, after a step. Epochs and steps count from 1.
struct TrainingStep {
  int64_t epoch = 0;
  int64_t step = 0;
  int64_t num_steps = 0;  // of the whole training
  float loss = 0;         // mean over the step's batch, in nats, before the step
};

struct TrainingResult {
  std::vector<float> losses;  // of each step
  float held_out_loss = 0;
  int64_t held_out_correct = 0;
  int64_t held_out_count = 0;
};

// Trains on split.training, then evaluates split.held_out; neither may be empty. Calls `progress` after each step.
// Every call carries its step, counted from 1. Returns the first failed call's status; one that the server refused
// says in which step.
absl::StatusOr<TrainingResult> Train(const Client& client, const Dataset& dataset, const Split& split,
                                     const TrainingOptions& options,
                                     const std::function<void(const TrainingStep&)>& progress);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_TRAINING_H_
