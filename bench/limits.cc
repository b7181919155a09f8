#include "bench/limits.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstring>

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "bench/limits.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/cache_control.h>
#include <hwy/highway.h>

#include "bench/limits_loop.h"

HWY_BEFORE_NAMESPACE();
namespace lossd::bench {
namespace HWY_NAMESPACE {
namespace hn = hwy::HWY_NAMESPACE;

using D = hn::ScalableTag<uint32_t>;

// Asks for all lines of the `bytes` that lie `distance` ahead of p.
template <Prefetch kPrefetch>
HWY_INLINE void PrefetchAhead(const uint32_t* p, size_t bytes, size_t distance) {
  if constexpr (kPrefetch == Prefetch::kNone) return;
  const char* const ahead = reinterpret_cast<const char*>(p) + distance;
  for (size_t line = 0; line < bytes; line += kLineBytes) {
    if constexpr (kPrefetch == Prefetch::kNear) __builtin_prefetch(ahead + line, 0, 3);
    if constexpr (kPrefetch == Prefetch::kOnce) __builtin_prefetch(ahead + line, 0, 0);
  }
}

// Adds up the words of kStreams equal parts of [p, p + n), which are read side by side.
// REQUIRES: n is a multiple of kPieceWords.
template <size_t kStreams, Prefetch kPrefetch>
HWY_INLINE uint32_t Read(const uint32_t* p, size_t n, size_t distance) {
  constexpr size_t kUnroll = 8 / kStreams;
  const D d;
  const size_t lanes = hn::Lanes(d);
  const size_t part = n / kStreams;
  auto s0 = hn::Zero(d), s1 = s0, s2 = s0, s3 = s0, s4 = s0, s5 = s0, s6 = s0, s7 = s0;
  for (size_t i = 0; i < part; i += kUnroll * lanes) {
    const auto load = [&](size_t k)
                          HWY_ATTR { return hn::Load(d, p + (k / kUnroll) * part + i + (k % kUnroll) * lanes); };
    for (size_t stream = 0; stream < kStreams; ++stream) {
      PrefetchAhead<kPrefetch>(p + stream * part + i, kUnroll * lanes * sizeof(uint32_t), distance);
    }
    s0 = hn::Add(s0, load(0));
    s1 = hn::Add(s1, load(1));
    s2 = hn::Add(s2, load(2));
    s3 = hn::Add(s3, load(3));
    s4 = hn::Add(s4, load(4));
    s5 = hn::Add(s5, load(5));
    s6 = hn::Add(s6, load(6));
    s7 = hn::Add(s7, load(7));
  }
  const auto low = hn::Add(hn::Add(s0, s1), hn::Add(s2, s3));
  const auto high = hn::Add(hn::Add(s4, s5), hn::Add(s6, s7));
  return hn::GetLane(hn::SumOfLanes(d, hn::Add(low, high)));
}

// REQUIRES: n is a multiple of kPieceWords, both aligned to 64.
template <bool kStream, Prefetch kPrefetch>
HWY_INLINE void Copy(const uint32_t* HWY_RESTRICT p, uint32_t* HWY_RESTRICT to, size_t n, size_t distance) {
  const D d;
  const size_t lanes = hn::Lanes(d);
  const auto store = [&](hn::Vec<D> v, size_t at) HWY_ATTR {
    if constexpr (kStream) {
      hn::Stream(v, d, to + at);
    } else {
      hn::Store(v, d, to + at);
    }
  };
  for (size_t i = 0; i < n; i += 4 * lanes) {
    PrefetchAhead<kPrefetch>(p + i, 4 * lanes * sizeof(uint32_t), distance);
    const auto v0 = hn::Load(d, p + i);
    const auto v1 = hn::Load(d, p + i + lanes);
    const auto v2 = hn::Load(d, p + i + 2 * lanes);
    const auto v3 = hn::Load(d, p + i + 3 * lanes);
    store(v0, i);
    store(v1, i + lanes);
    store(v2, i + 2 * lanes);
    store(v3, i + 3 * lanes);
  }
  if constexpr (kStream) hwy::FlushStream();
}

uint32_t ReadPiece(const ReadLoop& loop, const uint32_t* p, size_t n) {
  if (loop.streams == 4) {
    return loop.prefetch == Prefetch::kNone ? Read<4, Prefetch::kNone>(p, n, 0)
                                            : Read<4, Prefetch::kNear>(p, n, loop.distance);
  }
  switch (loop.prefetch) {
    case Prefetch::kNone:
      return Read<1, Prefetch::kNone>(p, n, 0);
    case Prefetch::kNear:
      return Read<1, Prefetch::kNear>(p, n, loop.distance);
    case Prefetch::kOnce:
      return Read<1, Prefetch::kOnce>(p, n, loop.distance);
  }
  return 0;
}

void CopyPiece(const CopyLoop& loop, const uint32_t* p, uint32_t* to, size_t n) {
  if (!loop.stream) return Copy<false, Prefetch::kNear>(p, to, n, loop.distance);
  switch (loop.prefetch) {
    case Prefetch::kNone:
      return Copy<true, Prefetch::kNone>(p, to, n, 0);
    case Prefetch::kNear:
      return Copy<true, Prefetch::kNear>(p, to, n, loop.distance);
    case Prefetch::kOnce:
      return Copy<true, Prefetch::kOnce>(p, to, n, loop.distance);
  }
}

// Zeros: what a gradient that is written but not computed is made of, and faster than other values on some machines.
void WritePiece(uint32_t* to, size_t n) {
  const D d;
  const auto zero = hn::Zero(d);
  for (size_t i = 0; i < n; i += hn::Lanes(d)) hn::Stream(zero, d, to + i);
  hwy::FlushStream();
}

}  // namespace HWY_NAMESPACE
}  // namespace lossd::bench
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd::bench {
namespace {

HWY_EXPORT(ReadPiece);
HWY_EXPORT(CopyPiece);
HWY_EXPORT(WritePiece);

constexpr ReadLoop kReadLoops[] = {
    {"one stream", 1, Prefetch::kNone, 0},
    {"one stream, prefetch 512 B", 1, Prefetch::kNear, 512},
    {"one stream, prefetch 1 KiB", 1, Prefetch::kNear, 1024},
    {"one stream, prefetch 2 KiB", 1, Prefetch::kNear, 2048},
    {"one stream, prefetch 4 KiB", 1, Prefetch::kNear, 4096},
    {"one stream, prefetch 8 KiB", 1, Prefetch::kNear, 8192},
    {"one stream, prefetch once 2 KiB", 1, Prefetch::kOnce, 2048},
    {"four streams", 4, Prefetch::kNone, 0},
    {"four streams, prefetch 1 KiB", 4, Prefetch::kNear, 1024},
};

constexpr CopyLoop kCopyLoops[] = {
    {"stream", true, Prefetch::kNone, 0},
    {"stream, prefetch 512 B", true, Prefetch::kNear, 512},
    {"stream, prefetch 2 KiB", true, Prefetch::kNear, 2048},
    {"stream, prefetch 4 KiB", true, Prefetch::kNear, 4096},
    {"stream, prefetch 8 KiB", true, Prefetch::kNear, 8192},
    {"stream, prefetch once 2 KiB", true, Prefetch::kOnce, 2048},
    {"stores, prefetch 2 KiB", false, Prefetch::kNear, 2048},
};

std::atomic<uint32_t> sink;  // what is read must be used

// One pass over n words on all threads, `calls` times.
template <typename Piece>
TimedCalls InPieces(Pool& pool, size_t n, const Piece& piece) {
  return [&pool, n, piece](int calls) {
    return pool.Run([&](Executor& executor) {
      const auto count = static_cast<int64_t>((n + kChunkWords - 1) / kChunkWords);
      for (int call = 0; call < calls; ++call) {
        executor.ForEach(count, 1, [&](int64_t index, int64_t, int) {
          const size_t begin = static_cast<size_t>(index) * kChunkWords;
          piece(begin, std::min(kChunkWords, n - begin));
        });
      }
    });
  };
}

}  // namespace

const char* Name(Limit limit) {
  switch (limit) {
    case Limit::kRead:
      return "read";
    case Limit::kCopy:
      return "copy";
    case Limit::kWrite:
      return "write";
  }
  return "";
}

std::vector<LimitLoop> LoopsOf(Limit limit, Pool& pool, const std::byte* from, std::byte* to, size_t bytes) {
  const size_t n = bytes / sizeof(uint32_t) / kPieceWords * kPieceWords;
  const auto moved = static_cast<double>(n * sizeof(uint32_t));
  const auto* const p = reinterpret_cast<const uint32_t*>(from);
  auto* const q = reinterpret_cast<uint32_t*>(to);
  std::vector<LimitLoop> loops;
  if (limit == Limit::kRead) {
    for (const ReadLoop& loop : kReadLoops) {
      loops.push_back({loop.name,
                       InPieces(pool, n,
                                [p, &loop](size_t at, size_t size) {
                                  sink += HWY_DYNAMIC_DISPATCH(ReadPiece)(loop, p + at, size);
                                }),
                       moved});
    }
  } else if (limit == Limit::kCopy) {
    for (const CopyLoop& loop : kCopyLoops) {
      loops.push_back({loop.name,
                       InPieces(pool, n,
                                [p, q, &loop](size_t at, size_t size) {
                                  HWY_DYNAMIC_DISPATCH(CopyPiece)(loop, p + at, q + at, size);
                                }),
                       2 * moved});
    }
    const auto copy = [p, q](size_t at, size_t size) { std::memcpy(q + at, p + at, size * sizeof(uint32_t)); };
    loops.push_back({"memcpy", InPieces(pool, n, copy), 2 * moved});
  } else {
    const auto write = [q](size_t at, size_t size) { HWY_DYNAMIC_DISPATCH(WritePiece)(q + at, size); };
    const auto fill = [q](size_t at, size_t size) { std::memset(q + at, 0, size * sizeof(uint32_t)); };
    loops.push_back({"stream", InPieces(pool, n, write), moved});
    loops.push_back({"memset", InPieces(pool, n, fill), moved});
  }
  return loops;
}

}  // namespace lossd::bench
#endif  // HWY_ONCE
