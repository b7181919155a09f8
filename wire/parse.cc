#include "wire/parse.h"

#include <google/protobuf/descriptor.h>
#include <google/protobuf/wire_format_lite.h>

#include <algorithm>
#include <cstring>
#include <string>

#include "absl/strings/str_cat.h"
#include "wire/write.h"

namespace lossd {
namespace {

using google::protobuf::Descriptor;
using google::protobuf::FieldDescriptor;
using google::protobuf::internal::WireFormatLite;

constexpr int kMaxVarintBytes = 10, kMaxTagBytes = 5;
constexpr int kMaxGroupDepth = 1000;  // protobuf refuses less; this only bounds what is copied for it to refuse
constexpr int64_t kFreeBytes = 1 << 16;
constexpr int64_t kFieldsAtOnce = 4096;
// One byte of a packed varint becomes an int64, in a field that doubles as it grows, and is then converted: 24. What
// protobuf does not know within a message it keeps too, and a byte of that takes up to twice as much.
constexpr int64_t kGrowth = 48;

// Whether messages of this type are walked, rather than copied as they are.
bool IsWalked(const Descriptor* type) {
  return type == v1::Tensor::descriptor() || type == v1::EvaluateRequest::descriptor() ||
         type == v1::EvaluateResponse::descriptor();
}

bool IsRaw(const FieldDescriptor& field) {
  return field.containing_type() == v1::Tensor::descriptor() && field.number() == v1::Tensor::kRawFieldNumber;
}

// Whether a field may come with this wire type; a repeated number comes packed as well. Else it is as good as unknown.
bool Fits(const FieldDescriptor& field, uint32_t wire_type) {
  const auto own = WireFormatLite::WireTypeForFieldType(static_cast<WireFormatLite::FieldType>(field.type()));
  return wire_type == own || (wire_type == WireFormatLite::WIRETYPE_LENGTH_DELIMITED && field.is_packable());
}

class Walker {
 public:
  Walker(const Slices& bytes, ReserveBytes reserve) : bytes_(bytes), reserve_(reserve), cursor_(bytes) {}

  // Copies the fields up to `end` of a message of this type, but for raw contents. False where it is malformed or, with
  // status() set, too large.
  bool CopyMessage(const Descriptor& type, int64_t end, std::string& text) {
    while (cursor_.position() < end) {
      uint32_t tag = 0;
      if (!GoOn() || !ReadTag(end, tag)) return false;
      const auto number = static_cast<int>(tag >> 3);
      const FieldDescriptor* field = type.FindFieldByNumber(number);
      const bool known = field != nullptr && Fits(*field, tag & 7);
      switch (tag & 7) {
        case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
          if (!CopyDelimited(known ? field : nullptr, tag, end, text)) return false;
          break;
        case WireFormatLite::WIRETYPE_START_GROUP:  // unknown to this contract; protobuf is the judge of what is inside
          if (!CopyGroup(tag, end, text)) return false;
          break;
        default:
          if (!CopyScalar(tag, end, known ? &text : nullptr)) return false;
      }
    }
    return true;
  }

  // The last number of this field of the message, or of what can be read of it.
  uint64_t FindNumber(int number) {
    const int64_t end = bytes_.size();
    uint64_t found = 0;
    for (uint32_t tag = 0; cursor_.position() < end && GoOn() && ReadTag(end, tag);) {
      uint64_t value = 0;
      if (tag != WireFormatLite::MakeTag(number, WireFormatLite::WIRETYPE_VARINT)) {
        if (!Skip(tag, end)) break;
      } else if (ReadVarint(end, kMaxVarintBytes, value)) {
        found = value;
      } else {
        break;
      }
    }
    return found;
  }

  const absl::Status& status() const { return status_; }

 private:
  int64_t Left(int64_t end) const { return end - cursor_.position(); }

  // Before each field.
  bool GoOn() {
    if (++num_fields_ % kFieldsAtOnce == 0) status_ = reserve_(0);
    return status_.ok();
  }

  bool ReadVarint(int64_t end, int max_bytes, uint64_t& value) {
    value = 0;
    const int64_t most = std::min<int64_t>(max_bytes, Left(end));
    for (int i = 0; i < most; ++i) {
      const uint8_t byte = cursor_.Next();
      value |= uint64_t{byte & 0x7fu} << (7 * i);
      if (byte < 0x80) return true;
    }
    return false;
  }

  // As protobuf: five bytes at most, of which 32 bits count.
  bool ReadTag(int64_t end, uint32_t& tag) {
    uint64_t value = 0;
    if (!ReadVarint(end, kMaxTagBytes, value)) return false;
    tag = static_cast<uint32_t>(value);
    return tag >> 3 != 0;
  }

  bool ReadLength(int64_t end, int64_t& length) {
    uint64_t value = 0;
    if (!ReadVarint(end, kMaxTagBytes, value)) return false;
    length = static_cast<int64_t>(value);
    return length <= Left(end);
  }

  // Before so many bytes more are copied.
  bool Reserve(int64_t bytes) {
    copied_bytes_ += bytes;
    if (copied_bytes_ <= reserved_bytes_) return true;
    const int64_t step = std::max(copied_bytes_ - reserved_bytes_, kFreeBytes);
    status_ = reserve_(step * kGrowth);
    reserved_bytes_ += step;
    return status_.ok();
  }

  bool CopyBytes(int64_t size, std::string& text) {
    if (!Reserve(size)) return false;
    const size_t before = text.size();
    text.resize(before + static_cast<size_t>(size));
    bytes_.CopyTo(cursor_.position(), size, text.data() + before);
    cursor_.Skip(size);
    return true;
  }

  // A field that is of no use.
  bool Skip(uint32_t tag, int64_t end) {
    std::string text;  // only of a group's tags
    switch (tag & 7) {
      case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
        return CopyDelimited(nullptr, tag, end, text);
      case WireFormatLite::WIRETYPE_START_GROUP:
        return CopyGroup(tag, end, text);
      default:
        return CopyScalar(tag, end, nullptr);
    }
  }

  // A number. Skips it where there is no text.
  bool CopyScalar(uint32_t tag, int64_t end, std::string* text) {
    int64_t size = 0;
    switch (tag & 7) {
      case WireFormatLite::WIRETYPE_VARINT: {
        uint64_t value = 0;
        if (!ReadVarint(end, kMaxVarintBytes, value)) return false;
        if (text == nullptr) return true;
        if (!Reserve(kMaxTagBytes + kMaxVarintBytes)) return false;
        AppendVarint(tag, *text);
        AppendVarint(value, *text);
        return true;
      }
      case WireFormatLite::WIRETYPE_FIXED64:
        size = 8;
        break;
      case WireFormatLite::WIRETYPE_FIXED32:
        size = 4;
        break;
      default:  // an end without a group, or a wire type that does not exist
        return false;
    }
    if (size > Left(end)) return false;
    if (text != nullptr) {
      AppendVarint(tag, *text);
      return CopyBytes(size, *text);
    }
    cursor_.Skip(size);
    return true;
  }

  // `field` is null where it is not known.
  bool CopyDelimited(const FieldDescriptor* field, uint32_t tag, int64_t end, std::string& text) {
    int64_t length = 0;
    if (!ReadLength(end, length)) return false;
    if (field == nullptr) {
      cursor_.Skip(length);
      return true;
    }
    if (IsRaw(*field)) {
      const RawReference reference{cursor_.position(), length};
      cursor_.Skip(length);
      if (!Reserve(static_cast<int64_t>(sizeof(reference)) + kMaxTagBytes)) return false;
      AppendVarint(tag, text);
      AppendVarint(sizeof(reference), text);
      text.append(reinterpret_cast<const char*>(&reference), sizeof(reference));
      return true;
    }
    if (!Reserve(2 * kMaxTagBytes)) return false;
    AppendVarint(tag, text);
    if (!IsWalked(field->message_type())) {
      AppendVarint(static_cast<uint64_t>(length), text);
      return CopyBytes(length, text);
    }
    std::string inner;
    if (!CopyMessage(*field->message_type(), cursor_.position() + length, inner)) return false;
    AppendVarint(inner.size(), text);
    text += inner;
    return true;
  }

  // The whole of a group whose start tag has been read.
  bool CopyGroup(uint32_t tag, int64_t end, std::string& text) {
    if (!Reserve(kMaxTagBytes)) return false;
    AppendVarint(tag, text);
    for (int depth = 1; depth > 0;) {
      if (Left(end) == 0 || !GoOn() || !ReadTag(end, tag) || depth > kMaxGroupDepth || !Reserve(kMaxTagBytes)) {
        return false;
      }
      switch (tag & 7) {
        case WireFormatLite::WIRETYPE_START_GROUP:
          ++depth;
          AppendVarint(tag, text);
          break;
        case WireFormatLite::WIRETYPE_END_GROUP:
          --depth;
          AppendVarint(tag, text);
          break;
        case WireFormatLite::WIRETYPE_LENGTH_DELIMITED:
          if (!CopyDelimited(nullptr, tag, end, text)) return false;
          break;
        default:
          if (!CopyScalar(tag, end, nullptr)) return false;
      }
    }
    return true;
  }

  const Slices& bytes_;
  const ReserveBytes reserve_;
  SliceCursor cursor_;
  int64_t num_fields_ = 0, copied_bytes_ = 0, reserved_bytes_ = kFreeBytes;
  absl::Status status_;
};

}  // namespace

absl::Status ParseMessage(const Slices& bytes, ReserveBytes reserve, google::protobuf::Message& message) {
  Walker walker(bytes, reserve);
  std::string text;
  if (bytes.valid() && walker.CopyMessage(*message.GetDescriptor(), bytes.size(), text) &&
      message.ParseFromString(text)) {
    return absl::OkStatus();
  }
  if (!walker.status().ok()) return walker.status();
  return absl::InvalidArgumentError(absl::StrCat("request: these ", bytes.size(), " bytes are not a ",
                                                 message.GetDescriptor()->full_name(),
                                                 " (cut short, a wrong wire type, or a job that is not UTF-8)"));
}

int64_t SequenceOf(const Slices& bytes) {
  if (!bytes.valid()) return 0;
  const auto stop = [](int64_t) { return absl::AbortedError("many fields"); };
  Walker walker(bytes, stop);
  return static_cast<int64_t>(walker.FindNumber(v1::EvaluateStreamRequest::kSequenceFieldNumber));
}

RawReference ReferenceOf(const v1::Tensor& tensor) {
  RawReference reference;
  if (tensor.raw().size() == sizeof(reference)) std::memcpy(&reference, tensor.raw().data(), sizeof(reference));
  return reference;
}

}  // namespace lossd
