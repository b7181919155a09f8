#include "loss/reference.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "loss/element.h"

namespace lossd {
namespace {

using Real = long double;
using Reals = std::vector<Real>;
constexpr Real kInfinity = std::numeric_limits<Real>::infinity();
constexpr Real kNan = std::numeric_limits<Real>::quiet_NaN();

Real OneOr(const TensorView& tensor, int64_t index) { return tensor ? Real{FloatAt(tensor, index)} : Real{1}; }

// 0 * inf = 0, where the 0 is a mass.
Real Product(Real mass, Real value) { return mass == 0 && std::isinf(value) ? 0 : mass * value; }

// One row, after temperature and softcap.
struct Row {
  Reals x, ln_p, p, others;  // others_j = 1 - p_j, as a sum over the others
  Real lse = kNan, lse_magnitude = 0;
  bool bad = false;  // NaN, +inf, or nothing but -inf
};

Row SoftmaxOf(Reals x) {
  Row row;
  row.x = std::move(x);
  Real max = -kInfinity;
  bool has_nan = false;
  for (Real v : row.x) {
    has_nan = has_nan || std::isnan(v);
    max = std::max(max, v);
  }
  row.bad = has_nan || std::isinf(max);
  Real others_of_max = 0;  // d - 1
  bool seen_max = false;
  for (Real v : row.x) {
    if (v == max && !seen_max) {
      seen_max = true;
    } else {
      others_of_max += std::exp(v - max);
    }
  }
  row.lse = has_nan ? kNan : (row.bad ? max : max + std::log1p(others_of_max));
  row.lse_magnitude = std::fabs(max) + std::log1p(others_of_max);
  const Real d = 1 + others_of_max;
  for (Real v : row.x) {
    const Real z = v - max;
    row.ln_p.push_back(row.bad ? kNan : z - std::log1p(others_of_max));
    row.p.push_back(row.bad ? kNan : std::exp(z) / d);
    row.others.push_back(row.bad ? kNan : (z == 0 ? others_of_max : d - std::exp(z)) / d);
  }
  return row;
}

int64_t ArgMax(const Reals& x) {
  if (std::any_of(x.begin(), x.end(), [](Real v) { return std::isnan(v); })) return -1;
  return std::max_element(x.begin(), x.end()) - x.begin();
}

// A loss and its derivatives, with the magnitudes of their terms.
struct Truth {
  Real loss = 0, loss_magnitude = 0;
  ReferenceTensor gradient;          // by logit
  ReferenceTensor targets_gradient;  // by entry of the targets
};

class Evaluation {
 public:
  Evaluation(const Plan& plan, const Inputs& inputs) : plan_(plan), inputs_(inputs) {}

  Reference Run() {
    const bool rows = plan_.spec.loss.index() <= 1;
    Allocate(result_.results.element_loss, plan_.num_elements);
    Allocate(result_.results.logits_gradient, plan_.num_elements * plan_.num_classes);
    if (plan_.target_kind != TargetKind::kClassIndices) {
      Allocate(result_.results.targets_gradient, NumElements(inputs_.targets.type.shape));
    }
    for (int64_t e = 0; e < plan_.num_elements; ++e) Weigh(e);
    if (!rows) result_.weight_sum = static_cast<Real>(plan_.num_elements);
    SetDenominator();
    for (int64_t e = 0; e < plan_.num_elements; ++e) rows ? EvaluateRow(e) : EvaluateEntry(e);
    Reduce();
    return std::move(result_);
  }

 private:
  static void Allocate(ReferenceTensor& tensor, int64_t size) {
    tensor.value.assign(static_cast<size_t>(size), 0);
    tensor.magnitude.assign(static_cast<size_t>(size), 0);
  }
  static void Set(ReferenceTensor& tensor, int64_t index, Real value, Real magnitude) {
    if (tensor.value.size() <= static_cast<size_t>(index)) {
      tensor.value.resize(static_cast<size_t>(index) + 1);
      tensor.magnitude.resize(static_cast<size_t>(index) + 1);
    }
    tensor.value[static_cast<size_t>(index)] = value;
    tensor.magnitude[static_cast<size_t>(index)] = magnitude;
  }

  // The element's live class indices, each with its position in `targets`.
  std::vector<std::pair<int64_t, int64_t>> TargetsOf(int64_t e) const {
    std::vector<std::pair<int64_t, int64_t>> live;
    if (plan_.target_kind == TargetKind::kProbabilities) return live;
    const int64_t size = plan_.target_kind == TargetKind::kClassIndices ? 1 : plan_.sparse_size;
    for (int64_t i = e * size; i < (e + 1) * size; ++i) {
      const int64_t target = IntegerAt(inputs_.targets, i);
      if (target != plan_.ignore_index) live.emplace_back(i, target);
    }
    return live;
  }

  bool IsIgnored(int64_t e) const {
    if (OneOr(inputs_.sample_weights, e) == 0) return true;
    return plan_.target_kind != TargetKind::kProbabilities && TargetsOf(e).empty();
  }

  void Weigh(int64_t e) {
    if (IsIgnored(e)) {
      ++result_.ignored_count;
      return;
    }
    Real weight = OneOr(inputs_.sample_weights, e);
    if (plan_.target_kind == TargetKind::kClassIndices) weight *= OneOr(inputs_.class_weights, TargetsOf(e)[0].second);
    result_.weight_sum += weight;
  }

  void SetDenominator() {
    if (plan_.spec.reduction == Reduction::kMean) {
      denominator_ = plan_.spec.normalizer ? Real{*plan_.spec.normalizer} : result_.weight_sum;
    } else if (plan_.spec.reduction == Reduction::kBatchMean) {
      denominator_ = static_cast<Real>(plan_.inputs.logits.shape[0]);
    }
    if (plan_.spec.unit == InformationUnit::kBits) unit_ = 1 / std::log(Real{2});
  }

  // Position of class c of element e in the logits.
  int64_t At(int64_t e, int64_t c) const {
    return ((e / plan_.inner_size) * plan_.num_classes + c) * plan_.inner_size + e % plan_.inner_size;
  }

  Row RowOf(int64_t e) const {
    const CrossEntropy& loss = plan_.cross_entropy;
    Reals x;
    for (int64_t c = 0; c < plan_.num_classes; ++c) {
      const Real v = Real{FloatAt(inputs_.logits, At(e, c))} / Real{loss.temperature};
      x.push_back(loss.softcap == 0 ? v : Real{loss.softcap} * std::tanh(v / Real{loss.softcap}));
    }
    return SoftmaxOf(std::move(x));
  }

  void EvaluateRow(int64_t e) {
    const Row row = RowOf(e);
    const bool ignored = IsIgnored(e);
    const bool nll = std::holds_alternative<NegativeLogLikelihood>(plan_.spec.loss);
    RecordRow(e, row, nll, ignored);
    if (!ignored) Record(e, nll ? NegativeLogLikelihoodOf(e, row) : CrossEntropyOf(e, row));
  }

  void RecordRow(int64_t e, const Row& row, bool nll, bool ignored) {
    ResultSet<ReferenceTensor>& results = result_.results;
    Reals logits;  // as they came: modifiers keep their order, rounding may not
    for (int64_t c = 0; c < plan_.num_classes; ++c) logits.push_back(FloatAt(inputs_.logits, At(e, c)));
    const int64_t predicted = ArgMax(logits);
    Set(results.predicted_class, e, static_cast<Real>(predicted), 0);
    if (plan_.target_kind == TargetKind::kClassIndices) {
      const int64_t y = ignored ? 0 : TargetsOf(e)[0].second;
      const Real ln_p = ignored ? 0 : (nll ? row.x : row.ln_p)[static_cast<size_t>(y)];
      Set(results.target_log_probability, e, ln_p, std::fabs(ln_p));
      if (!ignored && predicted == y) ++result_.correct_count;
    }
    if (nll) return;
    Set(results.log_sum_exp, e, row.lse, row.lse_magnitude);
    Real entropy = 0, magnitude = 0;
    for (int64_t c = 0; c < plan_.num_classes; ++c) {
      const auto j = static_cast<size_t>(c);
      entropy -= Product(row.p[j], row.ln_p[j]);
      magnitude += std::fabs(Product(row.p[j], row.ln_p[j]));
      Set(results.probabilities, At(e, c), row.p[j], row.p[j]);
      Set(results.log_probabilities, At(e, c), row.ln_p[j], std::fabs(row.ln_p[j]));
    }
    Set(results.entropy, e, unit_ * entropy, unit_ * magnitude);
  }

  Truth NegativeLogLikelihoodOf(int64_t e, const Row& row) const {
    const int64_t y = TargetsOf(e)[0].second;
    const Real w = OneOr(inputs_.class_weights, y);
    Truth truth;
    truth.loss = -Product(w, row.x[static_cast<size_t>(y)]);
    truth.loss_magnitude = std::fabs(truth.loss);
    Allocate(truth.gradient, plan_.num_classes);
    Set(truth.gradient, y, -w, std::fabs(w));
    return truth;
  }

  // The element's target distribution times the class weights: smooth part and single classes (of which one may be
  // named several times: `absolute` is the sum of the sizes).
  void MassOf(int64_t e, Reals& smooth, Reals& points, Reals& absolute) const {
    const Real smoothing = plan_.cross_entropy.label_smoothing;
    const auto num_classes = static_cast<size_t>(plan_.num_classes);
    points.assign(num_classes, 0);
    absolute.assign(num_classes, 0);
    smooth.assign(num_classes, 0);
    for (size_t c = 0; c < num_classes; ++c) {
      const auto at = static_cast<int64_t>(c);
      const bool dense = plan_.target_kind == TargetKind::kProbabilities;
      const Real q = dense ? Real{FloatAt(inputs_.targets, At(e, at))} : 0;
      smooth[c] = OneOr(inputs_.class_weights, at) * ((1 - smoothing) * q + smoothing / static_cast<Real>(num_classes));
    }
    for (const auto& [position, target] : TargetsOf(e)) {
      const Real q = plan_.target_kind == TargetKind::kSparseProbabilities
                         ? Real{FloatAt(inputs_.target_probabilities, position)}
                         : 1;
      const Real mass = (1 - smoothing) * OneOr(inputs_.class_weights, target) * q;
      points[static_cast<size_t>(target)] += mass;
      absolute[static_cast<size_t>(target)] += std::fabs(mass);
    }
  }

  Truth CrossEntropyOf(int64_t e, const Row& row) const {
    const CrossEntropy& options = plan_.cross_entropy;
    Truth truth;
    Reals smooth, points, absolute;
    MassOf(e, smooth, points, absolute);
    Reals slope = points;  // -dloss/dln p of the points' part
    for (size_t c = 0; c < row.x.size(); ++c) {
      truth.loss -= Product(smooth[c], row.ln_p[c]) + Product(points[c], row.ln_p[c]);
      truth.loss_magnitude += std::fabs(Product(smooth[c], row.ln_p[c])) + std::fabs(Product(absolute[c], row.ln_p[c]));
    }
    if (options.focal_gamma != 0 || options.poly_epsilon != 0) {
      const auto y = static_cast<size_t>(TargetsOf(e)[0].second);
      BendPoint(row, y, points[y], truth, slope[y]);
      absolute[y] = std::fabs(slope[y]);
    }
    if (options.z_loss != 0) truth.loss += Real{options.z_loss} * row.lse * row.lse;
    if (options.z_loss != 0) truth.loss_magnitude += Real{options.z_loss} * row.lse_magnitude * row.lse_magnitude;
    if (row.bad) truth.loss = kNan;
    GradientOf(e, row, smooth, slope, absolute, truth);
    TargetsGradientOf(e, row, truth);
    return truth;
  }

  // loss = w (1-p)^gamma (-ln p) + epsilon (1-p).
  void BendPoint(const Row& row, size_t y, Real w, Truth& truth, Real& slope) const {
    const Real gamma = plan_.cross_entropy.focal_gamma, epsilon = plan_.cross_entropy.poly_epsilon;
    const Real q = row.others[y], p = row.p[y], l = row.ln_p[y];
    const Real focus = std::pow(q, gamma);
    truth.loss = -Product(w * focus, l) + epsilon * q;
    truth.loss_magnitude = std::fabs(Product(w * focus, l)) + std::fabs(epsilon * q);
    const Real bend = p == 0 || q == 0 || gamma == 0 ? 0 : gamma * std::pow(q, gamma - 1) * p * -l;
    slope = w * (focus + bend) + epsilon * p;
  }

  // dx_j = p_j (sum smooth + sum slope + 2 z lse) - smooth_j - slope_j, with slope_j p_j - slope_j = -slope_j (1 -
  // p_j).
  void GradientOf(int64_t e, const Row& row, const Reals& smooth, const Reals& slope, const Reals& absolute,
                  Truth& truth) const {
    const Real z_loss = plan_.cross_entropy.z_loss;
    Real total = z_loss == 0 ? 0 : 2 * z_loss * row.lse;
    Real magnitude = 2 * z_loss * row.lse_magnitude;
    for (size_t c = 0; c < row.x.size(); ++c) {
      total += smooth[c] + slope[c];
      magnitude += std::fabs(smooth[c]) + absolute[c];
    }
    const Real t = plan_.cross_entropy.temperature, cap = plan_.cross_entropy.softcap;
    for (size_t j = 0; j < row.x.size(); ++j) {
      const Real v = Real{FloatAt(inputs_.logits, At(e, static_cast<int64_t>(j)))} / t;
      const Real cosh = cap == 0 ? 1 : std::cosh(v / cap);
      const Real chain = 1 / (t * cosh * cosh);
      truth.gradient.value.push_back(chain *
                                     ((total - slope[j]) * row.p[j] - smooth[j] - Product(slope[j], row.others[j])));
      truth.gradient.magnitude.push_back(chain *
                                         (magnitude * row.p[j] + std::fabs(smooth[j]) + absolute[j] * row.others[j]));
    }
  }

  void TargetsGradientOf(int64_t e, const Row& row, Truth& truth) const {
    const Real keep = 1 - Real{plan_.cross_entropy.label_smoothing};
    const auto slope = [&](int64_t c) {
      return -Product(keep * OneOr(inputs_.class_weights, c), row.ln_p[static_cast<size_t>(c)]);
    };
    if (plan_.target_kind == TargetKind::kProbabilities) {
      for (int64_t c = 0; c < plan_.num_classes; ++c) Set(truth.targets_gradient, c, slope(c), std::fabs(slope(c)));
    } else if (plan_.target_kind == TargetKind::kSparseProbabilities) {
      Allocate(truth.targets_gradient, plan_.sparse_size);
      for (const auto& [position, target] : TargetsOf(e)) {
        Set(truth.targets_gradient, position - e * plan_.sparse_size, slope(target), std::fabs(slope(target)));
      }
    }
  }

  // ---- losses of one entry ----

  void EvaluateEntry(int64_t i) {
    if (IsIgnored(i)) return;
    const Real x = FloatAt(inputs_.logits, i), t = FloatAt(inputs_.targets, i);
    if (std::isnan(x) || std::isnan(t)) return Record(i, EntryTruth(kNan, 0, kNan, 0, kNan, 0));
    const auto* kl = std::get_if<KlDivergence>(&plan_.spec.loss);
    Record(i, kl == nullptr ? BinaryCrossEntropyOf(i, x, t) : (kl->log_target ? LogKlOf(x, t) : KlOf(x, t)));
  }

  static Truth EntryTruth(Real loss, Real loss_magnitude, Real slope, Real slope_magnitude, Real target_slope,
                          Real target_magnitude) {
    return {loss, loss_magnitude, {{slope}, {slope_magnitude}}, {{target_slope}, {target_magnitude}}};
  }

  static Truth KlOf(Real x, Real t) {
    const Real log_t = std::log(t);
    return EntryTruth(t == 0 ? 0 : t * (log_t - x), t == 0 ? 0 : std::fabs(t * log_t) + std::fabs(t * x), -t,
                      std::fabs(t), log_t - x + 1, std::fabs(log_t) + std::fabs(x) + 1);
  }
  static Truth LogKlOf(Real x, Real t) {
    const Real p = std::exp(t);
    return EntryTruth(Product(p, t) - Product(p, x), std::fabs(Product(p, t)) + std::fabs(Product(p, x)), -p, p,
                      p == 0 ? 0 : p * (t - x + 1), p == 0 ? 0 : p * (std::fabs(t) + std::fabs(x) + 1));
  }
  Truth BinaryCrossEntropyOf(int64_t i, Real x, Real t) const {
    const Real e = std::get<BinaryCrossEntropy>(plan_.spec.loss).label_smoothing;
    const Real w = PosWeight(i), yes = t * (1 - e) + e / 2, no = (1 - t) * (1 - e) + e / 2;
    const Real no_magnitude = std::fabs((1 - t) * (1 - e)) + e / 2;
    const Real cost_of_yes = std::log1p(std::exp(-std::fabs(x))) + std::max(-x, Real{0});  // -ln sigmoid(x)
    const Real cost_of_no = std::log1p(std::exp(-std::fabs(x))) + std::max(x, Real{0});    // -ln sigmoid(-x)
    const Real p = 1 / (1 + std::exp(-x)), q = 1 / (1 + std::exp(x));
    return EntryTruth(Product(w * yes, cost_of_yes) + Product(no, cost_of_no),
                      std::fabs(Product(w * yes, cost_of_yes)) + Product(no_magnitude, cost_of_no),
                      no * p - w * yes * q, no_magnitude * p + std::fabs(w * yes * q),
                      Product(1 - e, Product(w, cost_of_yes) - cost_of_no),
                      std::fabs(Product(w, cost_of_yes)) + cost_of_no);
  }

  // pos_weight of entry i, broadcast from the last axis.
  Real PosWeight(int64_t i) const {
    if (!inputs_.class_weights) return 1;
    const Shape& from = inputs_.class_weights.type.shape;
    const Shape& to = inputs_.logits.type.shape;
    std::vector<int64_t> coordinates(static_cast<size_t>(to.rank()));
    for (int axis = to.rank() - 1; axis >= 0; --axis) {
      coordinates[static_cast<size_t>(axis)] = i % to[axis];
      i /= to[axis];
    }
    int64_t index = 0;
    for (int axis = 0; axis < from.rank(); ++axis) {
      const int64_t at = coordinates[static_cast<size_t>(to.rank() - from.rank() + axis)];
      index = index * from[axis] + (from[axis] == 1 ? 0 : at);
    }
    return FloatAt(inputs_.class_weights, index);
  }

  // ---- from an element to the batch ----

  void Record(int64_t e, const Truth& truth) {
    const Real s = OneOr(inputs_.sample_weights, e);
    const Real loss = s * unit_ * truth.loss;
    Set(result_.results.element_loss, e, loss, std::fabs(s * unit_ * truth.loss_magnitude));
    result_.loss_sum += loss;
    const bool narrow = plan_.results.loss.data_type == DataType::kFloat32;
    const bool finite = narrow ? std::isfinite(static_cast<float>(loss)) : std::isfinite(static_cast<double>(loss));
    if (!finite) ++result_.nonfinite_count;
    const TensorView& upstream = inputs_.upstream_gradient;
    const bool per_element = upstream && upstream.type.shape.rank() > 0;
    const Real g = denominator_ == 0 ? kNan : s * unit_ * OneOr(upstream, per_element ? e : 0) / denominator_;
    for (int64_t c = 0; c < plan_.num_classes; ++c) {
      const auto at = static_cast<size_t>(c);
      Set(result_.results.logits_gradient, At(e, c), g * truth.gradient.value[at],
          std::fabs(g) * truth.gradient.magnitude[at]);
    }
    const auto entries = static_cast<int64_t>(truth.targets_gradient.value.size());
    const bool dense = plan_.target_kind == TargetKind::kProbabilities;
    for (int64_t i = 0; i < entries; ++i) {
      const auto at = static_cast<size_t>(i);
      Set(result_.results.targets_gradient, dense ? At(e, i) : e * entries + i,
          Product(g, truth.targets_gradient.value[at]), std::fabs(g) * truth.targets_gradient.magnitude[at]);
    }
  }

  void Reduce() {
    Real magnitude = 0;
    for (Real m : result_.results.element_loss.magnitude) magnitude += m;
    result_.results.loss.value = {denominator_ == 0 ? kNan : result_.loss_sum / denominator_};
    result_.results.loss.magnitude = {std::fabs(magnitude / denominator_)};
  }

  const Plan& plan_;
  const Inputs& inputs_;
  Reference result_;
  Real denominator_ = 1;
  Real unit_ = 1;
};

}  // namespace

Reference EvaluateReference(const Plan& plan, const Inputs& inputs) { return Evaluation(plan, inputs).Run(); }

long double Tolerance(DataType type, DataType compute_type, long double truth, long double magnitude) {
  struct Format {
    int digits;
    int least_exponent;
  };
  const auto format_of = [](DataType t) -> Format {
    switch (t) {
      case DataType::kFloat64:
        return {53, -1074};
      case DataType::kFloat16:
        return {11, -24};
      case DataType::kBfloat16:
        return {8, -133};
      default:
        return {24, -149};
    }
  };
  const Format out = format_of(type), compute = format_of(compute_type);
  // Rows computed in double have roundings of their own; in float, all above a block's sums is exact beside it.
  const int units = compute_type == DataType::kFloat64 ? 32 : 8;
  const Real computing = units * std::ldexp(magnitude, 1 - compute.digits);
  const Real rounding = std::ldexp(std::fabs(truth), -out.digits);
  return computing + rounding + 4 * std::ldexp(Real{1}, std::max(out.least_exponent, compute.least_exponent));
}

}  // namespace lossd
