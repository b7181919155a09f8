// The results as a table for people, as Markdown for docs/, and as JSON for programs.
//
// A ratio says how many times as fast as the other lossd is; 1 is equally fast, and more is better.
#ifndef LOSSD_BENCH_REPORT_H_
#define LOSSD_BENCH_REPORT_H_

#include <string>
#include <vector>

#include "bench/contest.h"

namespace lossd::bench {

std::string AsText(const GroupResult& group);
std::string Legend();  // what the columns say
std::string AsMarkdown(const std::vector<GroupResult>& groups);

// A list of {"name", "value", "unit", "versus", "versus_value", "ratio"}; versus is null where a value stands alone.
std::string AsJson(const std::vector<GroupResult>& groups);

}  // namespace lossd::bench

#endif  // LOSSD_BENCH_REPORT_H_
