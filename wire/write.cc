#include "wire/write.h"

#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/wire_format_lite.h>

#include <utility>

#include "lossd/v1/loss.pb.h"

namespace lossd {
namespace {

using google::protobuf::internal::WireFormatLite;
using google::protobuf::io::CodedOutputStream;

}  // namespace

void AppendVarint(uint64_t value, std::string& text) {
  uint8_t bytes[10];
  const uint8_t* end = CodedOutputStream::WriteVarint64ToArray(value, bytes);
  text.append(reinterpret_cast<const char*>(bytes), static_cast<size_t>(end - bytes));
}

void MessageWriter::TagAndLength(int number, int64_t length) {
  AppendVarint(WireFormatLite::MakeTag(number, WireFormatLite::WIRETYPE_LENGTH_DELIMITED), text_);
  AppendVarint(static_cast<uint64_t>(length), text_);
}

void MessageWriter::Fields(const google::protobuf::MessageLite& message) { message.AppendToString(&text_); }

void MessageWriter::Field(int number, const google::protobuf::MessageLite& message) {
  TagAndLength(number, static_cast<int64_t>(message.ByteSizeLong()));
  message.AppendToString(&text_);
}

void MessageWriter::Tensor(int number, const TensorType& type, grpc::Slice contents) {
  v1::Tensor head;
  head.set_data_type(static_cast<v1::DataType>(type.data_type));
  for (int64_t extent : type.shape.dims()) head.add_shape(extent);
  const auto bytes = static_cast<int64_t>(contents.size());
  const auto raw_head_bytes = 1 + static_cast<int64_t>(CodedOutputStream::VarintSize64(static_cast<uint64_t>(bytes)));
  TagAndLength(number, static_cast<int64_t>(head.ByteSizeLong()) + raw_head_bytes + bytes);
  head.AppendToString(&text_);
  TagAndLength(v1::Tensor::kRawFieldNumber, bytes);
  if (bytes <= kCopiedContentsBytes) {
    text_.append(reinterpret_cast<const char*>(contents.begin()), contents.size());
    return;
  }
  Flush();
  flushed_bytes_ += bytes;
  slices_.push_back(std::move(contents));
}

void MessageWriter::Wrap(const google::protobuf::MessageLite& head, int number) {
  const int64_t bytes = size();
  std::string rest = std::exchange(text_, std::string());
  Fields(head);
  TagAndLength(number, bytes);
  if (slices_.empty()) {
    text_ += rest;
    return;
  }
  flushed_bytes_ += static_cast<int64_t>(text_.size());
  slices_.insert(slices_.begin(), grpc::Slice(text_));
  text_ = std::move(rest);
}

grpc::ByteBuffer MessageWriter::Finish() {
  Flush();
  flushed_bytes_ = 0;
  const std::vector<grpc::Slice> slices = std::exchange(slices_, {});
  return grpc::ByteBuffer(slices.data(), slices.size());
}

void MessageWriter::Flush() {
  if (text_.empty()) return;
  flushed_bytes_ += static_cast<int64_t>(text_.size());
  slices_.emplace_back(text_);
  text_.clear();
}

}  // namespace lossd
