// Bodies of column.h for one SIMD target.

#if defined(LOSSD_LOSS_COLUMN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_COLUMN_INL_H_
#undef LOSSD_LOSS_COLUMN_INL_H_
#else
#define LOSSD_LOSS_COLUMN_INL_H_
#endif

#include <hwy/highway.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "loss/background-inl.h"
#include "loss/column.h"
#include "loss/exp-inl.h"
#include "loss/lanes-inl.h"
#include "loss/log-inl.h"
#include "loss/row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int64_t kTermsInT = 32;

// Some rows of column.h, no more of them than a vector has lanes.
template <typename T>
struct Columns {
  const T* x;
  int64_t stride;
  int64_t num_classes;
  size_t count;

  template <class D>
  HWY_INLINE hn::Vec<D> Load(D d, int64_t c) const {
    const T* p = x + c * stride;
    return count == hn::Lanes(d) ? LoadLanes(d, p) : LoadTail(d, p, count);
  }
  // To class c of columns that lie as these.
  template <class D>
  HWY_INLINE void Store(D d, hn::Vec<D> v, int64_t c, T* to) const {
    T* p = to + c * stride;
    return count == hn::Lanes(d) ? StoreLanes(v, d, p) : StoreTail(v, d, p, count);
  }
};

// A vector of T as one or two of double: visit(lane of the first, vector).
template <class D, class Visit>
HWY_INLINE void InDouble(D, hn::Vec<D> v, const Visit& visit) {
  if constexpr (sizeof(hn::TFromD<D>) == 8) {
    visit(size_t{0}, v);
  } else {
#if HWY_TARGET == HWY_SCALAR
    visit(size_t{0}, hn::PromoteTo(hn::Rebind<double, D>(), v));
#else
    const hn::Half<D> half;
    const hn::Rebind<double, decltype(half)> dd;
    visit(size_t{0}, hn::PromoteTo(dd, hn::LowerHalf(half, v)));
    visit(hn::Lanes(dd), hn::PromoteTo(dd, hn::UpperHalf(half, v)));
#endif
  }
}

// total[lane] += v, v = 0.
template <class D>
HWY_INLINE void Flush(D d, hn::Vec<D>& v, double* total) {
  InDouble(d, v, [&](size_t lane, const auto part) HWY_ATTR {
    const hn::DFromV<decltype(part)> dd;
    hn::Store(hn::Add(hn::Load(dd, total + lane), part), dd, total + lane);
  });
  v = hn::Zero(d);
}

// FactorOf() of each lane.
template <class D, class V = hn::Vec<D>>
HWY_INLINE void FactorsOf(D d, V max, const ExpOrigin<V>& origin, double* factors) {
  HWY_ALIGN_MAX double base[hn::MaxLanes(D())];
  InDouble(d, hn::Sub(max, origin.offset),
           [&](size_t lane, const auto part) HWY_ATTR { hn::Store(part, hn::DFromV<decltype(part)>(), base + lane); });
  InDouble(d, origin.shift, [&](size_t lane, const auto shift) HWY_ATTR {
    const hn::DFromV<decltype(shift)> dd;
    const auto factor = OriginFactor<hn::TFromD<D>>(dd, hn::Load(dd, base + lane), shift);
    hn::Store(hn::Mul(factor, hn::Set(dd, ExpConstants<hn::TFromD<D>>::kUnscale)), dd, factors + lane);
  });
}

// The largest logit of each lane and its first class; -1 where there is nothing above -inf.
template <class D>
struct LaneMax {
  hn::Vec<D> max;
  hn::Vec<hn::RebindToSigned<D>> argmax;
};

template <class D, typename T = hn::TFromD<D>>
HWY_INLINE LaneMax<D> MaxOfLanes(D d, const Columns<T>& columns) {
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  LaneMax<D> result{hn::Set(d, -std::numeric_limits<hn::TFromD<D>>::infinity()), hn::Set(di, TI{-1})};
  for (int64_t c = 0; c < columns.num_classes; ++c) {
    const auto x = columns.Load(d, c);
    const auto raised = hn::Gt(x, result.max);  // never for NaN
    result.max = hn::IfThenElse(raised, x, result.max);
    result.argmax = hn::IfThenElse(hn::RebindMask(di, raised), hn::Set(di, static_cast<TI>(c)), result.argmax);
  }
  return result;
}

// As PREDICTED_CLASS.
template <class D>
HWY_INLINE void WritePredicted(D, const LaneMax<D>& top, const double* others, size_t count, int64_t* predicted) {
  const hn::RebindToSigned<D> di;
  HWY_ALIGN_MAX hn::TFromD<decltype(di)> argmax[hn::MaxLanes(D())];
  hn::Store(top.argmax, di, argmax);
  for (size_t r = 0; r < count; ++r) predicted[r] = std::isnan(others[r]) ? -1 : std::max<int64_t>(argmax[r], 0);
}

template <BackgroundKind kKind, class D, typename T = hn::TFromD<D>>
HWY_INLINE void ReduceColumns(D d, const Columns<T>& columns, const Background<T>& b, RowSums* sums) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr size_t kMaxLanes = hn::MaxLanes(D());
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  const LaneMax<D> top = MaxOfLanes(d, columns);
  const auto reference = hn::IfThenElseZero(hn::Lt(hn::Abs(top.max), hn::Set(d, kInfinity)), top.max);
  const auto origin = OriginOf(d, reference);

  HWY_ALIGN_MAX double others[kMaxLanes] = {}, mass[kMaxLanes] = {}, dot[kMaxLanes] = {};
  auto recent = hn::Zero(d);
  BackgroundSums<kKind, D> background;
  background.Clear(d);
  for (int64_t c = 0; c < columns.num_classes; ++c) {
    const auto x = columns.Load(d, c);
    const auto is_max = hn::RebindMask(d, hn::Eq(top.argmax, hn::Set(di, static_cast<TI>(c))));
    recent = hn::Add(recent, hn::IfThenZeroElse(is_max, ScaledExp(d, hn::Sub(x, origin.offset), origin)));
    const auto load = [&](const T* p) HWY_ATTR { return hn::Set(d, p[c]); };
    background.Add(d, hn::Sub(x, reference), BackgroundAt<kKind>(d, b, load));
    if ((c + 1) % kTermsInT != 0 && c + 1 != columns.num_classes) continue;
    Flush(d, recent, others);
    if constexpr (kKind == BackgroundKind::kNone) continue;
    Flush(d, background.mass, mass);
    Flush(d, background.dot, dot);
  }

  HWY_ALIGN_MAX double factor[kMaxLanes];
  HWY_ALIGN_MAX T max[kMaxLanes];
  HWY_ALIGN_MAX TI argmax[kMaxLanes];
  FactorsOf(d, reference, origin, factor);
  hn::Store(top.max, d, max);
  hn::Store(top.argmax, di, argmax);
  const double scale = ScaleOf<kKind>(b);
  for (size_t r = 0; r < columns.count; ++r) {
    const double total = kKind == BackgroundKind::kUniform ? static_cast<double>(columns.num_classes) : mass[r];
    sums[r] = {static_cast<double>(max[r]), WithoutDust<T>(others[r] * factor[r], columns.num_classes),
               std::max<int64_t>(argmax[r], 0), scale * total, scale * dot[r]};
    if (max[r] != kInfinity) continue;
    sums[r].others = 0;  // the loss will be NaN; what is left to say is whether the row has NaN
    for (int64_t c = 0; c < columns.num_classes; ++c) {
      if (std::isnan(columns.x[c * columns.stride + static_cast<int64_t>(r)])) {
        sums[r].others = std::numeric_limits<double>::quiet_NaN();
      }
    }
  }
}

// Calls visit(first, count) for each vector of [0, count).
template <class D, class Visit>
HWY_INLINE void ForEachVector(D d, int64_t count, const Visit& visit) {
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  for (int64_t first = 0; first < count; first += lanes)
    visit(first, static_cast<size_t>(std::min(lanes, count - first)));
}

template <typename T>
void ReduceAllColumns(const T* x, int64_t stride, int64_t num_classes, int64_t count, const Background<T>& background,
                      RowSums* sums) {
  const hn::ScalableTag<T> d;
  WithKind(KindOf(background), [&](auto kind) HWY_ATTR {
    ForEachVector(d, count, [&](int64_t first, size_t n) HWY_ATTR {
      ReduceColumns<decltype(kind)::value>(d, Columns<T>{x + first, stride, num_classes, n}, background, sums + first);
    });
  });
}

// The gradients of one vector of rows.
template <BackgroundKind kKind, class D, typename T = hn::TFromD<D>>
HWY_INLINE void ScatterColumns(D d, const Columns<T>& columns, const Gradient<T>* gradients, T* dx) {
  constexpr size_t kMaxLanes = hn::MaxLanes(D());
  HWY_ALIGN_MAX T max[kMaxLanes] = {}, p_scale[kMaxLanes] = {}, t_scale[kMaxLanes] = {};
  HWY_ALIGN_MAX double factor[kMaxLanes];
  const double scale = ScaleOf<kKind>(gradients[0].background);
  for (size_t r = 0; r < columns.count; ++r) max[r] = static_cast<T>(gradients[r].max);
  const auto m = hn::Load(d, max);
  const auto origin = OriginOf(d, m);
  FactorsOf(d, m, origin, factor);
  for (size_t r = 0; r < columns.count; ++r) {
    p_scale[r] = static_cast<T>(gradients[r].p_scale * factor[r]);
    t_scale[r] = static_cast<T>(gradients[r].t_scale * scale);
  }
  const auto p = hn::Load(d, p_scale), s = hn::Load(d, t_scale);
  // A row that counts nowhere gets 0, whatever is in it.
  const auto nothing = hn::And(hn::Eq(p, hn::Zero(d)), hn::Eq(s, hn::Zero(d)));
  for (int64_t c = 0; c < columns.num_classes; ++c) {
    const auto load = [&](const T* row) HWY_ATTR { return hn::Set(d, row[c]); };
    const auto e = ScaledExp(d, hn::Sub(columns.Load(d, c), origin.offset), origin);
    const auto entry = GradientEntry<kKind>(d, p, e, s, gradients[0].background, load);
    columns.Store(d, hn::IfThenZeroElse(nothing, entry), c, dx);
  }
}

template <typename T>
void ScatterAllColumns(const T* x, int64_t stride, int64_t num_classes, int64_t count, const Gradient<T>* gradients,
                       T* dx) {
  const hn::ScalableTag<T> d;
  WithKind(KindOf(gradients[0].background), [&](auto kind) HWY_ATTR {
    constexpr BackgroundKind kKind = decltype(kind)::value;
    ForEachVector(d, count, [&](int64_t first, size_t n) HWY_ATTR {
      const auto* const g = gradients + first;
      if (HWY_LIKELY(std::all_of(g, g + n, [](const auto& row) { return FitsIn(row); }))) {
        return ScatterColumns<kKind>(d, Columns<T>{x + first, stride, num_classes, n}, g, dx + first);
      }
      for (size_t r = 0; r < n; ++r) {  // x may be dx, and no row may depend on its neighbours: one at a time
        const int64_t row = first + static_cast<int64_t>(r);
        if (FitsIn(gradients[row])) {
          ScatterColumns<kKind>(d, Columns<T>{x + row, stride, num_classes, 1}, gradients + row, dx + row);
        } else {
          ScatterInDouble(x + row, stride, num_classes, gradients[row], dx + row);
        }
      }
    });
  });
}

// ---- plain cross-entropy ----

// What one vector of rows is decided from, and what comes of it; all by row.
template <typename T, size_t kMaxLanes>
struct PlainRows {
  HWY_ALIGN_MAX double others[kMaxLanes] = {};
  HWY_ALIGN_MAX double factors[kMaxLanes];
  HWY_ALIGN_MAX double max[kMaxLanes];
  HWY_ALIGN_MAX double logits[kMaxLanes] = {};  // x_y
  HWY_ALIGN_MAX double masses[kMaxLanes] = {};
  HWY_ALIGN_MAX double losses[kMaxLanes];
  HWY_ALIGN_MAX double p_scales[kMaxLanes];  // before the factor
  HWY_ALIGN_MAX T scales[kMaxLanes];
  HWY_ALIGN_MAX T points[kMaxLanes];  // the gradient at y
};

// Decide() and the gradient's coefficients, for the lanes of dd from `lane` on.
template <class DD, typename T, size_t kMaxLanes>
HWY_INLINE void DecidePlain(DD dd, size_t lane, double g, PlainRows<T, kMaxLanes>& rows, double* points) {
  const auto one = hn::Set(dd, 1.0), zero = hn::Zero(dd);
  const auto max = hn::Load(dd, rows.max + lane), mass = hn::Load(dd, rows.masses + lane);
  const auto infinity = hn::Set(dd, std::numeric_limits<double>::infinity());
  const auto nan = hn::Set(dd, std::numeric_limits<double>::quiet_NaN());
  const auto finite = hn::Lt(hn::Abs(max), infinity);
  const auto others = hn::IfThenElse(finite, hn::Load(dd, rows.others + lane), nan);
  const auto z = hn::Sub(hn::Load(dd, rows.logits + lane), max);
  const auto log_p = hn::Sub(z, Log1p(dd, others));
  const auto nothing = hn::And(hn::Eq(mass, zero), hn::Eq(hn::Abs(log_p), infinity));
  // Additions of 0 keep -0 out, as the sums of decide.h do.
  const auto loss = hn::Add(zero, hn::Mul(mass, hn::Neg(log_p)));
  hn::Store(hn::IfThenZeroElse(nothing, loss), dd, rows.losses + lane);
  const auto exp = hn::Mul(ScaledExp(dd, z, OriginOf(dd, zero)), hn::Set(dd, ExpConstants<double>::kUnscale));
  const auto denominator = hn::Add(one, others), scale = hn::Set(dd, g);
  const auto rest = hn::IfThenElse(hn::Eq(exp, one), others, hn::Sub(denominator, exp));
  hn::Store(hn::Div(hn::Mul(scale, mass), denominator), dd, rows.p_scales + lane);
  hn::Store(hn::Mul(scale, hn::Sub(zero, hn::Mul(mass, hn::Div(rest, denominator)))), dd, points + lane);
}

// One vector of a tile; false where a coefficient does not fit.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE bool EvaluatePlain(D d, const PlainTile<T>& tile, int64_t first, size_t count) {
  constexpr size_t kMaxLanes = hn::MaxLanes(D());
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  T* const x = tile.x + first;
  const Columns<T> columns{x, tile.stride, tile.num_classes, count};
  const LaneMax<D> top = MaxOfLanes(d, columns);
  if (!hn::AllFalse(d, hn::Eq(top.max, hn::Set(d, kInfinity)))) return false;  // NaN or not, `reduce` finds out
  const auto reference = hn::IfThenElseZero(hn::Lt(hn::Abs(top.max), hn::Set(d, kInfinity)), top.max);
  const auto origin = OriginOf(d, reference);
  PlainRows<T, kMaxLanes> rows;
  HWY_ALIGN_MAX TI targets[kMaxLanes];
  std::fill_n(targets, kMaxLanes, TI{-1});
  for (size_t r = 0; r < count; ++r) {
    const int64_t target = tile.targets[first + static_cast<int64_t>(r)];
    targets[r] = static_cast<TI>(target);
    rows.logits[r] = static_cast<double>(x[std::max<int64_t>(target, 0) * tile.stride + static_cast<int64_t>(r)]);
    rows.masses[r] = tile.masses[first + static_cast<int64_t>(r)];
  }

  auto recent = hn::Zero(d);
  for (int64_t c = 0; c < tile.num_classes; ++c) {
    const auto is_max = hn::RebindMask(d, hn::Eq(top.argmax, hn::Set(di, static_cast<TI>(c))));
    const auto e = ScaledExp(d, hn::Sub(columns.Load(d, c), origin.offset), origin);
    recent = hn::Add(recent, hn::IfThenZeroElse(is_max, e));
    if (tile.gradient) columns.Store(d, e, c, x);
    if ((c + 1) % kTermsInT == 0 || c + 1 == tile.num_classes) Flush(d, recent, rows.others);
  }
  FactorsOf(d, reference, origin, rows.factors);
  InDouble(d, top.max,
           [&](size_t lane, const auto max) HWY_ATTR { hn::Store(max, hn::DFromV<decltype(max)>(), rows.max + lane); });
  for (size_t r = 0; r < kMaxLanes; ++r) {
    rows.others[r] = WithoutDust<T>(rows.others[r] * rows.factors[r], tile.num_classes);
  }
  HWY_ALIGN_MAX double points[kMaxLanes];
  InDouble(d, reference, [&](size_t lane, const auto v) HWY_ATTR {
    DecidePlain(hn::DFromV<decltype(v)>(), lane, tile.gradient_scale, rows, points);
  });
  bool fits = true;
  for (size_t r = 0; r < count; ++r) {
    const bool ignored = targets[r] < 0;
    const int64_t row = first + static_cast<int64_t>(r);
    tile.losses[row] = ignored ? 0 : rows.losses[r];
    fits = fits && (ignored || !tile.gradient || FitsIn(Gradient<T>{.p_scale = rows.p_scales[r]}));
  }
  if (tile.predicted != nullptr) WritePredicted(d, top, rows.others, count, tile.predicted + first);
  if (!fits || !tile.gradient) return fits;

  for (size_t r = 0; r < kMaxLanes; ++r) {
    rows.scales[r] = static_cast<T>(rows.p_scales[r] * rows.factors[r]);
    // A row of NaN is NaN everywhere; also if nothing of it reaches the gradient.
    rows.points[r] = static_cast<T>(points[r]);
  }
  const auto scale = hn::Load(d, rows.scales), point = hn::Load(d, rows.points);
  const auto target = hn::Load(di, targets);
  const auto ignored = hn::RebindMask(d, hn::Lt(target, hn::Zero(di)));
  for (int64_t c = 0; c < tile.num_classes; ++c) {
    const auto here = hn::RebindMask(d, hn::Eq(target, hn::Set(di, static_cast<TI>(c))));
    const auto entry = hn::IfThenElse(here, point, hn::Mul(scale, columns.Load(d, c)));
    columns.Store(d, hn::IfThenZeroElse(ignored, entry), c, x);
  }
  return true;
}

template <typename T>
bool EvaluatePlainTile(const PlainTile<T>& tile) {
  const hn::ScalableTag<T> d;
  bool fits = true;
  ForEachVector(d, tile.count,
                [&](int64_t first, size_t n) HWY_ATTR { fits = fits && EvaluatePlain(d, tile, first, n); });
  return fits;
}

template <typename T>
ColumnKernels<T> MakeColumnKernels() {
  return {ReduceAllColumns<T>, ScatterAllColumns<T>, EvaluatePlainTile<T>};
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_COLUMN_INL_H_
