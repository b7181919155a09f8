#include "tests/batch.h"

#include <hwy/targets.h>

#include <algorithm>
#include <atomic>
#include <cmath>
#include <limits>
#include <thread>

#include "absl/strings/str_cat.h"
#include "loss/element.h"

namespace lossd::testing {
namespace {

constexpr size_t kSlack = 128;  // room to choose the alignment in

Shape Concatenate(const Shape& outer, std::initializer_list<int64_t> middle, const Shape& inner) {
  Shape all = outer;
  for (int64_t dim : middle) all.push_back(dim);
  for (int64_t dim : inner.dims()) all.push_back(dim);
  return all;
}

// Rows that sum to 1 along the class axis, some entries 0.
OwnedTensor RandomProbabilities(const BatchOptions& options, const Shape& shape, std::mt19937_64& random) {
  OwnedTensor tensor = RandomFloats({options.target_type, shape}, random, 0.2, 1, true, options.misalignment);
  const int64_t inner = NumElements(options.inner);
  for (int64_t row = 0; row < NumElements(options.outer) * inner; ++row) {
    const int64_t base = row / inner * options.num_classes * inner + row % inner;
    double sum = 0;
    for (int64_t c = 0; c < options.num_classes; ++c) {
      if (random() % 4 == 0 && c > 0) tensor.set(base + c * inner, 0);
      sum += tensor.at(base + c * inner);
    }
    for (int64_t c = 0; c < options.num_classes; ++c) tensor.set(base + c * inner, tensor.at(base + c * inner) / sum);
  }
  return tensor;
}

template <typename T>
bool Same(T a, T b) {
  return a == b || (std::isnan(a) && std::isnan(b));
}

// From here on a rounded value is infinite.
long double LargestOf(DataType type) {
  switch (type) {
    case DataType::kFloat64:
      return std::numeric_limits<double>::max();
    case DataType::kFloat16:
      return 65519;
    default:
      return std::numeric_limits<float>::max();
  }
}

// Remembers the first value that is not as it should be.
class Comparison {
 public:
  explicit Comparison(DataType compute_type) : compute_type_(compute_type) {}

  void Value(const std::string& what, DataType type, double got, long double want, long double magnitude) {
    if (!first_.empty() || Same<long double>(got, want)) return;
    const long double bound = Tolerance(type, compute_type_, want, magnitude);
    if (std::isfinite(want) && std::fabs(got - want) <= bound) return;
    if (std::isinf(got) && std::fabs(want) > LargestOf(type)) return;
    first_ = absl::StrCat(what, " is ", got, ", the truth is ", static_cast<double>(want), " (off by ",
                          static_cast<double>(std::fabs(got - want)), ", allowed ", static_cast<double>(bound), ")");
  }
  void Count(const std::string& what, int64_t got, int64_t want) {
    if (first_.empty() && got != want) first_ = absl::StrCat(what, " is ", got, ", the truth is ", want);
  }
  const std::string& first() const { return first_; }

 private:
  const DataType compute_type_;
  std::string first_;
};

void CompareTensors(const Outcome& outcome, Reference& truth, Comparison& compare) {
  if (outcome.plan.spec.reduction == Reduction::kNone) truth.results.loss = truth.results.element_loss;
  ForEachResult(
      [&](const char* name, const OwnedTensor& got, const ReferenceTensor& want) {
        if (!got) return;
        compare.Count(absl::StrCat("size of ", name), got.size(), static_cast<int64_t>(want.value.size()));
        for (int64_t i = 0; i < got.size() && compare.first().empty(); ++i) {
          const auto at = static_cast<size_t>(i);
          const DataType type = got.type().data_type;
          if (type == DataType::kInt64) {
            compare.Count(absl::StrCat(name, "[", i, "]"), got.integer(i), static_cast<int64_t>(want.value[at]));
          } else {
            compare.Value(absl::StrCat(name, "[", i, "]"), type, got.at(i), want.value[at], want.magnitude[at]);
          }
        }
      },
      outcome.results, truth.results);
}

}  // namespace

OwnedTensor::OwnedTensor(TensorType type, int misalignment) : type_(type) {
  bytes_.resize(static_cast<size_t>(NumElements(type.shape) * SizeOf(type.data_type)) + kSlack);
  const auto address = reinterpret_cast<uintptr_t>(bytes_.data());
  offset_ = (64 - address % 64) % 64 + static_cast<size_t>(misalignment);
}

double OwnedTensor::at(int64_t index) const { return FloatAt(view(), index); }
int64_t OwnedTensor::integer(int64_t index) const { return IntegerAt(view(), index); }

void OwnedTensor::set(int64_t index, double value) {
  const auto integer = IsFloat(type_.data_type) ? 0 : static_cast<int64_t>(value);
  switch (type_.data_type) {
    case DataType::kFloat64:
      return StoreElement(data(), index, value);
    case DataType::kFloat32:
      return StoreElement(data(), index, static_cast<float>(value));
    case DataType::kFloat16:
      return StoreElement(data(), index, ToFloat16(static_cast<float>(value)));
    case DataType::kBfloat16:
      return StoreElement(data(), index, ToBfloat16(static_cast<float>(value)));
    default:
      break;
  }
  // Little-endian, two's complement: the low bytes are the value in every width.
  std::memcpy(data() + index * SizeOf(type_.data_type), &integer, static_cast<size_t>(SizeOf(type_.data_type)));
}

void SpoilRows(Batch& batch, int64_t num_classes, int64_t inner, int64_t first) {
  constexpr double kInf = std::numeric_limits<double>::infinity();
  const auto spoil = [&](int64_t place, int64_t c, double value) {
    const int64_t row = first + place;
    batch.logits.set(row / inner * num_classes * inner + c * inner + row % inner, value);
  };
  spoil(3, 0, std::nan(""));
  spoil(5, num_classes - 1, kInf);
  spoil(6, num_classes / 2, kInf);
  spoil(6, 0, std::nan(""));
  for (int64_t c = 0; c < num_classes; ++c) spoil(7, c, -kInf);
  spoil(9, num_classes / 2, -kInf);
  for (int64_t c = 0; c < num_classes; ++c) spoil(11, c, 60000);
  spoil(12, num_classes - 1, 700);
  spoil(13, num_classes - 1, -std::nan(""));  // what x86 makes of inf - inf
}

OwnedTensor RandomFloats(TensorType type, std::mt19937_64& random, double mean, double scale, bool positive,
                         int misalignment) {
  std::normal_distribution<double> normal(mean, scale);
  OwnedTensor tensor(type, misalignment);
  for (int64_t i = 0; i < tensor.size(); ++i) tensor.set(i, positive ? std::fabs(normal(random)) : normal(random));
  return tensor;
}

Inputs Batch::inputs() const {
  Inputs views;
  const InputSet<OwnedTensor>& tensors = *this;
  ForEachInput([](const char*, const OwnedTensor& tensor, TensorView& view) { view = tensor.view(); }, tensors, views);
  if (pieces != nullptr) views.logits = {nullptr, views.logits.type, pieces};
  return views;
}

absl::StatusOr<Outcome> Evaluate(const Batch& batch, int threads) {
  const Inputs inputs = batch.inputs();
  absl::StatusOr<Plan> plan = MakePlan(batch.spec, TypesOf(inputs));
  if (!plan.ok()) return plan.status();
  const auto parallel_for = [threads](int64_t count, absl::FunctionRef<void(int64_t)> body) {
    if (threads == 1) return SerialFor(count, body);
    std::atomic<int64_t> last = count;  // backwards: the order must not matter
    const auto take = [&] {
      for (int64_t i = --last; i >= 0; i = --last) body(i);
    };
    std::vector<std::thread> helpers;
    for (int i = 1; i < threads; ++i) helpers.emplace_back(take);
    take();
    for (std::thread& helper : helpers) helper.join();
  };
  absl::StatusOr<Weights> weights = WeighElements(*plan, inputs, parallel_for);
  if (!weights.ok()) return weights.status();

  Outcome outcome{*plan, *weights, {}, {}};
  Results views;
  ForEachResult(
      [](const char*, const TensorType& type, OwnedTensor& tensor, MutableTensorView& view) {
        if (!type) return;
        tensor = OwnedTensor(type);
        view = tensor.mutable_view();
      },
      plan->results, outcome.results, views);

  std::vector<BlockSummary> blocks(static_cast<size_t>(plan->num_blocks));
  std::atomic<int64_t> next = 0;
  const auto work = [&] {
    OwnedTensor scratch({DataType::kInt8, Shape{plan->scratch_bytes}});
    std::memset(scratch.data(), 0xff, static_cast<size_t>(plan->scratch_bytes));  // NaN, whatever it is read as
    // Runs of every length, so that no result depends on it.
    for (int64_t run = next++; run * (run + 1) / 2 < plan->num_blocks; run = next++) {
      const int64_t begin = run * (run + 1) / 2, end = std::min(begin + run + 1, plan->num_blocks);
      EvaluateBlocks(*plan, inputs, *weights, {begin, end}, views, scratch.data(), blocks, parallel_for);
    }
  };
  std::vector<std::thread> others;
  for (int i = 1; i < threads; ++i) others.emplace_back(work);
  work();
  for (std::thread& thread : others) thread.join();
  outcome.summary = Summarize(*plan, *weights, blocks, views);
  return outcome;
}

Reference Truth(const Batch& batch) {
  const absl::StatusOr<Plan> plan = MakePlan(batch.spec, TypesOf(batch.inputs()));
  return EvaluateReference(plan.value(), batch.inputs());
}

Batch RandomBatch(const BatchOptions& options, std::mt19937_64& random) {
  const DataType weights = options.weight_type == DataType::kUnspecified ? options.type : options.weight_type;
  const Shape shape = Concatenate(options.outer, {options.num_classes}, options.inner);
  const Shape elements = Concatenate(options.outer, {}, options.inner);
  Batch batch;
  CrossEntropy loss;
  loss.class_axis = options.outer.rank();
  batch.logits = RandomFloats({options.type, shape}, random, 0, options.scale, false, options.misalignment);
  if (IsFloat(options.target_type)) {
    batch.targets = RandomProbabilities(options, shape, random);
  } else {
    Shape indices = elements;
    if (options.sparse_size > 0) {
      indices.push_back(options.sparse_size);
      batch.target_probabilities = RandomFloats({weights, indices}, random, 0.2, 0.5);  // of any sign
    }
    batch.targets = OwnedTensor({options.target_type, indices}, options.misalignment);
    const bool is_signed = options.target_type <= DataType::kInt64;
    loss.ignore_index = is_signed ? -1 : 0;
    const int64_t limit = std::min<int64_t>(options.num_classes, 128);  // fits every integer type
    for (int64_t i = 0; i < batch.targets.size(); ++i) {
      const bool ignore = options.ignore_some && random() % 5 == 0;
      const int64_t target = static_cast<int64_t>(random() % static_cast<uint64_t>(limit));
      batch.targets.set(i, ignore ? static_cast<double>(*loss.ignore_index) : static_cast<double>(target));
    }
  }
  batch.spec.loss = loss;
  if (options.class_weights) {
    batch.class_weights = RandomFloats({weights, Shape{options.num_classes}}, random, 1, 0.5, true);
  }
  if (options.sample_weights) {
    batch.sample_weights = RandomFloats({weights, elements}, random, 1, 0.5, true);
    if (batch.sample_weights.size() > 1) batch.sample_weights.set(1, 0);
  }
  return batch;
}

std::string CompareWithReference(const Batch& batch, const Outcome& outcome) { return Compare(outcome, Truth(batch)); }

std::string CompareOnEverySimdTarget(const Batch& batch) {
  const Reference truth = Truth(batch);
  std::string first;
  ForEachSimdTarget([&](const char* target) {
    const absl::StatusOr<Outcome> outcome = Evaluate(batch);
    const std::string difference = outcome.ok() ? Compare(*outcome, truth) : outcome.status().ToString();
    if (first.empty() && !difference.empty()) first = absl::StrCat(target, ": ", difference);
  });
  return first;
}

std::string Compare(const Outcome& outcome, Reference truth) {
  Comparison compare(outcome.plan.compute_type);
  CompareTensors(outcome, truth, compare);
  long double magnitude = 0;
  for (long double m : truth.results.element_loss.magnitude) magnitude += m;
  compare.Value("loss_sum", DataType::kFloat64, outcome.summary.loss_sum, truth.loss_sum, magnitude);
  compare.Value("weight_sum", DataType::kFloat64, outcome.summary.weight_sum, truth.weight_sum,
                static_cast<long double>(outcome.plan.num_elements));
  compare.Count("ignored_count", outcome.summary.ignored_count, truth.ignored_count);
  compare.Count("nonfinite_count", outcome.summary.nonfinite_count, truth.nonfinite_count);
  if (outcome.summary.correct_count)
    compare.Count("correct_count", *outcome.summary.correct_count, truth.correct_count);
  return compare.first();
}

void ForEachSimdTarget(const std::function<void(const char*)>& test) {
  for (int64_t target : hwy::SupportedAndGeneratedTargets()) {
    hwy::SetSupportedTargetsForTest(target);
    hwy::GetChosenTarget().Update(hwy::SupportedTargets());
    test(hwy::TargetName(target));
  }
  hwy::SetSupportedTargetsForTest(0);
  hwy::GetChosenTarget().Update(hwy::SupportedTargets());
}

}  // namespace lossd::testing
