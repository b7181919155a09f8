#include "client/cpp/json.h"

#include <cmath>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace lossd {

std::string JsonString(absl::string_view text) {
  std::string json = "\"";
  for (char c : text) {
    if (c == '"' || c == '\\') {
      json += {'\\', c};
    } else if (static_cast<unsigned char>(c) < 0x20) {
      absl::StrAppendFormat(&json, "\\u%04x", static_cast<unsigned>(c));
    } else {
      json += c;
    }
  }
  return json + "\"";
}

void JsonObject::AddJson(absl::string_view key, absl::string_view json) {
  absl::StrAppend(&members_, members_.empty() ? "" : ", ", JsonString(key), ": ", json);
}

void JsonObject::Add(absl::string_view key, double value) {
  if (std::isfinite(value)) return AddJson(key, absl::StrFormat("%.17g", value));
  Add(key, absl::string_view(std::isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity"));
}

void JsonObject::Add(absl::string_view key, int64_t value) { AddJson(key, absl::StrCat(value)); }

void JsonObject::Add(absl::string_view key, absl::string_view value) { AddJson(key, JsonString(value)); }

}  // namespace lossd
