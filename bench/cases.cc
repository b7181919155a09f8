#include "bench/cases.h"

#include <hwy/detect_targets.h>

#include <numeric>
#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_join.h"
#include "bench/lossd_call.h"

namespace lossd::bench {
namespace {

constexpr double kLabelSmoothing = 0.1;
constexpr int64_t kSparseSize = 8;

int64_t BytesOf(const TensorType& type) { return NumElements(type.shape) * SizeOf(type.data_type); }

// The cases of one group as they come to be: one set of tensors for each type of logits.
class Cases {
 public:
  Cases(Data& data, DataType type, const Shape& shape) : data_(data), shape_(shape) { Use(type); }

  // The cases that follow have logits of this type.
  void Use(DataType type) {
    base_.inputs.logits = data_.Logits(type, shape_);
    base_.gradient = data_.Output(type, shape_);
    if (!indices_) indices_ = data_.ClassIndices(shape_.Without(1), shape_[1]);
    base_.inputs.targets = indices_;
  }
  // Cross-entropy of class indices.
  const Problem& base() const { return base_; }

  // Adds forward, or with gradient; returns the case for what is special about it.
  Case& Add(const Problem& problem, bool gradient, const std::string& suffix = "") {
    Case added{.problem = problem};
    if (gradient) added.problem.spec.outputs.Add(Output::kLogitsGradient);
    added.name = absl::StrCat(NameOf(problem, gradient), suffix.empty() ? "" : "/", suffix);
    const TensorType& logits = problem.inputs.logits.type;
    added.elements = static_cast<double>(NumElements(logits.shape));
    added.bytes = static_cast<double>(BytesOf(logits) * (gradient ? 2 : 1));
    // Targets as large as the logits are read too.
    const TensorType& targets = problem.inputs.targets.type;
    if (NumElements(targets.shape) == NumElements(logits.shape) && IsFloat(targets.data_type)) {
      added.bytes += static_cast<double>(BytesOf(targets));
    }
    added.limits = {gradient ? Limit::kCopy : Limit::kRead};
    cases_.push_back(std::move(added));
    return cases_.back();
  }

  void AddBoth(const Problem& problem, unsigned peers, const std::string& suffix = "", int64_t simd_target = 0) {
    for (bool gradient : {false, true}) {
      Case& added = Add(problem, gradient, suffix);
      added.peers = gradient ? peers & ~kOnednn : peers;  // oneDNN: forward only
      added.simd_target = simd_target;
      if (!suffix.empty()) added.versus = NameOf(problem, gradient);
    }
  }

  // The plain case, which has a group of its own, for others to be held against.
  void AddReference() {
    AddBoth(base_, kNobody);
    for (size_t i = cases_.size() - 2; i < cases_.size(); ++i) cases_[i].reference = true;
  }

  // The same on older instruction sets.
  void AddSimdTargets(const Problem& problem) {
    if (HasSimdTarget(HWY_AVX2)) AddBoth(problem, kNobody, "avx2", HWY_AVX2);
    if (HasSimdTarget(HWY_SSE4)) AddBoth(problem, kNobody, "sse4", HWY_SSE4);
  }

  std::string NameOf(const Problem& problem, bool gradient) const {
    return absl::StrCat(Name(problem.spec.loss), "/", gradient ? "gradient" : "forward", "/",
                        Name(problem.inputs.logits.type.data_type), "/", absl::StrJoin(shape_.dims(), "x"));
  }

  std::vector<Case> Take() { return std::move(cases_); }

 private:
  Data& data_;
  const Shape shape_;
  TensorView indices_;
  Problem base_;
  std::vector<Case> cases_;
};

// Class indices, plain and on older instruction sets.
std::vector<Case> Plain(Data& data, DataType type, const Shape& shape) {
  Cases cases(data, type, shape);
  cases.AddBoth(cases.base(), kPytorch | kKeeping | kOnednn);
  if (type == DataType::kFloat32) cases.AddSimdTargets(cases.base());
  return cases.Take();
}

std::vector<Case> Options(Data& data, const Shape& shape) {
  Cases cases(data, DataType::kFloat32, shape);
  const TensorView weights = data.Uniform(DataType::kFloat32, {shape[1]});
  cases.AddReference();
  for (const auto& [suffix, smoothed, weighted] : {std::tuple{"label_smoothing", true, false},
                                                   {"class_weights", false, true},
                                                   {"smoothing+weights", true, true}}) {
    Problem problem = cases.base();
    if (smoothed) problem.spec.loss = CrossEntropy{.label_smoothing = kLabelSmoothing};
    if (weighted) problem.inputs.class_weights = weights;
    cases.AddBoth(problem, kLibtorch, suffix);
  }
  return cases.Take();
}

// What else a loss of class indices can be made of, beside the plain case.
std::vector<Case> Modified(Data& data, const Shape& shape) {
  Cases cases(data, DataType::kFloat32, shape);
  cases.AddReference();
  Problem weighed = cases.base();
  weighed.inputs.sample_weights = data.Uniform(DataType::kFloat32, shape.Without(1));
  cases.AddBoth(weighed, kLibtorch, "sample_weights");
  for (const auto& [suffix, options] : {std::pair{"focal", CrossEntropy{.focal_gamma = 2}},
                                        {"z_loss", CrossEntropy{.z_loss = 1e-4}},
                                        {"temperature", CrossEntropy{.temperature = 1.5}},
                                        {"softcap", CrossEntropy{.softcap = 30}}}) {
    Problem problem = cases.base();
    problem.spec.loss = options;
    cases.AddBoth(problem, kLibtorch, suffix);
  }
  return cases.Take();
}

// float16 and bfloat16 beside float32.
std::vector<Case> Half(Data& data, const Shape& shape) {
  Cases cases(data, DataType::kBfloat16, shape);
  cases.AddBoth(cases.base(), kPytorch | kOnednn);
  cases.Use(DataType::kFloat16);
  cases.AddBoth(cases.base(), kPytorch);
  cases.Use(DataType::kFloat32);
  cases.AddReference();
  std::vector<Case> all = cases.Take();
  for (Case& one : all) {
    if (one.problem.inputs.logits.type.data_type != DataType::kFloat32) {
      one.versus = cases.NameOf(cases.base(), one.problem.with_gradient());
    }
  }
  return all;
}

std::vector<Case> SoftTargets(Data& data, const Shape& shape) {
  Cases cases(data, DataType::kFloat32, shape);
  cases.AddReference();
  Problem sparse = cases.base();
  sparse.inputs.targets = data.ClassIndices({shape[0], kSparseSize}, shape[1], /*distinct=*/true);
  sparse.inputs.target_probabilities = data.Probabilities(DataType::kFloat32, {shape[0], kSparseSize});
  cases.AddBoth(sparse, kPytorch, "sparse8");
  Problem dense = cases.base();
  dense.inputs.targets = data.Probabilities(DataType::kFloat32, shape);
  cases.AddBoth(dense, kPytorch, "probabilities");
  return cases.Take();
}

// Two tensors read, one written, an entry at a time.
std::vector<Case> Entries(Data& data, const Loss& loss, const Shape& shape) {
  Cases cases(data, DataType::kFloat32, shape);
  Problem problem = cases.base();
  problem.spec.loss = loss;
  problem.inputs.targets = data.Uniform(DataType::kFloat32, shape);
  cases.AddBoth(problem, kPytorch);
  cases.AddSimdTargets(problem);
  return cases.Take();
}

// The gradient is zero but for one entry a row: it is written, nothing else.
std::vector<Case> LogLikelihood(Data& data, const Shape& shape) {
  Cases cases(data, DataType::kFloat32, shape);
  Problem problem = cases.base();
  problem.spec.loss = NegativeLogLikelihood{};
  Case& added = cases.Add(problem, true);
  added.peers = kPytorch;
  added.bytes = static_cast<double>(BytesOf(problem.gradient.type));
  added.limits = {Limit::kWrite, Limit::kCopy};
  return cases.Take();
}

// How long a small call takes; memory is no limit.
std::vector<Case> Latency(Data& data, const Shape& shape) {
  Cases cases(data, DataType::kFloat32, shape);
  cases.AddBoth(cases.base(), kPytorch | kOnednn);
  std::vector<Case> all = cases.Take();
  for (Case& one : all) one.limits.clear();
  return all;
}

}  // namespace

std::vector<Group> AllGroups(bool quick) {
  const auto shape = [quick](const Shape& full, const Shape& small) { return quick ? small : full; };
  const Shape words = shape({1024, 32000}, {64, 8000});
  const Shape vocabulary = shape({256, 128256}, {16, 32064});
  const Shape thousand = shape({8192, 1000}, {256, 1000});
  const Shape ten = shape({65536, 10}, {4096, 10});
  const Shape image = shape({8, 21, 512, 512}, {2, 21, 64, 64});
  const Shape huge = shape({1, 1 << 24}, {1, 1 << 20});
  const Shape entries = shape({1024, 4096}, {64, 4096});
  const auto plain = [](DataType type, const Shape& of) { return [=](Data& data) { return Plain(data, type, of); }; };
  return {
      {"float32, 32000 classes", plain(DataType::kFloat32, words)},
      {"float32, 128256 classes", plain(DataType::kFloat32, vocabulary)},
      {"float32, 1000 classes", plain(DataType::kFloat32, thousand)},
      {"float32, 10 classes", plain(DataType::kFloat32, ten)},
      {"label smoothing and class weights", [=](Data& data) { return Options(data, words); }},
      {"label smoothing and class weights, 1000 classes", [=](Data& data) { return Options(data, thousand); }},
      {"label smoothing and class weights, 10 classes", [=](Data& data) { return Options(data, ten); }},
      {"label smoothing and class weights, in the middle", [=](Data& data) { return Options(data, image); }},
      {"sample weights and modifiers, 32000 classes", [=](Data& data) { return Modified(data, words); }},
      {"sample weights and modifiers, 1000 classes", [=](Data& data) { return Modified(data, thousand); }},
      {"sample weights and modifiers, 10 classes", [=](Data& data) { return Modified(data, ten); }},
      {"sample weights and modifiers, in the middle", [=](Data& data) { return Modified(data, image); }},
      {"float16 and bfloat16, 32000 classes", [=](Data& data) { return Half(data, words); }},
      {"float16 and bfloat16, 1000 classes", [=](Data& data) { return Half(data, thousand); }},
      {"float64, 32000 classes", plain(DataType::kFloat64, words)},
      {"classes in the middle", plain(DataType::kFloat32, image)},
      {"one huge row", plain(DataType::kFloat32, huge)},
      {"sparse and dense probabilities", [=](Data& data) { return SoftTargets(data, words); }},
      {"negative log-likelihood", [=](Data& data) { return LogLikelihood(data, words); }},
      {"KL divergence", [=](Data& data) { return Entries(data, KlDivergence{}, entries); }},
      {"binary cross-entropy", [=](Data& data) { return Entries(data, BinaryCrossEntropy{}, entries); }},
      {"latency, 8x1000",
       [](Data& data) {
         return Latency(data, {8, 1000});
       }},
      {"latency, 32x10",
       [](Data& data) {
         return Latency(data, {32, 10});
       }},
  };
}

}  // namespace lossd::bench
