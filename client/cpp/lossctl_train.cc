#include <unistd.h>

#include <cmath>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>

#include "absl/flags/flag.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cpp/client.h"
#include "client/cpp/dataset.h"
#include "client/cpp/lossctl.h"
#include "client/cpp/terminal_plot.h"
#include "client/cpp/training.h"

ABSL_FLAG(std::string, images, "", "A .npy file of images (N, ...), uint8 or float32; default: the built-in digits.");
ABSL_FLAG(std::string, labels, "", "A .npy file of their labels (N), uint8, int32 or int64.");
ABSL_FLAG(int32_t, epochs, 30, "Passes over the training examples.");
ABSL_FLAG(int32_t, batch_size, 64, "Examples in a step, which is one call.");
ABSL_FLAG(double, learning_rate, 0.1, "Of momentum SGD.");
ABSL_FLAG(double, momentum, 0.9, "Of momentum SGD, in [0, 1).");

namespace lossd {
namespace {

constexpr double kHeldOutShare = 0.2;
constexpr int kProgressWidth = 40;

absl::Status CheckFlags() {
  if (absl::GetFlag(FLAGS_images).empty() != absl::GetFlag(FLAGS_labels).empty()) {
    return absl::InvalidArgumentError("--images and --labels are given together or not at all");
  }
  if (absl::GetFlag(FLAGS_epochs) < 1) return absl::InvalidArgumentError("--epochs must be at least 1");
  if (absl::GetFlag(FLAGS_batch_size) < 1) return absl::InvalidArgumentError("--batch_size must be at least 1");
  const double learning_rate = absl::GetFlag(FLAGS_learning_rate), momentum = absl::GetFlag(FLAGS_momentum);
  if (!std::isfinite(learning_rate) || learning_rate <= 0) {
    return absl::InvalidArgumentError("--learning_rate must be finite and more than 0");
  }
  if (!(momentum >= 0 && momentum < 1)) return absl::InvalidArgumentError("--momentum must be in [0, 1)");
  return absl::OkStatus();
}

absl::StatusOr<Dataset> DatasetFromFlags() {
  const std::string images = absl::GetFlag(FLAGS_images);
  absl::StatusOr<Dataset> dataset = images.empty() ? DigitsDataset() : ReadDataset(images, absl::GetFlag(FLAGS_labels));
  if (dataset.ok() && static_cast<double>(dataset->size()) * kHeldOutShare < 1) {
    return absl::InvalidArgumentError(absl::StrCat(dataset->size(), " examples are too few to hold some out"));
  }
  return dataset;
}

TrainingOptions OptionsFromFlags() {
  TrainingOptions options;
  options.job = absl::GetFlag(FLAGS_job).value_or("digits");
  options.timeout = absl::GetFlag(FLAGS_timeout);
  options.seed = absl::GetFlag(FLAGS_seed);
  options.epochs = absl::GetFlag(FLAGS_epochs);
  options.batch_size = absl::GetFlag(FLAGS_batch_size);
  options.learning_rate = static_cast<float>(absl::GetFlag(FLAGS_learning_rate));
  options.momentum = static_cast<float>(absl::GetFlag(FLAGS_momentum));
  return options;
}

// In a terminal one line that is redrawn (on standard error, so that the results can go elsewhere), else ten in all.
void ShowProgress(const TrainingStep& step) {
  const std::string numbers =
      absl::StrFormat("epoch %d  step %d/%d  loss %.4f", step.epoch, step.step, step.num_steps, step.loss);
  if (isatty(STDERR_FILENO) != 0) {
    const char* end = step.step == step.num_steps ? "\n" : "";
    absl::FPrintF(stderr, "\r%s  %s\x1b[K%s", ProgressBar(step.step, step.num_steps, kProgressWidth), numbers, end);
  } else if (step.step == 1 || step.step * 10 / step.num_steps != (step.step - 1) * 10 / step.num_steps) {
    absl::PrintF("%s\n", numbers);
  }
  std::fflush(stdout);
}

void PrintDataset(const Dataset& dataset, const Split& split) {
  absl::PrintF("%d examples of %d features in %d classes: %d train, %d are held out\n", dataset.size(),
               dataset.num_features, dataset.num_classes, split.training.size(), split.held_out.size());
}

void PrintResult(const TrainingResult& result) {
  PlotOptions plot;
  plot.title = "loss (nats)";
  plot.x_label = "step";
  const double accuracy = static_cast<double>(result.held_out_correct) / static_cast<double>(result.held_out_count);
  absl::PrintF("\n%s\n", PlotCurve(result.losses, plot));
  absl::PrintF("held-out accuracy %.2f %% (%d of %d), held-out loss %.4f\n\n", 100 * accuracy, result.held_out_correct,
               result.held_out_count, result.held_out_loss);
  absl::PrintF("first_loss=%.9g last_loss=%.9g held_out_accuracy=%.6f steps=%d\n", result.losses.front(),
               result.losses.back(), accuracy, result.losses.size());
}

int RunTrain() {
  if (absl::Status status = CheckFlags(); !status.ok()) return FailUsage(status);
  absl::StatusOr<Dataset> dataset = DatasetFromFlags();
  if (!dataset.ok()) return Fail(dataset.status());
  const TrainingOptions options = OptionsFromFlags();
  const Split split = MakeSplit(dataset->size(), kHeldOutShare, options.seed);
  PrintDataset(*dataset, split);
  const Client client(absl::GetFlag(FLAGS_target));
  absl::StatusOr<TrainingResult> result = Train(client, *dataset, split, options, ShowProgress);
  if (!result.ok()) {
    if (isatty(STDERR_FILENO) != 0) absl::FPrintF(stderr, "\n");
    return FailCall(result.status());
  }
  PrintResult(*result);
  return kSuccess;
}

constexpr const char* kFlags[] = {"target", "timeout", "job",        "seed",          "images",
                                  "labels", "epochs",  "batch_size", "learning_rate", "momentum"};

}  // namespace

constexpr Subcommand kTrainSubcommand = {
    "train", "The sample job: learns handwritten digits with the server's losses and gradients.", kFlags, &RunTrain};

}  // namespace lossd
