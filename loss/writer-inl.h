// Writes a row, or a part of one, for one SIMD target.

#if defined(LOSSD_LOSS_WRITER_INL_H_) == defined(HWY_TARGET_TOGGLE)
#ifdef LOSSD_LOSS_WRITER_INL_H_
#undef LOSSD_LOSS_WRITER_INL_H_
#else
#define LOSSD_LOSS_WRITER_INL_H_
#endif

#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include <algorithm>
#include <cstdint>
#include <span>

#include "loss/lanes-inl.h"
#include "loss/row.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

// How a row is written.
struct Writing {
  std::span<const Point> points;  // these entries are their values
  bool stream = false;
  size_t first = 0;              // the place in the row of what is written first
  SharedLine* shared = nullptr;  // with what is written before and after; null: ends of lines are stored by themselves
};

// A map that says so makes no NaN: some types are quicker narrowed then.
template <class Map>
concept NeverNan = requires {
  requires Map::kNeverNan;
};

// out_j = map(j), where map(load) makes a vector of what load(pointer) reads of each row; a step of vectors at a time,
// so that it can be done while another row is read. A step may write what the map has read of it, but nothing else.
// A copy works as long as the original is there, and a loop should work on a copy.
template <class D, class Map, typename G>
class RowWriter {
  using T = hn::TFromD<D>;
  using V = hn::Vec<D>;

 public:
  static constexpr size_t kSteps = 4;  // vectors of a step

  // make_map() makes the map in its place: a copy of what was just put together of parts would be slow to read.
  template <class MakeMap>
  HWY_INLINE RowWriter(D d, size_t size, const MakeMap& make_map, const Writing& writing, G* out)
      : d_(d),
        map_(make_map()),
        out_(out),
        size_(size),
        first_(writing.first),
        point_(writing.points.data()),
        end_(writing.points.data() + writing.points.size()),
        stream_(kCanStream && writing.stream) {
    point_ =
        std::partition_point(point_, end_, [this](const Point& p) { return static_cast<size_t>(p.target) < first_; });
    FindPlace();
    if (stream_) BeginStream(writing.shared);
  }

  // A step, or what is left of one. After n steps at least n times kSteps vectors have been read, and written.
  HWY_INLINE void Step() {
    const size_t lanes = hn::Lanes(d_), step = kSteps * lanes;
    if (HWY_UNLIKELY(next_ + step > end_of_lines_ || place_ - next_ < step)) {
      return MoveTo(After(*original_, next_, point_, place_, std::min(next_ + step, size_)));
    }
    V v[kSteps];
    for (size_t k = 0; k < kSteps; ++k) v[k] = At(next_ + k * lanes);
    if constexpr (kPairs) {
      for (size_t k = 0; k < kSteps; k += 2) WritePair(v[k], v[k + 1], out_ + next_ + k * lanes);
    } else if (stream_) {
      for (size_t k = 0; k < kSteps; ++k) Stream(v[k], out_ + next_ + k * lanes);
    } else {
      for (size_t k = 0; k < kSteps; ++k) StoreLanes(v[k], d_, out_ + next_ + k * lanes);
    }
    next_ += step;
  }

  // Does what is left.
  HWY_INLINE void Finish() { MoveTo(AfterAll(*original_, next_, point_, place_)); }

 private:
  static constexpr size_t kLine = sizeof(SharedLine::bytes);
  static constexpr bool kCanStream = hn::MaxLanes(D()) * sizeof(G) >= 16;
  static constexpr bool kPairs = kNarrowsPairs<D, G>;

  // Of a stream whole cache lines are written. What lies before the first, and after the last, is not the row's alone:
  // it is put together with the neighbours', or else written as anything is.
  HWY_INLINE void BeginStream(SharedLine* shared) {
    const size_t before = (kLine - PlaceInLine(out_)) % kLine / sizeof(G),
                 after = PlaceInLine(out_ + size_) / sizeof(G);
    if (before >= size_) {
      stream_ = false;
      return;
    }
    shared_ = shared;
    end_of_lines_ = size_ - after;
    if (shared_ == nullptr && after != 0) hwy::Prefetch(out_ + size_);
    if (before != 0) MoveTo(AfterHead(*this, before));
  }

  static HWY_INLINE size_t PlaceInLine(const G* p) { return reinterpret_cast<uintptr_t>(p) % kLine; }

  HWY_INLINE V At(size_t i) const {
    return map_([&](const auto* row) HWY_ATTR { return LoadLanes(d_, row + i); });
  }

  HWY_INLINE void Stream(V v, G* out) const {
    if constexpr (kCanStream) StreamLanes(v, d_, out);
  }

  HWY_INLINE void WritePair(V a, V b, G* out) const {
    if constexpr (kPairs) {
      const hn::Repartition<uint16_t, D> d16;
      const auto pair = NarrowPair<!NeverNan<Map>>(d_, a, b);
      if (stream_) {
        hn::Stream(pair, d16, reinterpret_cast<uint16_t*>(out));
      } else {
        hn::StoreU(pair, d16, reinterpret_cast<uint16_t*>(out));
      }
    }
  }

  // Where a writer is.
  struct Position {
    size_t next;
    const Point* point;
    size_t place;
  };

  // What is rare, or long, is compiled once for each kind of writer: from the original and the position of a copy,
  // which may so stay in registers.
  static HWY_NOINLINE Position After(const RowWriter& original, size_t next, const Point* point, size_t place,
                                     size_t end) {
    RowWriter writer(original, {next, point, place});
    const size_t lanes = hn::Lanes(writer.d_);
    if (!writer.stream_) {
      writer.WriteTo(writer.out_ + writer.next_, end);
      return writer.position();
    }
    for (; writer.next_ + lanes <= std::min(end, writer.end_of_lines_); writer.next_ += lanes) {
      writer.Stream(writer.WithPoints(writer.At(writer.next_), writer.next_, lanes), writer.out_ + writer.next_);
    }
    if (end > writer.end_of_lines_) writer.WriteLast();
    return writer.position();
  }
  static HWY_NOINLINE Position AfterHead(const RowWriter& original, size_t end) {
    RowWriter writer = original;
    const bool shared = writer.shared_ != nullptr && writer.shared_->EndsAt(writer.out_);
    if (shared) {
      SharedLine& line = *writer.shared_;
      writer.WriteTo(reinterpret_cast<G*>(line.bytes + line.size), end);
      line.size = kLine;  // streamed later: to read at once what was just stored would wait for all stores before
    } else {
      writer.WriteTo(writer.out_, end);
    }
    return writer.position();
  }
  static HWY_NOINLINE Position AfterAll(const RowWriter& original, size_t next, const Point* point, size_t place) {
    RowWriter writer(original, {next, point, place});
    while (writer.next_ < writer.size_) writer.Step();
    return writer.position();
  }

  HWY_INLINE RowWriter(const RowWriter& original, const Position& position) : RowWriter(original) { MoveTo(position); }
  HWY_INLINE Position position() const { return {next_, point_, place_}; }
  HWY_INLINE void MoveTo(const Position& position) {
    next_ = position.next;
    point_ = position.point;
    place_ = position.place;
  }

  // Ordinary stores of what comes next, up to `end`, to `to`.
  HWY_INLINE void WriteTo(G* to, size_t end) {
    const size_t lanes = hn::Lanes(d_);
    for (; next_ + lanes <= end; next_ += lanes, to += lanes) {
      StoreLanes(WithPoints(At(next_), next_, lanes), d_, to);
    }
    if (next_ == end) return;
    const size_t n = end - next_;
    const V v = map_([&](const auto* row) HWY_ATTR { return LoadTail(d_, row + next_, n); });
    StoreTail(WithPoints(v, next_, n), d_, to, n);
    next_ = end;
  }

  HWY_INLINE void StreamWhole(SharedLine& line) const {
    const auto* const from = reinterpret_cast<const T*>(line.bytes);
    auto* const to = reinterpret_cast<T*>(line.line);
    for (size_t i = 0; i < kLine / sizeof(T); i += hn::Lanes(d_)) hn::Stream(hn::Load(d_, from + i), d_, to + i);
    line.size = 0;
  }

  // What is after the last whole line.
  HWY_INLINE void WriteLast() {
    G* const last = out_ + end_of_lines_;
    const size_t bytes = (size_ - end_of_lines_) * sizeof(G);
    if (shared_ != nullptr && shared_->size == kLine) StreamWhole(*shared_);
    WriteTo(shared_ == nullptr ? last : reinterpret_cast<G*>(shared_->Begin(last, bytes)), size_);
  }

  // v, which are the n entries from i on, with the points among them.
  HWY_INLINE V WithPoints(V v, size_t i, size_t n) {
    while (HWY_UNLIKELY(place_ - i < n)) {
      v = hn::IfThenElse(LaneMask(d_, place_ - i), hn::Set(d_, static_cast<T>(point_->value)), v);
      ++point_;
      FindPlace();
    }
    return v;
  }

  HWY_INLINE void FindPlace() {
    constexpr size_t kNowhere = ~size_t{0} / 2;
    place_ = point_ == end_ ? kNowhere : static_cast<size_t>(point_->target) - first_;
  }

  D d_;
  Map map_;
  G* out_;
  size_t size_, first_, next_ = 0;
  size_t end_of_lines_ = size_;  // of what is streamed
  SharedLine* shared_ = nullptr;
  const Point* point_;
  const Point* end_;
  size_t place_;  // of the point that comes next
  bool stream_;
  const RowWriter* original_ = this;
};

template <class D, class Map, typename G>
HWY_INLINE void MapRow(D d, size_t size, const Map& map, const Writing& writing, G* out) {
  RowWriter<D, Map, G>(
      d, size, [&]() HWY_ATTR { return map; }, writing, out)
      .Finish();
}

// While nothing is to be written.
struct NoWriter {
  HWY_INLINE void Step() {}
  HWY_INLINE void Finish() {}
};

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#endif  // LOSSD_LOSS_WRITER_INL_H_
