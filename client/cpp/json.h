// The one JSON object that lossctl prints with --json.
#ifndef LOSSD_CLIENT_CPP_JSON_H_
#define LOSSD_CLIENT_CPP_JSON_H_

#include <cstdint>
#include <string>

#include "absl/strings/string_view.h"

namespace lossd {

// Collects members in order. A double is printed with %.17g, so that it reads back as the same double; what JSON has no
// number for becomes a string, "NaN", "Infinity" or "-Infinity", as in protobuf's JSON. Keys and strings are escaped;
// they should be UTF-8 and are passed on as they are where they are not.
class JsonObject {
 public:
  void Add(absl::string_view key, double value);
  void Add(absl::string_view key, int64_t value);
  void Add(absl::string_view key, absl::string_view value);
  // `json` is put in as it is: an object's or array's own text.
  void AddJson(absl::string_view key, absl::string_view json);

  // "{...}", on one line.
  std::string str() const { return "{" + members_ + "}"; }

 private:
  std::string members_;
};

// "[...]" of any range whose elements `to_json` turns into JSON text.
template <typename Range, typename ToJson>
std::string JsonArray(const Range& range, ToJson to_json) {
  std::string array;
  for (const auto& element : range) array += (array.empty() ? "" : ", ") + to_json(element);
  return "[" + array + "]";
}

// `text` in quotes, escaped.
std::string JsonString(absl::string_view text);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_JSON_H_
