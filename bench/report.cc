#include "bench/report.h"

#include <algorithm>
#include <iterator>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "absl/strings/str_join.h"
#include "absl/strings/str_replace.h"

namespace lossd::bench {
namespace {

constexpr double kGiga = 1e9;

std::string Time(double seconds) {
  if (seconds >= 0.01) return absl::StrFormat("%.1f ms", seconds * 1e3);
  if (seconds >= 0.001) return absl::StrFormat("%.2f ms", seconds * 1e3);
  return absl::StrFormat("%.2f us", seconds * 1e6);
}

std::string Times(double ratio) {
  return ratio < 10 ? absl::StrFormat("%.2fx", ratio) : absl::StrFormat("%.1fx", ratio);
}

// Null where the group has no such limit.
const LimitResult* Find(const GroupResult& group, Limit limit) {
  for (const LimitResult& result : group.limits) {
    if (result.limit == limit) return &result;
  }
  return nullptr;
}
const CaseResult* Find(const GroupResult& group, const std::string& name) {
  for (const CaseResult& result : group.cases) {
    if (result.what.name == name) return &result;
  }
  return nullptr;
}

double Bandwidth(const CaseResult& result) { return result.what.bytes / result.seconds; }
double Rate(const CaseResult& result) { return result.what.elements / result.seconds; }

// What a row of the tables says, column by column.
std::vector<std::string> Cells(const GroupResult& group, const CaseResult& result) {
  std::vector<std::string> cells = {result.what.name, Time(result.seconds),
                                    absl::StrFormat("%.2f", Bandwidth(result) / kGiga),
                                    absl::StrFormat("%.2f", Rate(result) / kGiga)};
  std::vector<std::string> limits;
  for (Limit limit : result.what.limits) {
    const LimitResult* const found = Find(group, limit);
    limits.push_back(absl::StrFormat("%.2f %s", Bandwidth(result) / found->bytes_per_second, Name(limit)));
  }
  cells.push_back(absl::StrJoin(limits, " "));
  for (const char* peer : kPeerNames) {
    std::string& cell = cells.emplace_back();
    for (const PeerResult& one : result.peers) {
      if (one.peer == peer) cell = Times(one.seconds / result.seconds);
    }
  }
  const CaseResult* const versus = Find(group, result.what.versus);
  cells.push_back(versus == nullptr ? "" : Times(Rate(result) / Rate(*versus)));
  return cells;
}

const std::vector<std::string>& Titles() {
  static const auto& titles = *new std::vector<std::string>{"case",     "time", "GB/s",    "Gelem/s", "of limit",
                                                            "libtorch", "kept", "PyTorch", "oneDNN",  "versus"};
  return titles;
}
constexpr size_t kWidths[] = {66, 10, 8, 8, 21, 9, 8, 8, 8, 8};

std::string Line(const std::vector<std::string>& cells) {
  std::string line = absl::StrFormat("  %-*s", static_cast<int>(kWidths[0]), cells[0]);
  for (size_t i = 1; i < cells.size(); ++i) {
    absl::StrAppendFormat(&line, "%*s", static_cast<int>(kWidths[i]), cells[i]);
  }
  line.erase(line.find_last_not_of(' ') + 1);
  return absl::StrCat(line, "\n");
}

std::string LimitsOf(const GroupResult& group) {
  std::vector<std::string> limits;
  for (const LimitResult& result : group.limits) {
    limits.push_back(
        absl::StrFormat("%s %.2f GB/s (%s)", Name(result.limit), result.bytes_per_second / kGiga, result.loop));
  }
  return absl::StrJoin(limits, "; ");
}

// One line of the JSON list.
std::string Entry(const std::string& name, double value, const char* unit, const std::string& versus = "",
                  double versus_value = 0, double ratio = 0) {
  const std::string head = absl::StrFormat(R"({"name": "%s", "value": %.6g, "unit": "%s", )", name, value, unit);
  if (versus.empty()) return absl::StrCat(head, R"("versus": null, "versus_value": null, "ratio": null})");
  return absl::StrCat(
      head, absl::StrFormat(R"("versus": "%s", "versus_value": %.6g, "ratio": %.4g})", versus, versus_value, ratio));
}

void AppendEntries(const GroupResult& group, const CaseResult& result, std::vector<std::string>& entries) {
  const std::string& name = result.what.name;
  entries.push_back(Entry(name, result.seconds * 1e3, "ms"));
  for (Limit limit : result.what.limits) {
    const double own = Bandwidth(result), other = Find(group, limit)->bytes_per_second;
    entries.push_back(
        Entry(name, own / kGiga, "GB/s", absl::StrCat(Name(limit), "_bandwidth"), other / kGiga, own / other));
  }
  for (const PeerResult& peer : result.peers) {
    entries.push_back(
        Entry(name, result.seconds * 1e3, "ms", peer.peer, peer.seconds * 1e3, peer.seconds / result.seconds));
  }
  if (const CaseResult* const versus = Find(group, result.what.versus)) {
    const double own = Rate(result), other = Rate(*versus);
    entries.push_back(Entry(name, own / kGiga, "Gelements/s", versus->what.name, other / kGiga, own / other));
  }
}

}  // namespace

std::string AsText(const GroupResult& group) {
  std::string text = absl::StrCat("\n", group.name, "   ", LimitsOf(group), "   ", group.rounds, " rounds\n");
  absl::StrAppend(&text, Line(Titles()));
  for (const CaseResult& result : group.cases) absl::StrAppend(&text, Line(Cells(group, result)));
  return text;
}

std::string Legend() {
  return "\nof limit: GB/s over the machine's. The rest: lossd is so many times as fast as libtorch; as libtorch with "
         "an\n"
         "allocator that keeps memory; as PyTorch in Python; as oneDNN's log-softmax; versus: as the same case "
         "without\n"
         "the last part of its name (float16 and bfloat16: as float32), in elements per second.\n";
}

std::string AsMarkdown(const std::vector<GroupResult>& groups) {
  std::string text = absl::StrCat("| ", absl::StrJoin(Titles(), " | "), " |\n|---|");
  for (size_t i = 1; i < Titles().size(); ++i) absl::StrAppend(&text, "--:|");
  absl::StrAppend(&text, "\n");
  for (const GroupResult& group : groups) {
    absl::StrAppend(&text, "| **", group.name, "** ", LimitsOf(group), " |");
    for (size_t i = 1; i < Titles().size(); ++i) absl::StrAppend(&text, " |");
    absl::StrAppend(&text, "\n");
    for (const CaseResult& result : group.cases) {
      absl::StrAppend(&text, "| ", absl::StrJoin(Cells(group, result), " | "), " |\n");
    }
  }
  return text;
}

std::string AsJson(const std::vector<GroupResult>& groups) {
  std::vector<std::string> entries;
  for (const GroupResult& group : groups) {
    for (const LimitResult& limit : group.limits) {
      const std::string size = absl::StrReplaceAll(group.name, {{", ", "/"}, {" ", "_"}});
      entries.push_back(Entry(absl::StrCat("limit/", Name(limit.limit), "_bandwidth/", size),
                              limit.bytes_per_second / kGiga, "GB/s"));
    }
    for (const CaseResult& result : group.cases) {
      if (!result.what.reference) AppendEntries(group, result, entries);
    }
  }
  return absl::StrCat("[\n  ", absl::StrJoin(entries, ",\n  "), "\n]\n");
}

}  // namespace lossd::bench
