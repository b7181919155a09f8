// The vector steps of losses without a softmax: a chunk of the tensors is widened to buffers that stay in the L1 cache,
// evaluated there, and rounded to the type of the results on its way out. So one kernel serves every combination of
// types. There is one in double, for anything, and one in float, several times as fast, for entries that are ordinary;
// that reads float32 where it lies. Internal to loss/.
//
// All functions here: never allocate, never fail, thread-safe. What becomes of an entry depends on the entry, on what
// is asked for and the SIMD target only, not on its place.
#ifndef LOSSD_LOSS_POINTWISE_H_
#define LOSSD_LOSS_POINTWISE_H_

#include <cstddef>
#include <cstdint>

#include "loss/types.h"

namespace lossd {

// Entries of one chunk; a multiple of the lanes of every vector.
inline constexpr int64_t kChunkEntries = 256;

// One value for each entry of a chunk. Kernels read and write whole vectors: past the last entry there may be anything.
struct alignas(64) ChunkBuffer {
  double values[kChunkEntries];
};

struct alignas(64) FloatBuffer {
  float values[kChunkEntries];
};

// out_i = tensor[first + i], exactly, for i in [0, n), n <= kChunkEntries; and asks the caches for as many entries
// more. REQUIRES: IsFloat(tensor.type.data_type), and not of more digits than the buffer.
void Widen(const TensorView& tensor, int64_t first, int64_t n, ChunkBuffer& out);
void Widen(const TensorView& tensor, int64_t first, int64_t n, FloatBuffer& out);

// tensor[first + i] = in_i, rounded once. `stream`: past the caches; the caller fences (FlushStreams()).
void Narrow(const ChunkBuffer& in, int64_t n, bool stream, const MutableTensorView& tensor, int64_t first);
void Narrow(const FloatBuffer& in, int64_t n, bool stream, const MutableTensorView& tensor, int64_t first);

// A chunk and what is asked of it. Absent where null: the factors are then 1, and the results are not wanted.
struct EntryChunk {
  int64_t n = 0;  // entries, at most kChunkEntries
  const ChunkBuffer* logits = nullptr;
  const ChunkBuffer* targets = nullptr;
  const ChunkBuffer* pos_weights = nullptr;     // binary cross-entropy only
  const ChunkBuffer* sample_weights = nullptr;  // s; an entry of weight 0 has results of 0, whatever else it holds
  const ChunkBuffer* upstream = nullptr;        // g is s unit_scale upstream; without it, s gradient_scale
  double unit_scale = 1;
  double gradient_scale = 1;
  double finite_below = 0;  // |loss| from here on counts as not finite
  ChunkBuffer* losses = nullptr;
  ChunkBuffer* logits_gradient = nullptr;
  ChunkBuffer* targets_gradient = nullptr;
};

struct ChunkSums {
  double loss_sum = 0;
  int64_t nonfinite_count = 0;
};

// docs/numerics.md says what they compute.
ChunkSums EvaluateKl(const EntryChunk& chunk);
ChunkSums EvaluateKlOfLogTargets(const EntryChunk& chunk);
ChunkSums EvaluateBinaryCrossEntropy(const EntryChunk& chunk, double label_smoothing);

// A bit for each entry of a chunk.
struct EntryBits {
  static constexpr size_t kWords = kChunkEntries / 64;
  uint64_t words[kWords + 1] = {};  // one more, which what stores masks may touch

  bool Has(int64_t entry) const { return (words[entry / 64] >> (entry % 64) & 1) != 0; }
  bool any() const {
    uint64_t all = 0;
    for (size_t i = 0; i < kWords; ++i) all |= words[i];
    return all != 0;
  }
};

// Factors that the kernels of floats take are 0, or from the one to the other in magnitude.
inline constexpr float kLeastWeight = 0x1p-20f, kMostWeight = 0x1p20f;      // pos_weights, sample_weights
inline constexpr float kLeastUpstream = 0x1p-60f, kMostUpstream = 0x1p60f;  // upstream, gradient_scale

// A chunk of what floats hold, at any alignment; kChunkEntries of them are read, and those past the first n may be
// anything. Absent where null, as above, but for `losses` and `extraordinary`. What is written is written to buffers.
struct FloatChunk {
  int64_t n = 0;
  const float* logits = nullptr;
  const float* targets = nullptr;
  const float* pos_weights = nullptr;
  const float* sample_weights = nullptr;
  const float* upstream = nullptr;
  float unit_scale = 1;
  float gradient_scale = 1;  // REQUIRES: as above
  float* losses = nullptr;
  float* logits_gradient = nullptr;
  float* targets_gradient = nullptr;  // not with pos_weights: a difference, of which floats would lose digits
  // Entries that are left to the doubles: infinite, NaN, or so large or small that floats would lose digits or need
  // exceptions. Which ones depends on the entry, and on what is asked for, only. Their losses are 0, and their
  // gradients mean nothing.
  EntryBits* extraordinary = nullptr;
};

// Whether this SIMD target has the kernels of floats, which need tables in registers. REQUIRED by them.
bool HasFloatEntries();

// Return the sum of the losses of ordinary entries, which are finite.
double EvaluateKl(const FloatChunk& chunk);
double EvaluateKlOfLogTargets(const FloatChunk& chunk);
double EvaluateBinaryCrossEntropy(const FloatChunk& chunk, double label_smoothing);

// What rows of logits predict: the class of the largest one, the lowest of equals; -1 where the row has NaN. Class c of
// row r is logits[first + r * num_classes + c], or, where stride is not 1, logits[first + c * stride + r].
// REQUIRES: count <= kChunkEntries.
void PredictClasses(const TensorView& logits, int64_t first, int64_t num_classes, int64_t stride, int64_t count,
                    int64_t* classes);

// Zeros, past the caches; the caller fences.
void StreamZeros(void* to, int64_t bytes);

}  // namespace lossd

#endif  // LOSSD_LOSS_POINTWISE_H_
