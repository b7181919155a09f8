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
#include "loss/plain-inl.h"
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

template <class DD>
HWY_INLINE hn::Vec<DD> ToDoubles(DD, hn::Vec<DD> v) {
  return v;
}
template <class DD>
HWY_INLINE hn::Vec<DD> ToDoubles(DD dd, hn::Vec<hn::Rebind<float, DD>> v) {
  return hn::PromoteTo(dd, v);
}

template <class DI>
HWY_INLINE hn::Vec<DI> Widen(DI di, hn::Vec<hn::Rebind<int32_t, DI>> v) {
  if constexpr (sizeof(hn::TFromD<DI>) == 4)
    return v;
  else
    return hn::PromoteTo(di, v);
}

// As T, one rounding away; to p, which is aligned.
template <class DD, typename T>
HWY_INLINE void StoreDoubles([[maybe_unused]] DD dd, hn::Vec<DD> v, T* p) {
#if HWY_TARGET == HWY_SCALAR  // whose DemoteTo() makes infinity a number
  *p = static_cast<T>(hn::GetLane(v));
#else
  if constexpr (sizeof(T) == sizeof(double)) {
    hn::Store(v, dd, p);
  } else {
    const hn::Rebind<T, DD> d;
    hn::Store(hn::DemoteTo(d, v), d, p);
  }
#endif
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

// What OriginFactor() takes, of many rows.
template <typename T>
struct Origins {
  HWY_ALIGN_MAX T bases[kMaxPlainRows];
  HWY_ALIGN_MAX T shifts[kMaxPlainRows];

  template <class D>
  HWY_INLINE void Store(D d, hn::Vec<D> max, const ExpOrigin<hn::Vec<D>>& origin, size_t r) {
    hn::Store(hn::Sub(max, origin.offset), d, bases + r);
    hn::Store(origin.shift, d, shifts + r);
  }

  // The factors of the rows from r on, the scale undone: what a sum of ScaledExp() is multiplied by.
  template <class DD>
  HWY_INLINE hn::Vec<DD> FactorsAt(DD dd, size_t r) const {
    const hn::Rebind<T, DD> d;
    const auto load = [&](const T* of) HWY_ATTR { return ToDoubles(dd, hn::Load(d, of + r)); };
    return hn::Mul(OriginFactor<T>(dd, load(bases), load(shifts)), hn::Set(dd, ExpConstants<T>::kUnscale));
  }
};

// The same of a vector of rows, one after the other.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE void FactorsOf(D d, hn::Vec<D> max, const ExpOrigin<hn::Vec<D>>& origin, double* factors) {
  const hn::ScalableTag<double> dd;
  Origins<T> origins;
  origins.Store(d, max, origin, 0);
  for (size_t r = 0; r < hn::Lanes(d); r += hn::Lanes(dd)) hn::Store(origins.FactorsAt(dd, r), dd, factors + r);
}

// The largest logit of each lane and, if asked for, its first class: -1 where there is nothing above -inf.
template <class D>
struct LaneMax {
  hn::Vec<D> max;
  hn::Vec<D> reference;  // of the exponentials: the max, or 0 where that is infinite
  hn::Vec<hn::RebindToSigned<D>> argmax;
};

// Finds it, class by class.
template <bool kArgmax, class D>
class LaneMaxFinder {
  using DI = hn::RebindToSigned<D>;
  using T = hn::TFromD<D>;
  using TI = hn::TFromD<DI>;
  using V = hn::Vec<D>;

 public:
  HWY_INLINE explicit LaneMaxFinder(D d)
      : d_(d), max_(hn::Set(d, -std::numeric_limits<T>::infinity())), argmax_(hn::Set(DI(), TI{-1})) {}

  HWY_INLINE void Add(V x, int64_t c) {
    if constexpr (kArgmax) {
      const auto raised = hn::RebindMask(DI(), hn::Gt(x, max_));  // never for NaN
      argmax_ = hn::IfThenElse(raised, hn::Set(DI(), static_cast<TI>(c)), argmax_);
    }
#if HWY_TARGET == HWY_SCALAR
    max_ = hn::IfThenElse(hn::Gt(x, max_), x, max_);
#else
    max_ = hn::Max(x, max_);  // where x is NaN, x86 keeps the other
#endif
  }

  HWY_INLINE LaneMax<D> Get() const {
    const auto infinity = hn::Set(d_, std::numeric_limits<T>::infinity());
    return {max_, hn::IfThenElseZero(hn::Lt(hn::Abs(max_), infinity), max_), argmax_};
  }

 private:
  D d_;
  V max_;
  hn::Vec<DI> argmax_;
};

template <bool kArgmax, class D, typename T = hn::TFromD<D>>
HWY_INLINE LaneMax<D> MaxOfLanes(D d, const Columns<T>& columns) {
  LaneMaxFinder<kArgmax, D> finder(d);
  for (int64_t c = 0; c < columns.num_classes; ++c) finder.Add(columns.Load(d, c), c);
  return finder.Get();
}

// Sums by lane. Exponentials are relative to LaneMax::reference and over OriginFactor(); the largest is not among them,
// and what equals it is counted: the sum is others * factor + ties.
template <typename T>
struct LaneSums {
  double* others;
  T* ties;
  double* dot = nullptr;  // sum t_j z_j of the background, over BackgroundScale(), if finite; not touched without one
};

// Adds the classes up; store(c, e) gets the ScaledExpParts() of each. kOffset: not all of the origin's are 0.
template <BackgroundKind kKind, bool kOffset, class D, class Store, typename T = hn::TFromD<D>>
HWY_INLINE void SumColumns(D d, const Columns<T>& columns, const LaneMax<D>& top, const ExpOrigin<hn::Vec<D>>& origin,
                           const Background<T>& b, const LaneSums<T>& sums, const Store& store) {
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  auto recent = hn::Zero(d);
  auto ties = hn::Set(di, TI{-1});
  BackgroundSums<kKind, D> background(d);
  for (int64_t c = 0; c < columns.num_classes; ++c) {
    const auto x = columns.Load(d, c);
    const auto e = ScaledExpParts(d, kOffset ? hn::Sub(x, origin.offset) : x, origin);
    const auto is_max = hn::Eq(x, top.max);
    ties = hn::IfThenElse(hn::RebindMask(di, is_max), hn::Add(ties, hn::Set(di, TI{1})), ties);
    recent = hn::MulAdd(e.fraction, hn::IfThenZeroElse(is_max, e.power), recent);
    if constexpr (kKind != BackgroundKind::kNone) {
      const auto load = [&](const T* p) HWY_ATTR { return hn::Set(d, LoadElement<T>(p, c)); };
      const hn::Vec<D> z[] = {hn::Sub(x, top.reference)}, t[] = {BackgroundAt<kKind>(d, b, load)};
      const bool has_mass = kKind == BackgroundKind::kUniform || LoadElement<T>(b.weights, c) != 0;
      if (HWY_LIKELY(has_mass)) background.AddOrdinary(z, t);  // 0 * inf = 0
    }
    store(c, e);
    if ((c + 1) % static_cast<int64_t>(kTerms) != 0 && c + 1 != columns.num_classes) continue;
    Flush(d, recent, sums.others);
    if constexpr (kKind != BackgroundKind::kNone) Flush(d, background.dot, sums.dot);
  }
  hn::Store(hn::ConvertTo(d, ties), d, sums.ties);
}
template <BackgroundKind kKind, class D, class Store, typename T = hn::TFromD<D>>
HWY_INLINE void SumColumns(D d, const Columns<T>& columns, const LaneMax<D>& top, const ExpOrigin<hn::Vec<D>>& origin,
                           const Background<T>& b, const LaneSums<T>& sums, const Store& store) {
  if (HWY_LIKELY(hn::AllTrue(d, hn::Eq(origin.offset, hn::Zero(d))))) {
    SumColumns<kKind, false>(d, columns, top, origin, b, sums, store);
  } else {
    SumColumns<kKind, true>(d, columns, top, origin, b, sums, store);
  }
}

// RowSums::background_dot of rows, from LaneSums::dot: where that is not finite, one term at a time, where nothing is
// too large nor too small.
template <typename T>
void FinishDots(const Columns<T>& columns, const Background<T>& b, const double* dot, size_t count, RowSums* rows) {
  const double scale = BackgroundScale(b);
  for (size_t r = 0; r < count; ++r) {
    RowSums& row = rows[r];
    row.background_dot = scale * dot[r];
    if (HWY_LIKELY(std::isfinite(row.background_dot)) || std::isnan(row.others)) continue;
    const double reference = std::isinf(row.max) ? 0 : row.max;
    row.background_dot =
        SumBackgroundSlowly(columns.x + r, columns.stride, 0, columns.num_classes, reference, b, Untempered<T>())
            .background_dot;
  }
}

template <BackgroundKind kKind, class D, typename T = hn::TFromD<D>>
HWY_INLINE void ReduceColumns(D d, const Columns<T>& columns, const Background<T>& b, double background_mass,
                              size_t count, RowSums* sums) {
  constexpr T kInfinity = std::numeric_limits<T>::infinity();
  constexpr size_t kMaxLanes = hn::MaxLanes(D());
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  const LaneMax<D> top = MaxOfLanes<true>(d, columns);
  HWY_ALIGN_MAX double others[kMaxLanes] = {}, dot[kMaxLanes] = {};
  HWY_ALIGN_MAX T ties[kMaxLanes];
  const auto origin = OriginOf(d, top.reference);
  SumColumns<kKind>(d, columns, top, origin, b, {others, ties, dot}, [](int64_t, auto) {});

  HWY_ALIGN_MAX double factor[kMaxLanes];
  HWY_ALIGN_MAX T max[kMaxLanes];
  HWY_ALIGN_MAX TI argmax[kMaxLanes];
  FactorsOf(d, top.reference, origin, factor);
  hn::Store(top.max, d, max);
  hn::Store(top.argmax, di, argmax);
  for (size_t r = 0; r < count; ++r) {
    const double sum = WithoutDrift<T>(others[r] * factor[r], columns.num_classes);
    sums[r] = {static_cast<double>(max[r]), WithoutDust<T>(sum, columns.num_classes) + static_cast<double>(ties[r]),
               std::max<int64_t>(argmax[r], 0), background_mass};
    if (max[r] != kInfinity) continue;
    sums[r].others = 0;  // the loss will be NaN; what is left to say is whether the row has NaN
    for (int64_t c = 0; c < columns.num_classes; ++c) {
      if (std::isnan(columns.x[c * columns.stride + static_cast<int64_t>(r)])) {
        sums[r].others = std::numeric_limits<double>::quiet_NaN();
      }
    }
  }
  if constexpr (kKind != BackgroundKind::kNone) FinishDots(columns, b, dot, count, sums);
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
  WithKindOfClasses(KindOf(background), [&](auto kind) HWY_ATTR {
    constexpr BackgroundKind kKind = decltype(kind)::value;
    const double mass = kKind == BackgroundKind::kNone ? 0 : BackgroundMass(background, num_classes);
    ForEachVector(d, count, [&](int64_t first, size_t n) HWY_ATTR {
      ReduceColumns<kKind>(d, Columns<T>{x + first, stride, num_classes}, background, mass, n, sums + first);
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
  const auto all_nan = hn::IsNaN(p);  // and all the same one, whichever the row has
  for (int64_t c = 0; c < columns.num_classes; ++c) {
    const auto load = [&](const T* row) HWY_ATTR { return hn::Set(d, LoadElement<T>(row, c)); };
    const auto x = columns.Load(d, c);
    const auto e = ScaledExp(d, hn::Sub(x, origin.offset), origin);
    auto entry = hn::IfThenZeroElse(nothing, GradientEntry<kKind>(d, p, e, s, gradients[0].background, load));
    entry = hn::IfThenElse(all_nan, p, entry);
    if constexpr (kKeep) entry = hn::IfThenElse(kept, x, entry);
    StoreLanes(entry, d, dx + c * columns.stride);
  }
}

template <typename T>
void ScatterAllColumns(const T* x, int64_t stride, int64_t num_classes, int64_t count, const Gradient<T>* gradients,
                       T* dx) {
  const hn::ScalableTag<T> d;
  WithKindOfClasses(KindOf(gradients[0].background), [&](auto kind) HWY_ATTR {
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

// ---- plain rows ----

// What a tile is decided from, and what comes of it; all by row.
template <typename T>
struct TileRows {
  HWY_ALIGN_MAX double others[kMaxPlainRows];
  HWY_ALIGN_MAX double dots[kMaxPlainRows];
  HWY_ALIGN_MAX T ties[kMaxPlainRows];
  HWY_ALIGN_MAX T max[kMaxPlainRows];
  Origins<T> origins;
  HWY_ALIGN_MAX T logits[kMaxPlainRows];    // x_y
  HWY_ALIGN_MAX T p_scales[kMaxPlainRows];  // of ScaledExp()
  HWY_ALIGN_MAX T t_scales[kMaxPlainRows];  // BackgroundCoefficient()
  HWY_ALIGN_MAX T points[kMaxPlainRows];    // the gradient at y

  // Rows that are decided with others, and that there are not.
  void Clear(size_t begin, size_t end) {
    for (double* array : {others, dots}) std::fill(array + begin, array + end, 0);
    for (T* array : {ties, max, origins.bases, origins.shifts, logits}) std::fill(array + begin, array + end, T{0});
  }
};

// Copies the next tile, a vector for each one of this tile that is added up. Classes lie far apart, each a stream for a
// moment, and often so that they meet in the same few sets of the caches: so they are copied, and only a few classes
// are fetched ahead.
template <class D, typename T = hn::TFromD<D>>
class NextTile {
 public:
  HWY_INLINE NextTile(D d, const PlainTile<T>& tile) : d_(d), tile_(tile) {
    if (tile_.next != nullptr) GoTo(0);
  }

  HWY_INLINE void CopyVector() {
    if (from_ == end_) return;
    FetchToL2(reinterpret_cast<const void*>(reinterpret_cast<uintptr_t>(from_) + ahead_));
    hn::StoreU(hn::LoadU(d_, from_), d_, to_);
    from_ += hn::Lanes(d_);
    to_ += hn::Lanes(d_);
    if (HWY_UNLIKELY(from_ == end_) && ++class_ < tile_.num_classes) GoTo(class_);
  }

 private:
  HWY_INLINE void GoTo(int64_t c) {
    const int64_t classes = std::min<int64_t>(8, tile_.num_classes);
    from_ = tile_.next + c * tile_.next_stride;
    end_ = from_ + tile_.stride;
    to_ = tile_.copy + c * tile_.stride;
    int64_t ahead = classes * tile_.next_stride;
    if (c + classes >= tile_.num_classes) {  // what is ahead is of the tile after
      ahead += tile_.stride - tile_.num_classes * tile_.next_stride;
    }
    ahead_ = static_cast<uintptr_t>(ahead) * sizeof(T);
  }

  D d_;
  const PlainTile<T>& tile_;
  int64_t class_ = 0;
  uintptr_t ahead_ = 0;  // bytes; may well be past the tensor
  const T* from_ = nullptr;
  const T* end_ = nullptr;
  T* to_ = nullptr;
};

// The sums of the vector of rows from `first` on, as ReduceColumns(); false for a maximum of +inf, where that looks
// closer. With a gradient, x becomes ScaledExp(). `maximum` is theirs, and becomes that of the next vector of the tile:
// it is a long chain of dependent operations, found while others are busy.
template <BackgroundKind kKind, bool kArgmax, bool kGradient, class D, typename T = hn::TFromD<D>>
HWY_INLINE bool ReducePlain(D d, const PlainTile<T>& tile, size_t first, LaneMax<D>& maximum, TileRows<T>& rows,
                            NextTile<D>& next) {
  const hn::RebindToSigned<D> di;
  using TI = hn::TFromD<decltype(di)>;
  const Columns<T> columns{tile.x + first, tile.stride, tile.num_classes};
  const LaneMax<D> top = maximum;
  const T* const after = columns.x + (first + hn::Lanes(d) < static_cast<size_t>(tile.stride) ? hn::Lanes(d) : 0);
  LaneMaxFinder<kArgmax, D> finder(d);
  hn::Store(top.max, d, rows.max + first);
  const auto origin = OriginOf(d, top.reference);
  rows.origins.Store(d, top.reference, origin, first);
  const auto target = Widen(di, hn::LoadU(hn::Rebind<int32_t, D>(), tile.targets.targets + first));
  const auto place =
      hn::Add(hn::Mul(hn::Max(target, hn::Zero(di)), hn::Set(di, static_cast<TI>(tile.stride))), hn::Iota(di, 0));
  hn::Store(hn::GatherIndex(d, columns.x, place), d, rows.logits + first);
  InDouble(d, hn::Zero(d), [&](size_t lane, const auto zero) HWY_ATTR {
    const hn::DFromV<decltype(zero)> dd;
    hn::Store(zero, dd, rows.others + first + lane);
    if constexpr (kKind != BackgroundKind::kNone) hn::Store(zero, dd, rows.dots + first + lane);
  });
  SumColumns<kKind>(d, columns, top, origin, tile.background,
                    {rows.others + first, rows.ties + first, rows.dots + first},
                    [&](int64_t c, const auto& e) HWY_ATTR {
                      if (kGradient) StoreLanes(e.value, d, tile.x + first + c * tile.stride);
                      finder.Add(LoadLanes(d, after + c * tile.stride), c);
                      next.CopyVector();
                    });
  maximum = finder.Get();
  if constexpr (kArgmax) {
    HWY_ALIGN_MAX TI argmax[hn::MaxLanes(D())];
    hn::Store(top.argmax, di, argmax);
    for (size_t r = 0; r < hn::Lanes(d); ++r) {
      tile.predicted[first + r] = std::isnan(rows.others[first + r]) ? -1 : std::max<int64_t>(argmax[r], 0);
    }
  }
  const auto infinite = hn::Eq(top.max, hn::Set(d, std::numeric_limits<T>::infinity()));
  const auto ignored = hn::RebindMask(d, hn::Lt(target, hn::Zero(di)));
  const bool reads_every_row = kArgmax || tile.targets.log_sum_exps != nullptr;
  return hn::AllFalse(d, reads_every_row ? infinite : hn::AndNot(ignored, infinite));
}

// Decides the rows from `first` on, kDecided vectors of doubles. False where LaneSums::dot of a row that counts is not
// finite, or a coefficient is NaN or not FitsIn().
template <bool kBackground, bool kGradient, bool kModified, typename T>
HWY_INLINE bool DecideTile(const PlainTile<T>& tile, TileRows<T>& rows, size_t first, double background_mass) {
  const hn::ScalableTag<double> d;
  const hn::Rebind<T, decltype(d)> dt;
  const hn::Rebind<int32_t, decltype(d)> di32;
  using V = hn::Vec<decltype(d)>;
  const V zero = hn::Zero(d), infinity = hn::Set(d, std::numeric_limits<double>::infinity());
  V factor[kDecided];
  bool fits = true;
  const auto load = [&](const T* p) HWY_ATTR { return ToDoubles(d, hn::Load(dt, p)); };
  const auto counts = [&](size_t r) HWY_ATTR {
    return hn::Ge(hn::PromoteTo(d, hn::LoadU(di32, tile.targets.targets + r)), zero);
  };
  const auto all_that_count = [&](size_t r, hn::Mask<decltype(d)> good)
                                  HWY_ATTR { return hn::AllFalse(d, hn::AndNot(good, counts(r))); };
  for (size_t k = 0; k < kDecided; ++k) factor[k] = rows.origins.FactorsAt(d, first + k * hn::Lanes(d));
  const auto sums = [&](size_t k, size_t r) HWY_ATTR -> PlainSums<V> {
    const V sum = WithoutDrift<T>(d, hn::Mul(hn::Load(d, rows.others + r), factor[k]), tile.num_classes);
    const V clean = hn::IfThenZeroElse(hn::Le(sum, hn::Set(d, DustOf<T>(tile.num_classes))), sum);
    const V max = load(rows.max + r);
    V dot = zero;
    if constexpr (kBackground) {
      dot = hn::Mul(hn::Set(d, tile.targets.background_scale), hn::Load(d, rows.dots + r));
      fits = fits && all_that_count(r, hn::Lt(hn::Abs(dot), infinity));
    }
    return {max, hn::Add(clean, load(rows.ties + r)), hn::Sub(load(rows.logits + r), max), hn::Set(d, background_mass),
            dot};
  };
  const auto store = [&](size_t k, size_t r, const auto& decision) HWY_ATTR {
    const V upstream = hn::LoadU(d, tile.targets.upstream + r);
    const V t_scale = kBackground ? hn::Mul(upstream, hn::Set(d, tile.targets.background_scale)) : upstream;
    StoreDoubles(d, t_scale, rows.t_scales + r);
    if constexpr (kBackground) fits = fits && all_that_count(r, BackgroundFitsIn<T>(d, t_scale));
    fits = fits && AllFitIn<T>(d, decision.p_scale);
    // As in ScatterColumns(), a scale of 0 leaves 0, never -0. Adding -0 changes nothing.
    const auto is_zero = hn::Eq(load(rows.t_scales + r), zero);
    const V sign_of_zero = hn::IfThenElse(is_zero, zero, hn::Set(d, -0.0));
    StoreDoubles(d, hn::Add(hn::Mul(decision.p_scale, factor[k]), sign_of_zero), rows.p_scales + r);
    StoreDoubles(d, decision.point, rows.points + r);
  };
  DecideVectors<kGradient, kBackground, kModified>(d, tile.targets, first, sums, store);
  return fits;
}

// Apart from the plain ones, which are inlined.
template <bool kBackground, bool kGradient, typename T>
HWY_NOINLINE bool DecideModified(const PlainTile<T>& tile, TileRows<T>& rows, size_t first, double background_mass) {
  return DecideTile<kBackground, kGradient, true>(tile, rows, first, background_mass);
}

// The gradient, from ScaledExp().
template <BackgroundKind kKind, bool kStream, class D, typename T = hn::TFromD<D>>
HWY_INLINE void ScatterPlain(D d, const PlainTile<T>& tile, const TileRows<T>& rows) {
  const hn::RebindToSigned<D> di;
  const hn::Rebind<int32_t, D> di32;
  using TI = hn::TFromD<decltype(di)>;
  const auto count = static_cast<size_t>(tile.count);
  const int32_t* const targets = tile.targets.targets;
  for (int64_t c = 0; c < tile.num_classes; ++c) {
    const auto load = [&](const T* p) HWY_ATTR { return hn::Set(d, LoadElement<T>(p, c)); };
    const auto here = hn::Set(di, static_cast<TI>(c));
    const T* const e = tile.x + c * tile.stride;
    T* const dx = tile.dx + c * tile.dx_stride;
    for (size_t r = 0; r < count; r += hn::Lanes(d)) {
      const auto target = Widen(di, hn::LoadU(di32, targets + r));
      const auto smooth = GradientEntry<kKind>(d, hn::Load(d, rows.p_scales + r), hn::LoadU(d, e + r),
                                               hn::Load(d, rows.t_scales + r), tile.background, load);
      const auto entry = hn::IfThenElse(hn::RebindMask(d, hn::Eq(target, here)), hn::Load(d, rows.points + r), smooth);
      const auto result = hn::IfThenZeroElse(hn::RebindMask(d, hn::Lt(target, hn::Zero(di))), entry);
      if constexpr (kStream) {
        hn::Stream(result, d, dx + r);
      } else {
        hn::StoreU(result, d, dx + r);
      }
    }
  }
}

template <BackgroundKind kKind, bool kArgmax, bool kGradient, typename T>
HWY_NOINLINE bool EvaluatePlain(const PlainTile<T>& whole) {
  const hn::ScalableTag<T> d;
  const PlainTile<T> tile = whole;  // which no store changes, nor what is not inlined
  constexpr bool kBackground = kKind != BackgroundKind::kNone;
  const double mass = kBackground ? BackgroundMass(tile.background, tile.num_classes) : 0;
  bool fits = true;
  TileRows<T> rows;
  NextTile next(d, tile);
  LaneMax<hn::ScalableTag<T>> maximum = MaxOfLanes<kArgmax>(d, Columns<T>{tile.x, tile.stride, tile.num_classes});
  const size_t count = static_cast<size_t>(tile.count), together = kDecided * hn::Lanes(hn::ScalableTag<double>());
  for (size_t first = 0; first < count; first += together) {
    const size_t end = std::min(first + together, static_cast<size_t>(tile.stride));
    for (size_t r = first; r < end; r += hn::Lanes(d)) {
      fits = ReducePlain<kKind, kArgmax, kGradient>(d, tile, r, maximum, rows, next) && fits;
    }
    if (end < first + together) rows.Clear(end, first + together);
    fits =
        (HWY_UNLIKELY(tile.targets.modifies()) ? DecideModified<kBackground, kGradient>(whole, rows, first, mass)
                                               : DecideTile<kBackground, kGradient, false>(tile, rows, first, mass)) &&
        fits;
  }
  if (!kGradient || !fits) return fits;
  if (tile.stream) {
    ScatterPlain<kKind, true>(d, tile, rows);
  } else {
    ScatterPlain<kKind, false>(d, tile, rows);
  }
  return true;
}

template <typename T>
bool EvaluatePlainTile(const PlainTile<T>& tile) {
  bool result = false;
  WithKindOfClasses(KindOf(tile.background), [&](auto kind) HWY_ATTR {
    constexpr BackgroundKind kKind = decltype(kind)::value;
    if (tile.predicted != nullptr) {
      result = tile.dx != nullptr ? EvaluatePlain<kKind, true, true>(tile) : EvaluatePlain<kKind, true, false>(tile);
    } else {
      result = tile.dx != nullptr ? EvaluatePlain<kKind, false, true>(tile) : EvaluatePlain<kKind, false, false>(tile);
    }
  });
  return result;
}

template <typename T>
ColumnKernels<T> MakeColumnKernels() {
  return {ReduceAllColumns<T>, ScatterAllColumns<T>, EvaluatePlainTile<T>, RowsToColumns<T>, ColumnsToRows<T>};
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_COLUMN_INL_H_
