// Every softmax loss: rows in, reduce (row.h), decide (decide.h), scatter (row.h), rows out.
// Notation of row.h: points h_k, background t; g is the element's upstream gradient.
#include <algorithm>
#include <cmath>
#include <compare>
#include <span>

#include "loss/decide.h"
#include "loss/evaluate.h"
#include "loss/row.h"
#include "loss/scratch.h"
#include "loss/tile.h"

namespace lossd {
namespace {

template <typename T>
class SoftmaxLoss {
 public:
  explicit SoftmaxLoss(Block& block)
      : block_(block), plan_(block.plan), results_(block.results), options_(plan_.cross_entropy), layout_(plan_) {
    const TensorView& weights = block.inputs.class_weights;
    if (weights) class_weights_ = Rows(weights, {0, 1, 1, plan_.num_classes}, layout_.class_weights);
    reads_every_row_ = results_.log_sum_exp || results_.predicted_class || results_.entropy || results_.probabilities ||
                       results_.log_probabilities;
  }

  void Run() {
    for (int64_t element = block_.begin; element < block_.end;) {
      int64_t count = std::min(layout_.tile_elements, block_.end - element);
      const int64_t inner = plan_.inner_size;
      if (inner > 1) count = std::min(count, inner - element % inner);
      EvaluateTile(element, {plan_.RowStart(element), inner, count, plan_.num_classes});
      element += count;
    }
  }

 private:
  T* Part(int64_t offset) { return reinterpret_cast<T*>(block_.scratch + offset); }

  // The rows of a tensor: where they are, or copied to their part of the scratch.
  const T* Rows(const TensorView& tensor, const TileRange& range, int64_t part) {
    if (part == ScratchLayout::kInPlace) return static_cast<const T*>(tensor.data) + range.base;
    ReadTile(tensor, range, Part(part));
    return Part(part);
  }

  // Where to write the rows of a tensor, null if it is absent; FinishRows() takes them there.
  T* OutputRows(const MutableTensorView& tensor, const TileRange& range, int64_t part) {
    if (!tensor) return nullptr;
    return part == ScratchLayout::kInPlace ? static_cast<T*>(tensor.data) + range.base : Part(part);
  }
  void FinishRows(const MutableTensorView& tensor, const TileRange& range, const T* rows, int64_t part) {
    if (rows != nullptr && part != ScratchLayout::kInPlace) WriteTile(rows, range, tensor);
  }

  // The rows of one tile, in every tensor that has some; null where it is absent.
  struct Tile {
    const T* logits;
    const T* targets;
    T* probabilities;
    T* log_probabilities;
    T* targets_gradient;
    T* logits_gradient;  // may be the logits: written last
  };

  void EvaluateTile(int64_t first, const TileRange& range) {
    const bool dense = plan_.target_kind == TargetKind::kProbabilities;
    const Tile tile = {
        ModifiedLogits(range),
        dense ? Rows(block_.inputs.targets, range, layout_.targets) : nullptr,
        OutputRows(results_.probabilities, range, layout_.probabilities),
        OutputRows(results_.log_probabilities, range, layout_.log_probabilities),
        dense ? OutputRows(results_.targets_gradient, range, layout_.targets_gradient) : nullptr,
        OutputRows(results_.logits_gradient, range, layout_.logits_gradient),
    };
    for (int64_t row = 0; row < range.count; ++row) EvaluateRow(first + row, row * plan_.num_classes, tile);
    FinishRows(results_.probabilities, range, tile.probabilities, layout_.probabilities);
    FinishRows(results_.log_probabilities, range, tile.log_probabilities, layout_.log_probabilities);
    FinishRows(results_.targets_gradient, range, tile.targets_gradient, layout_.targets_gradient);
    if (tile.logits_gradient != nullptr && layout_.modified) ChainModifiers(range, tile.logits_gradient);
    FinishRows(results_.logits_gradient, range, tile.logits_gradient, layout_.logits_gradient);
  }

  // Temperature t, then softcap c: x becomes c tanh(x / (t c)).
  const T* ModifiedLogits(const TileRange& range) {
    const TensorView& logits = block_.inputs.logits;
    if (!layout_.modified) return Rows(logits, range, layout_.logits);
    T* rows = Part(layout_.logits);
    const double t = options_.temperature, c = options_.softcap;
    range.ForEach([&](int64_t from, int64_t to) {
      const double x = FloatAt(logits, from) / t;
      rows[to] = static_cast<T>(c == 0 ? x : c * std::tanh(x / c));
    });
    return rows;
  }

  // The derivative of that, 1 / (t cosh^2(x / (t c))), times the gradient. Reads the logits before they are
  // overwritten.
  void ChainModifiers(const TileRange& range, T* gradient) {
    const double t = options_.temperature, c = options_.softcap;
    range.ForEach([&](int64_t from, int64_t to) {
      if (gradient[to] == 0) return;  // an ignored row's logits may be anything
      const double cosh = c == 0 ? 1 : std::cosh(FloatAt(block_.inputs.logits, from) / t / c);
      gradient[to] = static_cast<T>(static_cast<double>(gradient[to]) / t / (cosh * cosh));
    });
  }

  template <typename Visit>
  void VisitTargets(int64_t element, const Visit& visit) const {
    ForEachTarget(plan_, block_.inputs, element, [&visit](int64_t position, int64_t target) {
      visit(position, target);
      return absl::OkStatus();
    }).IgnoreError();
  }

  TargetMass<T> MassOf(int64_t element, const T* probabilities) {
    const double e = options_.label_smoothing;
    TargetMass<T> mass;
    mass.background = {0, nullptr, e / static_cast<double>(plan_.num_classes), class_weights_};
    if (plan_.target_kind == TargetKind::kProbabilities) {
      mass.background.alpha = 1 - e;
      mass.background.probabilities = probabilities;
      return mass;
    }
    const bool sparse = plan_.target_kind == TargetKind::kSparseProbabilities;
    Point* points = sparse ? reinterpret_cast<Point*>(block_.scratch + layout_.points) : &single_point_;
    int64_t count = 0;
    const TensorView& masses = block_.inputs.target_probabilities;
    VisitTargets(element, [&](int64_t position, int64_t target) {
      const double q = masses ? FloatAt(masses, position) : 1;
      points[count++] = {target, (1 - e) * ClassWeight(block_.inputs, target) * q};
    });
    mass.points = Merge({points, static_cast<size_t>(count)});
    return mass;
  }

  // Points by class, each class once.
  static std::span<Point> Merge(std::span<Point> points) {
    if (points.size() < 2) return points;
    // The order of the sum is the row's own, not the caller's; a total order, NaN included.
    std::sort(points.begin(), points.end(), [](const Point& a, const Point& b) {
      return a.target != b.target ? a.target < b.target : std::strong_order(a.mass, b.mass) < 0;
    });
    size_t last = 0;
    for (size_t i = 1; i < points.size(); ++i) {
      if (points[i].target == points[last].target) {
        points[last].mass += points[i].mass;
      } else {
        points[++last] = points[i];
      }
    }
    return points.first(last + 1);
  }

  // `offset` is where the row starts in the tile.
  void EvaluateRow(int64_t element, int64_t offset, const Tile& tile) {
    const T* x = tile.logits + offset;
    const bool ignored = IsIgnored(plan_, block_.inputs, element);
    if (ignored && !reads_every_row_) return WriteIgnored(element, offset, tile);

    const T* probabilities = tile.targets != nullptr ? tile.targets + offset : nullptr;
    const TargetMass<T> mass = ignored ? TargetMass<T>{} : MassOf(element, probabilities);
    const RowSums sums = ReduceRow(x, plan_.num_classes, mass.background);
    const Softmax softmax(sums);
    WriteRowValues(element, x, sums, softmax, ignored ? nullptr : &mass);
    if (tile.probabilities != nullptr) {
      ScatterRow(x, plan_.num_classes, softmax.max(), 1 / softmax.denominator(), 0, Background<T>{},
                 tile.probabilities + offset);
    }
    if (tile.log_probabilities != nullptr) {
      LogSoftmaxRow(x, plan_.num_classes, softmax.max(), softmax.log_denominator(), tile.log_probabilities + offset);
    }
    if (ignored) return WriteIgnored(element, offset, tile);
    const Decision decision = Decide(options_, sums, softmax, x, mass);
    block_.AddLoss(element, decision.loss);
    const double g = block_.Upstream(element);
    if (results_.targets_gradient) WriteTargetsGradient(element, offset, tile, softmax, g);
    if (tile.logits_gradient != nullptr) {
      WriteLogitsGradient(mass, decision, softmax, g, x, tile.logits_gradient + offset);
    }
  }

  // Everything that depends on the targets, of an element that counts nowhere.
  void WriteIgnored(int64_t element, int64_t offset, const Tile& tile) {
    block_.AddIgnored(element);
    if (results_.target_log_probability) StoreFloat(results_.target_log_probability, element, 0);
    if (tile.logits_gradient != nullptr) std::fill_n(tile.logits_gradient + offset, plan_.num_classes, T{0});
    if (tile.targets_gradient != nullptr) std::fill_n(tile.targets_gradient + offset, plan_.num_classes, T{0});
    if (plan_.target_kind == TargetKind::kSparseProbabilities) ZeroSparseTargetsGradient(element);
  }

  // One value a row. `mass` is null for a row that counts nowhere.
  void WriteRowValues(int64_t element, const T* x, const RowSums& sums, const Softmax& softmax,
                      const TargetMass<T>* mass) {
    if (results_.predicted_class) {
      int64_t predicted = std::isnan(sums.others) ? -1 : sums.argmax;
      if (layout_.modified) predicted = block_.PredictedClass(element);
      StoreElement(results_.predicted_class.data, element, predicted);
      const bool index = mass != nullptr && plan_.target_kind == TargetKind::kClassIndices;
      if (index && predicted == mass->points[0].target) ++block_.summary.correct_count;
    }
    if (results_.log_sum_exp) StoreFloat(results_.log_sum_exp, element, softmax.LogSumExp());
    if (results_.target_log_probability && mass != nullptr) {
      const double log_p = softmax.LogProbability(LoadElement<T>(x, mass->points[0].target));
      StoreFloat(results_.target_log_probability, element, log_p);
    }
    if (results_.entropy) {
      const double entropy =
          softmax.log_denominator() + EntropySum(x, plan_.num_classes, sums.max) / softmax.denominator();
      StoreFloat(results_.entropy, element, plan_.unit_scale * (softmax.is_nan() ? kNan : entropy));
    }
  }

  // A point's entry is -g (h (1 - p) - (p_factor + other points) p + t), precise where p is near 1.
  void WriteLogitsGradient(const TargetMass<T>& mass, const Decision& decision, const Softmax& softmax, double g,
                           const T* x, T* dx) {
    if (softmax.is_nan() || std::isnan(g)) {
      std::fill_n(dx, plan_.num_classes, static_cast<T>(kNan));
      return;
    }
    double point_mass = 0;
    for (const Point& point : mass.points) point_mass += point.mass;
    // x may be dx: what the points need is read first.
    for (Point& point : mass.points) {
      const double logit = LoadElement<T>(x, point.target);
      const double push = (decision.p_factor + (point_mass - point.mass)) * softmax.Probability(logit);
      const double t = mass.background.beta * ClassWeight(block_.inputs, point.target);
      point.mass = g * (push - t - point.mass * softmax.Complement(logit));
    }
    const double p_scale = g * (decision.p_factor + point_mass) / softmax.denominator();
    ScatterRow(x, plan_.num_classes, softmax.max(), p_scale, g, mass.background, dx);
    for (const Point& point : mass.points) dx[point.target] = static_cast<T>(point.mass);
  }

  // dloss/dq_c = -g (1-e) w_c ln p_c.
  void WriteTargetsGradient(int64_t element, int64_t offset, const Tile& tile, const Softmax& softmax, double g) {
    const auto slope = [&](int64_t c) {
      const double factor = g * (1 - options_.label_smoothing) * ClassWeight(block_.inputs, c);
      return CrossTerm(factor, softmax.LogProbability(LoadElement<T>(tile.logits, offset + c)));
    };
    for (int64_t c = 0; tile.targets_gradient != nullptr && c < plan_.num_classes; ++c) {
      tile.targets_gradient[offset + c] = static_cast<T>(slope(c));
    }
    if (plan_.target_kind != TargetKind::kSparseProbabilities) return;
    ZeroSparseTargetsGradient(element);
    VisitTargets(element, [&](int64_t position, int64_t target) {
      StoreFloat(results_.targets_gradient, position, slope(target));
    });
  }

  void ZeroSparseTargetsGradient(int64_t element) {
    if (!results_.targets_gradient) return;
    for (int64_t k = 0; k < plan_.sparse_size; ++k) {
      StoreFloat(results_.targets_gradient, element * plan_.sparse_size + k, 0);
    }
  }

  Block& block_;
  const Plan& plan_;
  const Results& results_;
  const CrossEntropy& options_;
  const ScratchLayout layout_;
  const T* class_weights_ = nullptr;
  Point single_point_;
  bool reads_every_row_ = false;
};

}  // namespace

void EvaluateSoftmaxLoss(Block& block) {
  if (block.plan.compute_type == DataType::kFloat64) {
    SoftmaxLoss<double>(block).Run();
  } else {
    SoftmaxLoss<float>(block).Run();
  }
}

}  // namespace lossd
