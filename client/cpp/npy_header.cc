#include "client/cpp/npy_header.h"

#include <cstdint>
#include <optional>

#include "absl/strings/ascii.h"
#include "absl/strings/numbers.h"
#include "absl/strings/str_cat.h"
#include "absl/strings/strip.h"

namespace lossd {
namespace {

struct TypeName {
  const char* descr;
  DataType type;
};

// The first name of a type is the one written.
constexpr TypeName kTypeNames[] = {
    {"<f4", DataType::kFloat32},  {"<f8", DataType::kFloat64},  {"<f2", DataType::kFloat16},
    {"<V2", DataType::kBfloat16}, {"|V2", DataType::kBfloat16}, {"|i1", DataType::kInt8},
    {"<i2", DataType::kInt16},    {"<i4", DataType::kInt32},    {"<i8", DataType::kInt64},
    {"|u1", DataType::kUint8},    {"<u2", DataType::kUint16},   {"<u4", DataType::kUint32},
    {"|b1", DataType::kBool},     {"<i1", DataType::kInt8},     {"<u1", DataType::kUint8},
};

absl::Status Garbled() { return absl::DataLossError("has a garbled header"); }

// Reads tokens off the front of the header; every read skips the blanks before it.
class Cursor {
 public:
  explicit Cursor(absl::string_view text) : text_(text) {}

  bool Take(absl::string_view token) {
    text_ = absl::StripLeadingAsciiWhitespace(text_);
    return absl::ConsumePrefix(&text_, token);
  }

  // A Python string without escapes.
  std::optional<absl::string_view> TakeString() {
    const char* quote = Take("'") ? "'" : "\"";
    if (*quote == '"' && !Take("\"")) return std::nullopt;
    const size_t end = text_.find(quote);
    if (end == absl::string_view::npos) return std::nullopt;
    const absl::string_view value = text_.substr(0, end);
    text_.remove_prefix(end + 1);
    return value;
  }

  // Decimal digits that fit int64.
  std::optional<int64_t> TakeNumber() {
    text_ = absl::StripLeadingAsciiWhitespace(text_);
    size_t length = 0;
    while (length < text_.size() && absl::ascii_isdigit(static_cast<unsigned char>(text_[length]))) ++length;
    int64_t value = 0;
    if (!absl::SimpleAtoi(text_.substr(0, length), &value)) return std::nullopt;
    text_.remove_prefix(length);
    return value;
  }

  bool AtEnd() const { return absl::StripLeadingAsciiWhitespace(text_).empty(); }

 private:
  absl::string_view text_;
};

absl::StatusOr<DataType> ParseType(Cursor* cursor) {
  const std::optional<absl::string_view> descr = cursor->TakeString();
  if (!descr) return absl::UnimplementedError("is not of a plain numeric type");
  for (const TypeName& name : kTypeNames) {
    if (*descr == name.descr) return name.type;
  }
  return absl::UnimplementedError(
      absl::StrCat("is of type '", absl::string_view(*descr).substr(0, 16), "', which lossd does not have"));
}

absl::Status ParseOrder(Cursor* cursor) {
  if (cursor->Take("False")) return absl::OkStatus();
  if (!cursor->Take("True")) return Garbled();
  return absl::UnimplementedError("is in Fortran order; save numpy.ascontiguousarray of it");
}

absl::StatusOr<Shape> ParseShape(Cursor* cursor) {
  if (!cursor->Take("(")) return Garbled();
  Shape shape;
  while (!cursor->Take(")")) {
    const std::optional<int64_t> dim = cursor->TakeNumber();
    if (!dim) return Garbled();
    if (shape.rank() == Shape::kMaxRank) {
      return absl::UnimplementedError(absl::StrCat("has more than ", Shape::kMaxRank, " axes"));
    }
    shape.push_back(*dim);
    if (cursor->Take(",")) continue;
    if (!cursor->Take(")")) return Garbled();
    break;
  }
  return shape;
}

// The three entries, each absent until it is read.
struct Entries {
  std::optional<DataType> type;
  std::optional<Shape> shape;
  bool has_order = false;
};

absl::Status ParseEntry(Cursor* cursor, Entries* entries) {
  const std::optional<absl::string_view> key = cursor->TakeString();
  if (!key || !cursor->Take(":")) return Garbled();
  if (*key == "descr" && !entries->type) {
    absl::StatusOr<DataType> type = ParseType(cursor);
    if (!type.ok()) return type.status();
    entries->type = *type;
    return absl::OkStatus();
  }
  if (*key == "fortran_order" && !entries->has_order) {
    entries->has_order = true;
    return ParseOrder(cursor);
  }
  if (*key == "shape" && !entries->shape) {
    absl::StatusOr<Shape> shape = ParseShape(cursor);
    if (!shape.ok()) return shape.status();
    entries->shape = *shape;
    return absl::OkStatus();
  }
  return Garbled();
}

}  // namespace

absl::StatusOr<TensorType> ParseNpyHeader(absl::string_view header) {
  Cursor cursor(header);
  if (!cursor.Take("{")) return Garbled();
  Entries entries;
  while (!cursor.Take("}")) {
    absl::Status status = ParseEntry(&cursor, &entries);
    if (!status.ok()) return status;
    if (cursor.Take(",")) continue;
    if (!cursor.Take("}")) return Garbled();
    break;
  }
  if (!cursor.AtEnd() || !entries.type || !entries.shape || !entries.has_order) return Garbled();
  return TensorType{*entries.type, *entries.shape};
}

std::string NpyHeader(const TensorType& type) {
  const char* descr = "";
  for (const TypeName& name : kTypeNames) {
    if (*descr == '\0' && name.type == type.data_type) descr = name.descr;
  }
  std::string header = absl::StrCat("{'descr': '", descr, "', 'fortran_order': False, 'shape': (");
  for (int64_t dim : type.shape.dims()) absl::StrAppend(&header, dim, ",");
  return header + "), }";
}

}  // namespace lossd
