// The variants of the loops of limits.cc.
#ifndef LOSSD_BENCH_LIMITS_LOOP_H_
#define LOSSD_BENCH_LIMITS_LOOP_H_

#include <cstddef>

namespace lossd::bench {

inline constexpr size_t kLineBytes = 64;
inline constexpr size_t kPieceWords = 2048;             // a multiple of what any loop takes at a time, on any target
inline constexpr size_t kChunkWords = size_t{1} << 17;  // 512 KiB: what a thread takes at a time

enum class Prefetch { kNone, kNear, kOnce };  // into all caches; to be used once (non-temporal)

struct ReadLoop {
  const char* name;
  int streams;  // 1 or 4
  Prefetch prefetch;
  size_t distance;  // bytes
};

struct CopyLoop {
  const char* name;
  bool stream;  // non-temporal stores
  Prefetch prefetch;
  size_t distance;
};

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_LIMITS_LOOP_H_
