#include "loss/pointwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/pointwise.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#include "loss/entries-inl.h"
#include "loss/pointwise-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {

template <typename T>
HWY_INLINE void WidenTo(const TensorView& tensor, int64_t first, int64_t n, T* out) {
  WithFloatType(tensor.type.data_type, [&](auto storage) HWY_ATTR {
    using S = decltype(storage);
    if constexpr (sizeof(S) <= sizeof(T)) {
      WidenFrom(static_cast<const S*>(tensor.data) + first, static_cast<size_t>(n), out);
    }
  });
}

template <typename T>
HWY_INLINE void NarrowFrom(const T* in, int64_t n, bool stream, const MutableTensorView& tensor, int64_t first) {
  WithFloatType(tensor.type.data_type, [&](auto storage) HWY_ATTR {
    using S = decltype(storage);
    if constexpr (sizeof(S) <= sizeof(T)) {
      const auto size = static_cast<size_t>(n);
      S* const to = static_cast<S*>(tensor.data) + first;
      if (!stream) return NarrowTo(in, size, to);
      if constexpr (std::is_same_v<S, T>) {
        StreamCopy(reinterpret_cast<const char*>(in), size * sizeof(S), reinterpret_cast<char*>(to));
      } else {
        HWY_ALIGN S narrowed[kChunkEntries];
        NarrowTo(in, size, narrowed);
        StreamCopy(reinterpret_cast<const char*>(narrowed), size * sizeof(S), reinterpret_cast<char*>(to));
      }
    }
  });
}

void WidenToDoubles(const TensorView& tensor, int64_t first, int64_t n, ChunkBuffer& out) {
  WidenTo(tensor, first, n, out.values);
}
void WidenToFloats(const TensorView& tensor, int64_t first, int64_t n, FloatBuffer& out) {
  WidenTo(tensor, first, n, out.values);
}
void NarrowDoubles(const ChunkBuffer& in, int64_t n, bool stream, const MutableTensorView& tensor, int64_t first) {
  NarrowFrom(in.values, n, stream, tensor, first);
}
void NarrowFloats(const FloatBuffer& in, int64_t n, bool stream, const MutableTensorView& tensor, int64_t first) {
  NarrowFrom(in.values, n, stream, tensor, first);
}

void PredictClassesOf(const TensorView& logits, int64_t first, int64_t num_classes, int64_t stride, int64_t count,
                      int64_t* classes) {
  WithFloatType(logits.type.data_type, [&](auto storage) HWY_ATTR {
    const auto* const from = static_cast<const decltype(storage)*>(logits.data) + first;
    if (stride != 1) return ArgMaxOfColumns(from, num_classes, stride, static_cast<size_t>(count), classes);
    for (int64_t r = 0; r < count; ++r) classes[r] = ArgMaxOf(from + r * num_classes, static_cast<size_t>(num_classes));
  });
}

void StreamZeroBytes(void* to, int64_t bytes) {
  StreamBytes(
      static_cast<char*>(to), static_cast<size_t>(bytes), [](auto d, size_t) HWY_ATTR { return hn::Zero(d); },
      [to](size_t i, size_t n) { std::memset(static_cast<char*>(to) + i, 0, n); });
}

ChunkSums KlOfChunk(const EntryChunk& chunk) { return EvaluateChunk(chunk, KlFunction{}); }
ChunkSums LogTargetKlOfChunk(const EntryChunk& chunk) { return EvaluateChunk(chunk, LogTargetKlFunction{}); }
ChunkSums BinaryCrossEntropyOfChunk(const EntryChunk& chunk, double label_smoothing) {
  return EvaluateChunk(chunk, BinaryCrossEntropyFunction{label_smoothing});
}

#if LOSSD_HAS_TABLES
bool FloatEntries() { return true; }
double KlOfFloats(const FloatChunk& chunk) {
  return chunk.targets_gradient != nullptr ? EvaluateFloatChunk(chunk, FloatKl<true>{})
                                           : EvaluateFloatChunk(chunk, FloatKl<false>{});
}
double LogTargetKlOfFloats(const FloatChunk& chunk) { return EvaluateFloatChunk(chunk, FloatLogTargetKl{}); }
double BinaryCrossEntropyOfFloats(const FloatChunk& chunk, double label_smoothing) {
  const auto keep = static_cast<float>(1 - label_smoothing), half = static_cast<float>(label_smoothing / 2);
  return WithBool(chunk.pos_weights != nullptr, [&](auto weights) HWY_ATTR {
    return WithBool(label_smoothing != 0, [&](auto smooth) HWY_ATTR {
      return EvaluateFloatChunk(chunk, FloatBinaryCrossEntropy<weights, smooth>{keep, half});
    });
  });
}
#else  // the others are not called then
bool FloatEntries() { return false; }
double KlOfFloats(const FloatChunk&) { return 0; }
double LogTargetKlOfFloats(const FloatChunk&) { return 0; }
double BinaryCrossEntropyOfFloats(const FloatChunk&, double) { return 0; }
#endif

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd {

HWY_EXPORT(WidenToDoubles);
HWY_EXPORT(WidenToFloats);
HWY_EXPORT(NarrowDoubles);
HWY_EXPORT(NarrowFloats);
HWY_EXPORT(PredictClassesOf);
HWY_EXPORT(StreamZeroBytes);
HWY_EXPORT(KlOfChunk);
HWY_EXPORT(LogTargetKlOfChunk);
HWY_EXPORT(BinaryCrossEntropyOfChunk);
HWY_EXPORT(FloatEntries);
HWY_EXPORT(KlOfFloats);
HWY_EXPORT(LogTargetKlOfFloats);
HWY_EXPORT(BinaryCrossEntropyOfFloats);

void Widen(const TensorView& tensor, int64_t first, int64_t n, ChunkBuffer& out) {
  HWY_DYNAMIC_DISPATCH(WidenToDoubles)(tensor, first, n, out);
}
void Widen(const TensorView& tensor, int64_t first, int64_t n, FloatBuffer& out) {
  HWY_DYNAMIC_DISPATCH(WidenToFloats)(tensor, first, n, out);
}
void Narrow(const ChunkBuffer& in, int64_t n, bool stream, const MutableTensorView& tensor, int64_t first) {
  HWY_DYNAMIC_DISPATCH(NarrowDoubles)(in, n, stream, tensor, first);
}
void Narrow(const FloatBuffer& in, int64_t n, bool stream, const MutableTensorView& tensor, int64_t first) {
  HWY_DYNAMIC_DISPATCH(NarrowFloats)(in, n, stream, tensor, first);
}
void PredictClasses(const TensorView& logits, int64_t first, int64_t num_classes, int64_t stride, int64_t count,
                    int64_t* classes) {
  HWY_DYNAMIC_DISPATCH(PredictClassesOf)(logits, first, num_classes, stride, count, classes);
}
void StreamZeros(void* to, int64_t bytes) { HWY_DYNAMIC_DISPATCH(StreamZeroBytes)(to, bytes); }
ChunkSums EvaluateKl(const EntryChunk& chunk) { return HWY_DYNAMIC_DISPATCH(KlOfChunk)(chunk); }
ChunkSums EvaluateKlOfLogTargets(const EntryChunk& chunk) { return HWY_DYNAMIC_DISPATCH(LogTargetKlOfChunk)(chunk); }
ChunkSums EvaluateBinaryCrossEntropy(const EntryChunk& chunk, double label_smoothing) {
  return HWY_DYNAMIC_DISPATCH(BinaryCrossEntropyOfChunk)(chunk, label_smoothing);
}
bool HasFloatEntries() { return HWY_DYNAMIC_DISPATCH(FloatEntries)(); }
double EvaluateKl(const FloatChunk& chunk) { return HWY_DYNAMIC_DISPATCH(KlOfFloats)(chunk); }
double EvaluateKlOfLogTargets(const FloatChunk& chunk) { return HWY_DYNAMIC_DISPATCH(LogTargetKlOfFloats)(chunk); }
double EvaluateBinaryCrossEntropy(const FloatChunk& chunk, double label_smoothing) {
  return HWY_DYNAMIC_DISPATCH(BinaryCrossEntropyOfFloats)(chunk, label_smoothing);
}

}  // namespace lossd
#endif  // HWY_ONCE
