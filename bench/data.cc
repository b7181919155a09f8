#include "bench/data.h"

#include <algorithm>
#include <cstring>

#include "client/cpp/random.h"
#include "loss/element.h"

namespace lossd::bench {
namespace {

constexpr int64_t kChunkElements = 1 << 16;  // each has random numbers of its own
constexpr float kLogitsDeviation = 3;

// Calls body(begin, end) for pieces of [0, count), on all threads.
template <typename Body>
void InChunks(Pool& pool, int64_t count, int64_t chunk, const Body& body) {
  pool.Run([&](Executor& executor) {
    executor.ForEach((count + chunk - 1) / chunk, 1,
                     [&](int64_t index, int64_t, int) { body(index * chunk, std::min(count, (index + 1) * chunk)); });
  });
}

}  // namespace

template <typename Value>
void Data::Fill(const MutableTensorView& tensor, const Value& value) {
  if (!fill_) return;
  InChunks(pool_, NumElements(tensor.type.shape), kChunkElements, [&](int64_t begin, int64_t end) {
    Random random(static_cast<uint64_t>(begin));
    for (int64_t i = begin; i < end; ++i) StoreFloat(tensor, i, double{value(random)});
  });
}

MutableTensorView Data::Allocate(DataType type, const Shape& shape) {
  memory_.emplace_back(static_cast<size_t>(NumElements(shape) * SizeOf(type)), huge_pages_);
  return {memory_.back().data(), {type, shape}};
}

TensorView Data::Logits(DataType type, const Shape& shape) {
  const MutableTensorView tensor = Allocate(type, shape);
  Fill(tensor, [](Random& random) { return kLogitsDeviation * random.Normal(); });
  return {tensor.data, tensor.type};
}

TensorView Data::Uniform(DataType type, const Shape& shape) {
  const MutableTensorView tensor = Allocate(type, shape);
  Fill(tensor, [](Random& random) { return random.Uniform() + 0x1p-25f; });
  return {tensor.data, tensor.type};
}

TensorView Data::Probabilities(DataType type, const Shape& shape) {
  const TensorView tensor = Uniform(type, shape);
  if (!fill_) return tensor;
  auto* const data = const_cast<void*>(tensor.data);
  const int64_t classes = shape[shape.rank() - 1];
  InChunks(pool_, NumElements(shape) / classes, 1, [&](int64_t row, int64_t) {
    double sum = 0;
    for (int64_t c = 0; c < classes; ++c) sum += FloatAt(tensor, row * classes + c);
    for (int64_t c = 0; c < classes; ++c) {
      StoreFloat({data, tensor.type}, row * classes + c, FloatAt(tensor, row * classes + c) / sum);
    }
  });
  return tensor;
}

TensorView Data::ClassIndices(const Shape& shape, int64_t num_classes, bool distinct) {
  const MutableTensorView tensor = Allocate(DataType::kInt64, shape);
  if (!fill_) return {tensor.data, tensor.type};
  Random random(1);
  const int64_t row = distinct ? shape[shape.rank() - 1] : 1;
  auto* const index = static_cast<int64_t*>(tensor.data);
  for (int64_t i = 0; i < NumElements(shape); ++i) {
    index[i] = static_cast<int64_t>(random.Below(static_cast<uint64_t>(num_classes)));
    if (std::find(index + i / row * row, index + i, index[i]) != index + i) --i;  // taken: draw again
  }
  return {tensor.data, tensor.type};
}

MutableTensorView Data::Output(DataType type, const Shape& shape) {
  const MutableTensorView tensor = Allocate(type, shape);
  if (!fill_) return tensor;
  const int64_t bytes = NumElements(shape) * SizeOf(type);
  InChunks(pool_, bytes, 1 << 20, [&](int64_t begin, int64_t end) {
    std::memset(static_cast<char*>(tensor.data) + begin, 0, static_cast<size_t>(end - begin));
  });
  return tensor;
}

}  // namespace lossd::bench
