// Short rows turned into columns and back, for one SIMD target: transposition in registers, a square of as many rows as
// classes fit 16 bytes at a time, as many squares at once as a vector has blocks of 16 bytes.

#if defined(LOSSD_LOSS_TURN_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_TURN_INL_H_
#undef LOSSD_LOSS_TURN_INL_H_
#else
#define LOSSD_LOSS_TURN_INL_H_
#endif

#include <hwy/highway.h>

#include <cstddef>
#include <cstdint>

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// Rows, and classes, of a square.
template <typename T>
inline constexpr size_t kSquare = 16 / sizeof(T);

// Block b of the vector is what lies at x + b * step.
template <class D, typename T = hn::TFromD<D>>
HWY_INLINE hn::Vec<D> LoadBlocks(D d, const T* x, [[maybe_unused]] size_t step) {
  if constexpr (hn::MaxLanes(D()) <= kSquare<T>) {
    return hn::LoadU(d, x);
#if HWY_TARGET != HWY_SCALAR
  } else {
    const hn::Half<D> half;
    const size_t blocks = hn::Lanes(half) / kSquare<T>;
    return hn::Combine(d, LoadBlocks(half, x + blocks * step, step), LoadBlocks(half, x, step));
#endif
  }
}

template <class D, typename T = hn::TFromD<D>>
HWY_INLINE void StoreBlocks(hn::Vec<D> v, D d, T* x, [[maybe_unused]] size_t step) {
  if constexpr (hn::MaxLanes(D()) <= kSquare<T>) {
    hn::StoreU(v, d, x);
#if HWY_TARGET != HWY_SCALAR
  } else {
    const hn::Half<D> half;
    const size_t blocks = hn::Lanes(half) / kSquare<T>;
    StoreBlocks(hn::LowerHalf(half, v), half, x, step);
    StoreBlocks(hn::UpperHalf(half, v), half, x + blocks * step, step);
#endif
  }
}

// Lane j of block b of v[k] changes places with lane k of block b of v[j].
template <class D, class V = hn::Vec<D>>
HWY_INLINE void TurnSquares(D d, V* v) {
#if HWY_TARGET == HWY_SCALAR  // a lane is no square
  (void)d, (void)v;
#else
  if constexpr (kSquare<hn::TFromD<D>> == 4) {
    const V even_low = hn::InterleaveLower(d, v[0], v[2]), even_high = hn::InterleaveUpper(d, v[0], v[2]);
    const V odd_low = hn::InterleaveLower(d, v[1], v[3]), odd_high = hn::InterleaveUpper(d, v[1], v[3]);
    v[0] = hn::InterleaveLower(d, even_low, odd_low);
    v[1] = hn::InterleaveUpper(d, even_low, odd_low);
    v[2] = hn::InterleaveLower(d, even_high, odd_high);
    v[3] = hn::InterleaveUpper(d, even_high, odd_high);
  } else {
    const V first = hn::InterleaveLower(d, v[0], v[1]);
    v[1] = hn::InterleaveUpper(d, v[0], v[1]);
    v[0] = first;
  }
#endif
}

// Calls visit(first row, first class) for groups of Lanes(d) rows and kSquare classes, and one(row, class) for what is
// left. The last group of classes may overlap with the one before.
template <class D, class Visit, class One>
HWY_INLINE void ForEachSquare(D d, int64_t num_classes, int64_t count, const Visit& visit, const One& one) {
  constexpr auto kSide = static_cast<int64_t>(kSquare<hn::TFromD<D>>);
  const auto lanes = static_cast<int64_t>(hn::Lanes(d));
  int64_t row = 0;
  for (; lanes >= kSide && num_classes >= kSide && row + lanes <= count; row += lanes) {
    int64_t c = 0;
    for (; c + kSide <= num_classes; c += kSide) visit(row, c);
    if (c < num_classes) visit(row, num_classes - kSide);
  }
  for (; row < count; ++row) {
    for (int64_t c = 0; c < num_classes; ++c) one(row, c);
  }
}

template <typename T>
void RowsToColumns(const T* rows, int64_t num_classes, int64_t count, int64_t stride, T* columns) {
  const hn::ScalableTag<T> d;
  const auto step = kSquare<T> * static_cast<size_t>(num_classes);
  ForEachSquare(
      d, num_classes, count,
      [&](int64_t row, int64_t c) HWY_ATTR {
        hn::Vec<decltype(d)> v[kSquare<T>];
        const T* const from = rows + row * num_classes + c;
        for (size_t k = 0; k < kSquare<T>; ++k)
          v[k] = LoadBlocks(d, from + static_cast<int64_t>(k) * num_classes, step);
        TurnSquares(d, v);
        T* const to = columns + c * stride + row;
        for (size_t k = 0; k < kSquare<T>; ++k) hn::StoreU(v[k], d, to + static_cast<int64_t>(k) * stride);
      },
      [&](int64_t row, int64_t c) { columns[c * stride + row] = LoadElement<T>(rows, row * num_classes + c); });
}

template <typename T>
void ColumnsToRows(const T* columns, int64_t stride, int64_t num_classes, int64_t count, T* rows) {
  const hn::ScalableTag<T> d;
  const auto step = kSquare<T> * static_cast<size_t>(num_classes);
  ForEachSquare(
      d, num_classes, count,
      [&](int64_t row, int64_t c) HWY_ATTR {
        hn::Vec<decltype(d)> v[kSquare<T>];
        const T* const from = columns + c * stride + row;
        for (size_t k = 0; k < kSquare<T>; ++k) v[k] = hn::LoadU(d, from + static_cast<int64_t>(k) * stride);
        TurnSquares(d, v);
        T* const to = rows + row * num_classes + c;
        for (size_t k = 0; k < kSquare<T>; ++k) StoreBlocks(v[k], d, to + static_cast<int64_t>(k) * num_classes, step);
      },
      [&](int64_t row, int64_t c) { StoreElement(rows, row * num_classes + c, columns[c * stride + row]); });
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_TURN_INL_H_
