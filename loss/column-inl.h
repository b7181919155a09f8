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
#include "loss/row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

inline constexpr int64_t kTermsInT = 32;

// Rows [first, first + count) of logits as in column.h, no more of them than a vector has lanes.
template <typename S>
struct Columns {
  const S* x;
  int64_t stride;
  int64_t num_classes;
  size_t count;

  template <class D>
  HWY_INLINE hn::Vec<D> Load(D d, int64_t c) const {
    const S* p = x + c * stride;
    return count == hn::Lanes(d) ? LoadLanes(d, p) : LoadTail(d, p, count);
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

template <class D, typename S>
HWY_INLINE LaneMax<D> MaxOfLanes(D d, const Columns<S>& columns) {
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  const size_t ahead = 8 * hn::Lanes(d);
  LaneMax<D> result{hn::Set(d, -std::numeric_limits<hn::TFromD<D>>::infinity()), hn::Set(di, TI{-1})};
  for (int64_t c = 0; c < columns.num_classes; ++c) {
    hwy::Prefetch(columns.x + c * columns.stride + ahead);
    const auto x = columns.Load(d, c);
    const auto raised = hn::Gt(x, result.max);  // never for NaN
    result.max = hn::IfThenElse(raised, x, result.max);
    result.argmax = hn::IfThenElse(hn::RebindMask(di, raised), hn::Set(di, static_cast<TI>(c)), result.argmax);
  }
  return result;
}

template <BackgroundKind kKind, class D, typename S, typename T = hn::TFromD<D>>
HWY_INLINE void ReduceColumns(D d, const Columns<S>& columns, const Background<T>& b, RowSums* sums) {
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
      if (std::isnan(ToDouble(LoadElement<S>(columns.x, c * columns.stride + static_cast<int64_t>(r))))) {
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

template <typename S>
void ReduceAllColumns(const S* x, int64_t stride, int64_t num_classes, int64_t count,
                      const Background<ComputeType<S>>& background, RowSums* sums) {
  const hn::ScalableTag<ComputeType<S>> d;
  WithKind(KindOf(background), [&](auto kind) HWY_ATTR {
    ForEachVector(d, count, [&](int64_t first, size_t n) HWY_ATTR {
      ReduceColumns<decltype(kind)::value>(d, Columns<S>{x + first, stride, num_classes, n}, background, sums + first);
    });
  });
}

// The gradients of one vector of rows.
template <BackgroundKind kKind, class D, typename S, typename G, typename T = hn::TFromD<D>>
HWY_INLINE void ScatterColumns(D d, const Columns<S>& columns, const Gradient<T>* gradients, G* dx) {
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
    G* const out = dx + c * columns.stride;
    if (columns.count == hn::Lanes(d)) {
      StoreLanes(hn::IfThenZeroElse(nothing, entry), d, out);
    } else {
      StoreTail(hn::IfThenZeroElse(nothing, entry), d, out, columns.count);
    }
  }
}

template <typename S, typename G>
void ScatterAllColumns(const S* x, int64_t stride, int64_t num_classes, int64_t count,
                       const Gradient<ComputeType<S>>* gradients, G* dx) {
  const hn::ScalableTag<ComputeType<S>> d;
  WithKind(KindOf(gradients[0].background), [&](auto kind) HWY_ATTR {
    constexpr BackgroundKind kKind = decltype(kind)::value;
    ForEachVector(d, count, [&](int64_t first, size_t n) HWY_ATTR {
      const auto* const g = gradients + first;
      if (HWY_LIKELY(std::all_of(g, g + n, [](const auto& row) { return FitsIn(row); }))) {
        return ScatterColumns<kKind>(d, Columns<S>{x + first, stride, num_classes, n}, g, dx + first);
      }
      for (size_t r = 0; r < n; ++r) {  // x may be dx, and no row may depend on its neighbours: one at a time
        const int64_t row = first + static_cast<int64_t>(r);
        if (FitsIn(gradients[row])) {
          ScatterColumns<kKind>(d, Columns<S>{x + row, stride, num_classes, 1}, gradients + row, dx + row);
        } else {
          ScatterInDouble(x + row, stride, num_classes, gradients[row], dx + row);
        }
      }
    });
  });
}

template <typename S>
ColumnKernels<S> MakeColumnKernels() {
  return {ReduceAllColumns<S>, ScatterAllColumns<S, S>, ScatterAllColumns<S, ComputeType<S>>};
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_COLUMN_INL_H_
