// Messages of the contract by the names of their fields, and their bytes: for tests of the wire and of the server.
#ifndef LOSSD_TESTS_MESSAGES_H_
#define LOSSD_TESTS_MESSAGES_H_

#include <google/protobuf/message.h>
#include <grpcpp/support/byte_buffer.h>
#include <grpcpp/support/slice.h>

#include <algorithm>
#include <cstddef>
#include <limits>
#include <string>
#include <vector>

#include "loss/loss.h"
#include "lossd/v1/loss.pb.h"

namespace lossd {

// The field of type Tensor with this name. REQUIRES: there is one.
inline const google::protobuf::FieldDescriptor* TensorField(const google::protobuf::Message& message,
                                                            const char* name) {
  return message.GetDescriptor()->FindFieldByName(name);
}

inline bool HasTensor(const google::protobuf::Message& message, const char* name) {
  return message.GetReflection()->HasField(message, TensorField(message, name));
}

inline const v1::Tensor& TensorOf(const google::protobuf::Message& message, const char* name) {
  return static_cast<const v1::Tensor&>(message.GetReflection()->GetMessage(message, TensorField(message, name)));
}

inline v1::Tensor* MutableTensor(google::protobuf::Message* message, const char* name) {
  return static_cast<v1::Tensor*>(message->GetReflection()->MutableMessage(message, TensorField(*message, name)));
}

// How many fields of type Tensor there are.
inline int CountTensorFields(const google::protobuf::Descriptor* message) {
  int count = 0;
  for (int i = 0; i < message->field_count(); ++i) {
    count += message->field(i)->message_type() == v1::Tensor::descriptor() ? 1 : 0;
  }
  return count;
}

// Sets the empty `tensor` to a raw one of these contents.
inline void CopyTensor(const TensorView& view, v1::Tensor* tensor) {
  tensor->set_data_type(static_cast<v1::DataType>(view.type.data_type));
  for (const int64_t extent : view.type.shape.dims()) tensor->add_shape(extent);
  tensor->set_raw(view.data, static_cast<size_t>(NumElements(view.type.shape) * SizeOf(view.type.data_type)));
}

// REQUIRES: the shape has at most Shape::kMaxRank axes.
inline TensorType TypeOf(const v1::Tensor& tensor) {
  return {static_cast<DataType>(tensor.data_type()),
          Shape({tensor.shape().data(), static_cast<size_t>(tensor.shape_size())})};
}

constexpr size_t kWhole = std::numeric_limits<size_t>::max();

// `bytes` in slices of at most `slice_bytes`.
inline grpc::ByteBuffer BufferOf(const std::string& bytes, size_t slice_bytes = kWhole) {
  std::vector<grpc::Slice> slices;
  for (size_t begin = 0; begin < bytes.size(); begin += std::min(slice_bytes, bytes.size() - begin)) {
    slices.emplace_back(bytes.substr(begin, slice_bytes));
  }
  return grpc::ByteBuffer(slices.data(), slices.size());
}

}  // namespace lossd

#endif  // LOSSD_TESTS_MESSAGES_H_
