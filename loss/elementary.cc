#include "loss/elementary.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/elementary.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#include <cmath>

#include "loss/exp-inl.h"
#include "loss/lanes-inl.h"
#include "loss/log-inl.h"
#include "loss/row-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// y_i = function(d, x_i).
template <class Function>
HWY_INLINE void MapDoubles(const double* x, int64_t n, double* y, const Function& function) {
  const hn::ScalableTag<double> d;
  const auto map = [&](const auto& load) HWY_ATTR { return function(d, load(x)); };
  MapRow(d, static_cast<size_t>(n), map, {}, y);
}

void ExpEach(const double* x, int64_t n, double* y) {
  MapDoubles(x, n, y, [](auto d, auto v) HWY_ATTR { return ExpOfNegative(d, v); });
}
void LogEach(const double* x, int64_t n, double* y) {
  MapDoubles(x, n, y, [](auto d, auto v) HWY_ATTR { return Log(d, v); });
}
void Log1pEach(const double* x, int64_t n, double* y) {
  MapDoubles(x, n, y, [](auto d, auto v) HWY_ATTR { return Log1p(d, v); });
}

IndexCounts CountAll(const int64_t* indices, int64_t n, int64_t ignore_index, int64_t num_classes) {
  const hn::ScalableTag<int64_t> d;
  const auto size = static_cast<size_t>(n), lanes = hn::Lanes(d);
  const auto ignore = hn::Set(d, ignore_index), limit = hn::Set(d, num_classes), zero = hn::Zero(d);
  auto ignored = zero, outside = zero;  // less one each time: a mask is -1
  const auto count = [&](const int64_t* from) HWY_ATTR {
    const auto v = hn::LoadU(d, from);
    const auto is_ignored = hn::VecFromMask(d, hn::Eq(v, ignore));
    const auto is_inside = hn::VecFromMask(d, hn::And(hn::Lt(v, limit), hn::Not(hn::Lt(v, zero))));
    ignored = hn::Add(ignored, is_ignored);
    outside = hn::Add(outside, hn::Not(hn::Or(is_ignored, is_inside)));
  };
  size_t i = 0;
  for (; i + kUnroll * lanes <= size; i += kUnroll * lanes) {
    FetchAhead<kUnroll * hn::MaxLanes(d) * sizeof(int64_t)>(indices + i);
    for (size_t k = 0; k < kUnroll; ++k) count(indices + i + k * lanes);
  }
  for (; i + lanes <= size; i += lanes) count(indices + i);
  HWY_ALIGN_MAX int64_t lane[2][hn::MaxLanes(d)];
  hn::Store(ignored, d, lane[0]);
  hn::Store(outside, d, lane[1]);
  IndexCounts counts;
  for (size_t l = 0; l < lanes; ++l) {
    counts.ignored -= lane[0][l];
    counts.outside -= lane[1][l];
  }
  for (; i < size; ++i) {
    const auto v = LoadElement<int64_t>(indices, static_cast<int64_t>(i));
    const bool is_ignored = v == ignore_index;
    counts.ignored += is_ignored;
    counts.outside += !is_ignored && (v < 0 || v >= num_classes);
  }
  return counts;
}

void NarrowAll(const int64_t* indices, int64_t n, int64_t ignore_index, int32_t* targets) {
  const hn::ScalableTag<int64_t> d;
  const hn::RebindToUnsigned<decltype(d)> du;
  const hn::Rebind<uint32_t, decltype(d)> du32;
  const hn::Rebind<int32_t, decltype(d)> d32;
  const auto ignore = hn::Set(d, ignore_index), none = hn::Set(d, int64_t{-1});
  const auto size = static_cast<size_t>(n), lanes = hn::Lanes(d);
  size_t i = 0;
  for (; i + lanes <= size; i += lanes) {
    const auto v = hn::LoadU(d, indices + i);
    const auto target = hn::IfThenElse(hn::Eq(v, ignore), none, v);
    hn::StoreU(hn::BitCast(d32, hn::TruncateTo(du32, hn::BitCast(du, target))), d32, targets + i);
  }
  for (; i < size; ++i) {
    const auto v = LoadElement<int64_t>(indices, static_cast<int64_t>(i));
    targets[i] = v == ignore_index ? -1 : static_cast<int32_t>(v);
  }
}

int64_t AddTurns(const double* x, int64_t n, double scale, double limit, double* sums) {
  const hn::CappedTag<double, kTurns> d;
  constexpr size_t kLanes = hn::MaxLanes(d), kVectors = kTurns / kLanes;
  const auto size = static_cast<size_t>(n);
  hn::Vec<decltype(d)> sum[kVectors];
  for (size_t k = 0; k < kVectors; ++k) sum[k] = hn::LoadU(d, sums + k * kLanes);
  size_t below = 0, i = 0;
  for (; i + kTurns <= size; i += kTurns) {
    for (size_t k = 0; k < kVectors; ++k) {
      const auto term = hn::Mul(hn::LoadU(d, x + i + k * kLanes), hn::Set(d, scale));
      sum[k] = hn::Add(sum[k], term);
      below += hn::CountTrue(d, hn::Lt(hn::Abs(term), hn::Set(d, limit)));
    }
  }
  for (size_t k = 0; k < kVectors; ++k) hn::StoreU(sum[k], d, sums + k * kLanes);
  for (; i < size; ++i) {
    const double term = x[i] * scale;
    sums[i % kTurns] += term;
    below += std::fabs(term) < limit ? 1 : 0;
  }
  return n - static_cast<int64_t>(below);
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd {

HWY_EXPORT(ExpEach);
HWY_EXPORT(LogEach);
HWY_EXPORT(Log1pEach);
HWY_EXPORT(CountAll);
HWY_EXPORT(NarrowAll);
HWY_EXPORT(AddTurns);

void ExpAll(const double* x, int64_t size, double* y) { HWY_DYNAMIC_DISPATCH(ExpEach)(x, size, y); }
void LogAll(const double* x, int64_t size, double* y) { HWY_DYNAMIC_DISPATCH(LogEach)(x, size, y); }
void Log1pAll(const double* x, int64_t size, double* y) { HWY_DYNAMIC_DISPATCH(Log1pEach)(x, size, y); }

IndexCounts CountIndices(const int64_t* indices, int64_t size, int64_t ignore_index, int64_t num_classes) {
  return HWY_DYNAMIC_DISPATCH(CountAll)(indices, size, ignore_index, num_classes);
}

void NarrowIndices(const int64_t* indices, int64_t size, int64_t ignore_index, int32_t* targets) {
  HWY_DYNAMIC_DISPATCH(NarrowAll)(indices, size, ignore_index, targets);
}

int64_t AddInTurns(const double* x, int64_t size, double scale, double limit, double* sums) {
  return HWY_DYNAMIC_DISPATCH(AddTurns)(x, size, scale, limit, sums);
}

}  // namespace lossd
#endif  // HWY_ONCE
