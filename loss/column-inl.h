// Bodies of column.h for one SIMD target.

#if defined(LOSSD_LOSS_COLUMN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_COLUMN_INL_H_
#undef LOSSD_LOSS_COLUMN_INL_H_
#else
#define LOSSD_LOSS_COLUMN_INL_H_
#endif

#include <hwy/cache_control.h>
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
#include "loss/turn-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// A vector of rows of column.h, from x on.
template <typename T>
struct Columns {
  const T* x;
  int64_t stride;
  int64_t num_classes;

  template <class D>
  HWY_INLINE hn::Vec<D> Load(D d, int64_t c) const {
    return LoadLanes(d, x + c * stride);
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
  hn::Vec<D> reference;  // of the exponentials: the max, or 0 where that is infinite
  hn::Vec<hn::RebindToSigned<D>> argmax;
};

template <class D, typename T = hn::TFromD<D>>
HWY_INLINE LaneMax<D> MaxOfLanes(D d, const Columns<T>& columns) {
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  const auto infinity = hn::Set(d, std::numeric_limits<T>::infinity());
  LaneMax<D> result{hn::Neg(infinity), hn::Zero(d), hn::Set(di, TI{-1})};
  for (int64_t c = 0; c < columns.num_classes; ++c) {
    const auto x = columns.Load(d, c);
    const auto raised = hn::Gt(x, result.max);  // never for NaN
#if HWY_TARGET == HWY_SCALAR
    result.max = hn::IfThenElse(raised, x, result.max);
#else
    result.max = hn::Max(x, result.max);  // where x is NaN, x86 keeps the other
#endif
    result.argmax = hn::IfThenElse(hn::RebindMask(di, raised), hn::Set(di, static_cast<TI>(c)), result.argmax);
  }
  result.reference = hn::IfThenElseZero(hn::Lt(hn::Abs(result.max), infinity), result.max);
  return result;
}

// Sums by lane, relative to LaneMax::reference; `others` over OriginFactor().
struct LaneSums {
  double* others;
  double* mass = nullptr;  // of the background; not touched without one
  double* dot = nullptr;
};

// Adds the classes up; store(c, e) gets the ScaledExpParts() of each.
template <BackgroundKind kKind, class D, class Store, typename T = hn::TFromD<D>>
HWY_INLINE void SumColumns(D d, const Columns<T>& columns, const LaneMax<D>& top, const ExpOrigin<hn::Vec<D>>& origin,
                           const Background<T>& b, const LaneSums& sums, const Store& store) {
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  auto recent = hn::Zero(d);
  BackgroundSums<kKind, D> background;
  background.Clear(d);
  const auto scale = hn::Set(d, static_cast<T>(BackgroundScale(b)));
  for (int64_t c = 0; c < columns.num_classes; ++c) {
    const auto x = columns.Load(d, c);
    const auto is_max = hn::RebindMask(d, hn::Eq(top.argmax, hn::Set(di, static_cast<TI>(c))));
    const auto e = ScaledExpParts(d, hn::Sub(x, origin.offset), origin);
    recent = hn::MulAdd(e.fraction, hn::IfThenZeroElse(is_max, e.power), recent);
    const auto load = [&](const T* p) HWY_ATTR { return hn::Set(d, LoadElement<T>(p, c)); };
    if constexpr (kKind != BackgroundKind::kNone) {
      const hn::Vec<D> z[] = {hn::Sub(x, top.reference)}, t[] = {hn::Mul(scale, BackgroundAt<kKind>(d, b, load))};
      background.Add(d, z, t);
    }
    store(c, e);
    if ((c + 1) % static_cast<int64_t>(kTerms) != 0 && c + 1 != columns.num_classes) continue;
    Flush(d, recent, sums.others);
    if constexpr (kKind == BackgroundKind::kNone) continue;
    Flush(d, background.mass, sums.mass);
    Flush(d, background.dot, sums.dot);
  }
}

template <BackgroundKind kKind, class D, typename T = hn::TFromD<D>>
HWY_INLINE void ReduceColumns(D d, const Columns<T>& columns, const Background<T>& b, size_t count, RowSums* sums) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr size_t kMaxLanes = hn::MaxLanes(D());
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  const LaneMax<D> top = MaxOfLanes(d, columns);
  const auto origin = OriginOf(d, top.reference);
  HWY_ALIGN_MAX double others[kMaxLanes] = {}, mass[kMaxLanes] = {}, dot[kMaxLanes] = {};
  SumColumns<kKind>(d, columns, top, origin, b, {others, mass, dot}, [](int64_t, auto) {});

  HWY_ALIGN_MAX double factor[kMaxLanes];
  HWY_ALIGN_MAX T max[kMaxLanes];
  HWY_ALIGN_MAX TI argmax[kMaxLanes];
  FactorsOf(d, top.reference, origin, factor);
  hn::Store(top.max, d, max);
  hn::Store(top.argmax, di, argmax);
  for (size_t r = 0; r < count; ++r) {
    const double total =
        kKind == BackgroundKind::kUniform ? b.beta * static_cast<double>(columns.num_classes) : mass[r];
    const double sum = WithoutDrift<T>(others[r] * factor[r], columns.num_classes);
    sums[r] = {static_cast<double>(max[r]), WithoutDust<T>(sum, columns.num_classes), std::max<int64_t>(argmax[r], 0),
               total, dot[r]};
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
      ReduceColumns<decltype(kind)::value>(d, Columns<T>{x + first, stride, num_classes}, background, n, sums + first);
    });
  });
}

// The gradients of one vector of rows. kKeep: rows whose coefficients do not fit stay as they are.
template <BackgroundKind kKind, bool kKeep, class D, typename T = hn::TFromD<D>>
HWY_INLINE void ScatterColumns(D d, const Columns<T>& columns, size_t count, const Gradient<T>* gradients, T* dx) {
  constexpr size_t kMaxLanes = hn::MaxLanes(D());
  HWY_ALIGN_MAX T max[kMaxLanes] = {}, p_scale[kMaxLanes] = {}, t_scale[kMaxLanes] = {};
  HWY_ALIGN_MAX double factor[kMaxLanes];
  for (size_t r = 0; r < count; ++r) max[r] = static_cast<T>(gradients[r].max);
  const auto m = hn::Load(d, max);
  const auto origin = OriginOf(d, m);
  FactorsOf(d, m, origin, factor);
  for (size_t r = 0; r < count; ++r) {
    p_scale[r] = static_cast<T>(gradients[r].p_scale * factor[r]);
    t_scale[r] = static_cast<T>(BackgroundCoefficient(gradients[r]));
  }
  HWY_ALIGN_MAX T keep[kMaxLanes] = {};
  for (size_t r = 0; kKeep && r < count; ++r) keep[r] = FitsIn(gradients[r]) ? T{0} : T{1};
  const auto kept = hn::Gt(hn::Load(d, keep), hn::Zero(d));
  const auto p = hn::Load(d, p_scale), s = hn::Load(d, t_scale);
  // A row that counts nowhere gets 0, whatever is in it.
  const auto nothing = hn::And(hn::Eq(p, hn::Zero(d)), hn::Eq(s, hn::Zero(d)));
  for (int64_t c = 0; c < columns.num_classes; ++c) {
    const auto load = [&](const T* row) HWY_ATTR { return hn::Set(d, LoadElement<T>(row, c)); };
    const auto x = columns.Load(d, c);
    const auto e = ScaledExp(d, hn::Sub(x, origin.offset), origin);
    auto entry = hn::IfThenZeroElse(nothing, GradientEntry<kKind>(d, p, e, s, gradients[0].background, load));
    if constexpr (kKeep) entry = hn::IfThenElse(kept, x, entry);
    StoreLanes(entry, d, dx + c * columns.stride);
  }
}

template <typename T>
void ScatterAllColumns(const T* x, int64_t stride, int64_t num_classes, int64_t count, const Gradient<T>* gradients,
                       T* dx) {
  const hn::ScalableTag<T> d;
  WithKind(KindOf(gradients[0].background), [&](auto kind) HWY_ATTR {
    constexpr BackgroundKind kKind = decltype(kind)::value;
    ForEachVector(d, count, [&](int64_t first, size_t n) HWY_ATTR {
      const Columns<T> columns{x + first, stride, num_classes};
      const Gradient<T>* const g = gradients + first;
      if (HWY_LIKELY(std::all_of(g, g + n, [](const auto& row) { return FitsIn(row); }))) {
        return ScatterColumns<kKind, false>(d, columns, n, g, dx + first);
      }
      ScatterColumns<kKind, true>(d, columns, n, g, dx + first);
      for (size_t r = 0; r < n; ++r) {
        if (!FitsIn(g[r])) ScatterInDouble(columns.x + r, stride, 0, num_classes, g[r], dx + first + r);
      }
    });
  });
}

// ---- plain cross-entropy ----

// What a tile is decided from, and what comes of it; all by row.
template <typename T>
struct PlainRows {
  HWY_ALIGN_MAX double others[kMaxPlainRows];
  HWY_ALIGN_MAX double factors[kMaxPlainRows];
  HWY_ALIGN_MAX double max[kMaxPlainRows];
  HWY_ALIGN_MAX double logits[kMaxPlainRows];    // x_y
  HWY_ALIGN_MAX double p_scales[kMaxPlainRows];  // before the factor
  HWY_ALIGN_MAX double points[kMaxPlainRows];    // the gradient at y
};

// The sums of the vector of rows from `first` on, as ReduceColumns(); false for a maximum of +inf, where that looks
// closer. With a gradient, x becomes ScaledExp().
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE bool ReducePlain(D d, const PlainTile<T>& tile, size_t first, PlainRows<T>& rows) {
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  const auto infinity = hn::Set(d, std::numeric_limits<T>::infinity());
  const Columns<T> columns{tile.x + first, tile.stride, tile.num_classes};
  const LaneMax<D> top = MaxOfLanes(d, columns);
  const auto origin = OriginOf(d, top.reference);
  FactorsOf(d, top.reference, origin, rows.factors + first);
  InDouble(d, top.max, [&](size_t lane, const auto max) HWY_ATTR {
    hn::Store(max, hn::DFromV<decltype(max)>(), rows.max + first + lane);
  });
  for (size_t r = first; r < first + hn::Lanes(d); ++r) {
    rows.logits[r] = static_cast<double>(tile.x[tile.targets[r] * tile.stride + static_cast<int64_t>(r)]);
    rows.others[r] = 0;
  }
  SumColumns<BackgroundKind::kNone>(d, columns, top, origin, {}, {rows.others + first},
                                    [&](int64_t c, const auto& e) HWY_ATTR {
                                      if (tile.gradient) StoreLanes(e.value, d, tile.x + first + c * tile.stride);
                                    });
  if (tile.predicted != nullptr) {
    HWY_ALIGN_MAX TI argmax[hn::MaxLanes(D())];
    hn::Store(top.argmax, di, argmax);
    for (size_t r = 0; r < hn::Lanes(d); ++r) {
      tile.predicted[first + r] = std::isnan(rows.others[first + r]) ? -1 : std::max<int64_t>(argmax[r], 0);
    }
  }
  return hn::AllFalse(d, hn::Eq(top.max, infinity));
}

// Decide() and the gradient's coefficients, of the whole tile. Additions of 0 keep -0 out, as the sums of decide.h do.
template <typename T>
HWY_INLINE void DecidePlain(const PlainTile<T>& tile, PlainRows<T>& rows) {
  const hn::ScalableTag<double> d;
  const auto one = hn::Set(d, 1.0), zero = hn::Zero(d), scale = hn::Set(d, tile.gradient_scale);
  const auto infinity = hn::Set(d, std::numeric_limits<double>::infinity());
  const auto nan = hn::Set(d, std::numeric_limits<double>::quiet_NaN());
  const auto dust = hn::Set(d, DustOf<T>(tile.num_classes));
  const auto origin = OriginOf(d, zero);
  for (int64_t r = 0; r < tile.count; r += static_cast<int64_t>(hn::Lanes(d))) {
    const auto max = hn::Load(d, rows.max + r), mass = hn::Add(zero, hn::LoadU(d, tile.masses + r));
    const auto factor = hn::Load(d, rows.factors + r);
    const auto sum = WithoutDrift<T>(d, hn::Mul(hn::Load(d, rows.others + r), factor), tile.num_classes);
    const auto others = hn::IfThenElse(hn::Lt(hn::Abs(max), infinity), hn::IfThenZeroElse(hn::Le(sum, dust), sum), nan);
    const auto z = hn::Sub(hn::Load(d, rows.logits + r), max);
    const auto log_p = hn::Sub(z, Log1p(d, others));
    const auto nothing = hn::And(hn::Eq(mass, zero), hn::Eq(hn::Abs(log_p), infinity));
    const auto loss = hn::Add(zero, hn::Mul(mass, hn::Neg(log_p)));
    hn::StoreU(hn::IfThenZeroElse(nothing, loss), d, tile.losses + r);
    if (!tile.gradient) continue;
    const auto exp = hn::Mul(ScaledExp(d, z, origin), hn::Set(d, ExpConstants<double>::kUnscale));
    const auto denominator = hn::Add(one, others);
    const auto rest = hn::IfThenElse(hn::Eq(exp, one), others, hn::Sub(denominator, exp));
    hn::Store(hn::Div(hn::Mul(scale, mass), denominator), d, rows.p_scales + r);
    hn::Store(hn::Mul(scale, hn::Sub(zero, hn::Mul(mass, hn::Div(rest, denominator)))), d, rows.points + r);
  }
}

// The gradient, over ScaledExp().
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE void ScatterPlain(D d, const PlainTile<T>& tile, size_t first, const PlainRows<T>& rows) {
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  constexpr size_t kMaxLanes = hn::MaxLanes(D());
  HWY_ALIGN_MAX T scales[kMaxLanes], points[kMaxLanes];
  HWY_ALIGN_MAX TI targets[kMaxLanes];
  HWY_ALIGN_MAX T counts[kMaxLanes];
  for (size_t r = 0; r < hn::Lanes(d); ++r) {
    scales[r] = static_cast<T>(rows.p_scales[first + r] * rows.factors[first + r]);
    points[r] = static_cast<T>(rows.points[first + r]);
    targets[r] = static_cast<TI>(tile.targets[first + r]);
    counts[r] = tile.ignored[first + r] ? T{0} : T{1};
  }
  const auto scale = hn::Load(d, scales), point = hn::Load(d, points);
  const auto target = hn::Load(di, targets);
  const auto ignored = hn::Eq(hn::Load(d, counts), hn::Zero(d));
  for (int64_t c = 0; c < tile.num_classes; ++c) {
    T* const x = tile.x + first + c * tile.stride;
    const auto here = hn::RebindMask(d, hn::Eq(target, hn::Set(di, static_cast<TI>(c))));
    const auto entry = hn::IfThenElse(here, point, hn::Mul(scale, LoadLanes(d, x)));
    StoreLanes(hn::IfThenZeroElse(ignored, entry), d, x);
  }
}

// Copies the next tile, a share with each vector of this one. Classes lie far apart, each a stream for a moment, and
// often so that they meet in the same few sets of the caches: so they are copied, and only a few classes are fetched
// ahead.
template <class D, typename T = hn::TFromD<D>>
class NextTile {
 public:
  HWY_INLINE NextTile(D d, const PlainTile<T>& tile) : d_(d), tile_(tile) {}

  HWY_INLINE void CopyShare() {
    if (tile_.next == nullptr) return;
    for (int64_t i = 0; i < tile_.num_classes; ++i) {
      constexpr int64_t kClasses = 4;
      const T* const from = tile_.next + class_ * tile_.next_stride + row_;
      const bool last = class_ + kClasses >= tile_.num_classes;  // what is ahead is of the tile after
      hwy::Prefetch(last ? from + (kClasses - tile_.num_classes) * tile_.next_stride + tile_.stride
                         : from + kClasses * tile_.next_stride);
      hn::StoreU(hn::LoadU(d_, from), d_, tile_.copy + class_ * tile_.stride + row_);
      row_ += static_cast<int64_t>(hn::Lanes(d_));
      if (row_ < tile_.stride) continue;
      row_ = 0;
      ++class_;
    }
  }

 private:
  D d_;
  const PlainTile<T>& tile_;
  int64_t class_ = 0, row_ = 0;
};

template <typename T>
bool EvaluatePlainTile(const PlainTile<T>& tile) {
  const hn::ScalableTag<T> d;
  PlainRows<T> rows;
  NextTile next(d, tile);
  bool fits = true;
  ForEachVector(d, tile.count, [&](int64_t first, size_t) HWY_ATTR {
    fits = ReducePlain(d, tile, static_cast<size_t>(first), rows) && fits;
    next.CopyShare();
  });
  if (!fits) return false;
  DecidePlain(tile, rows);
  if (!tile.gradient) return true;
  for (int64_t r = 0; r < tile.count; ++r) fits = fits && (tile.ignored[r] || FitsIn<T>(rows.p_scales[r]));
  if (!fits) return false;
  ForEachVector(d, tile.count,
                [&](int64_t first, size_t) HWY_ATTR { ScatterPlain(d, tile, static_cast<size_t>(first), rows); });
  return true;
}

template <typename T>
ColumnKernels<T> MakeColumnKernels() {
  return {ReduceAllColumns<T>, ScatterAllColumns<T>, EvaluatePlainTile<T>, RowsToColumns<T>, ColumnsToRows<T>};
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_COLUMN_INL_H_
