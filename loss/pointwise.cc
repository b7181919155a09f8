#include "loss/pointwise.h"

#undef HWY_TARGET_INCLUDE
#define HWY_TARGET_INCLUDE "loss/pointwise.cc"
#include <hwy/foreach_target.h>
// Must come after foreach_target.h.
#include <hwy/highway.h>

#include "loss/pointwise-inl.h"

HWY_BEFORE_NAMESPACE();
namespace lossd {
namespace HWY_NAMESPACE {

void WidenChunk(const TensorView& tensor, int64_t first, int64_t n, ChunkBuffer& out) {
  WithFloatType(tensor.type.data_type, [&](auto storage) HWY_ATTR {
    WidenFrom(static_cast<const decltype(storage)*>(tensor.data) + first, static_cast<size_t>(n), out.values);
  });
}

void NarrowChunk(const ChunkBuffer& in, int64_t n, bool stream, const MutableTensorView& tensor, int64_t first) {
  WithFloatType(tensor.type.data_type, [&](auto storage) HWY_ATTR {
    using S = decltype(storage);
    S* const to = static_cast<S*>(tensor.data) + first;
    if (!stream) return NarrowTo(in.values, static_cast<size_t>(n), to);
    HWY_ALIGN S narrowed[kChunkEntries];
    NarrowTo(in.values, static_cast<size_t>(n), narrowed);
    StreamCopy(reinterpret_cast<const char*>(narrowed), static_cast<size_t>(n) * sizeof(S),
               reinterpret_cast<char*>(to));
  });
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

}  // namespace HWY_NAMESPACE
}  // namespace lossd
HWY_AFTER_NAMESPACE();

#if HWY_ONCE
namespace lossd {

HWY_EXPORT(WidenChunk);
HWY_EXPORT(NarrowChunk);
HWY_EXPORT(PredictClassesOf);
HWY_EXPORT(StreamZeroBytes);
HWY_EXPORT(KlOfChunk);
HWY_EXPORT(LogTargetKlOfChunk);
HWY_EXPORT(BinaryCrossEntropyOfChunk);

void Widen(const TensorView& tensor, int64_t first, int64_t n, ChunkBuffer& out) {
  HWY_DYNAMIC_DISPATCH(WidenChunk)(tensor, first, n, out);
}
void Narrow(const ChunkBuffer& in, int64_t n, bool stream, const MutableTensorView& tensor, int64_t first) {
  HWY_DYNAMIC_DISPATCH(NarrowChunk)(in, n, stream, tensor, first);
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

}  // namespace lossd
#endif  // HWY_ONCE
