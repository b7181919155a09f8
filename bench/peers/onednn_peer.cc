#include "bench/peers/onednn_peer.h"

#include <dnnl.hpp>
#include <vector>

#include "absl/strings/str_cat.h"
#include "bench/pool.h"

namespace lossd::bench {
namespace {

using Memory = dnnl::memory;

Memory::data_type TypeOf(DataType type) {
  switch (type) {
    case DataType::kFloat32:
      return Memory::data_type::f32;
    case DataType::kBfloat16:
      return Memory::data_type::bf16;
    case DataType::kFloat16:
      return Memory::data_type::f16;
    default:
      return Memory::data_type::undef;
  }
}

Memory::desc DescOf(const TensorType& type) {
  const std::span<const int64_t> shape = type.shape.dims();
  const Memory::dims dims(shape.begin(), shape.end());
  Memory::dims strides(dims.size(), 1);
  for (size_t i = dims.size() - 1; i > 0; --i) strides[i - 1] = strides[i] * dims[i];
  return {dims, TypeOf(type.data_type), strides};
}

}  // namespace

std::string OnednnVersion() {
  const dnnl_version_t& version = *dnnl_version();
  return absl::StrCat("oneDNN ", version.major, ".", version.minor, ".", version.patch);
}

TimedCalls OnednnCalls(const Problem& problem) {
  const TensorView& logits = problem.inputs.logits;
  if (TypeOf(logits.type.data_type) == Memory::data_type::undef) return nullptr;
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  const Memory::desc desc = DescOf(logits.type);
  const dnnl::softmax_v2_forward::desc log_softmax(dnnl::prop_kind::forward_inference, dnnl::algorithm::softmax_log,
                                                   desc, desc, 1);
  const dnnl::softmax_v2_forward::primitive_desc implementation(log_softmax, engine, /*allow_empty=*/true);
  if (!implementation) return nullptr;
  const dnnl::softmax_v2_forward primitive(implementation);
  const Memory from(desc, engine, const_cast<void*>(logits.data));
  const Memory to(desc, engine, problem.gradient.data);
  return [primitive, from, to, stream = dnnl::stream(engine)](int calls) mutable {
    const double start = Now();
    for (int call = 0; call < calls; ++call) {
      primitive.execute(stream, {{DNNL_ARG_SRC, from}, {DNNL_ARG_DST, to}});
      stream.wait();
    }
    return Now() - start;
  };
}

}  // namespace lossd::bench
