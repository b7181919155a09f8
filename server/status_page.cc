#include "server/status_page.h"

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace lossd {
namespace {

constexpr char kHead[] = R"(<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<meta http-equiv="refresh" content="5">
<title>lossd</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; color: #1b1f24; }
table { border-collapse: collapse; width: 100%; margin: 1rem 0; }
th, td { text-align: right; padding: .3rem .6rem; border-bottom: 1px solid #d9dee3; font-variant-numeric: tabular-nums; }
th:first-child, td:first-child { text-align: left; }
th { color: #57606a; font-weight: 600; }
.bad { color: #b42318; font-weight: 600; }
</style>
</head>
<body>
<h1>lossd</h1>
)";

std::string RenderJob(const JobStatus& job, double now_seconds) {
  // Names of jobs are [A-Za-z0-9_.:/-]: nothing to escape.
  return absl::StrCat("<tr><td>", job.job, "</td><td>", job.step ? absl::StrCat(*job.step) : "&ndash;", "</td><td>",
                      absl::StrFormat("%.6g", job.loss), "</td><td>",
                      job.accuracy ? absl::StrFormat("%.2f %%", 100 * *job.accuracy) : "&ndash;", "</td><td>", job.rows,
                      job.nonfinite_count > 0 ? "</td><td class=\"bad\">" : "</td><td>", job.nonfinite_count,
                      "</td><td>", absl::StrFormat("%.0f s ago", now_seconds - job.last_seen_seconds), "</td></tr>\n");
}

}  // namespace

std::string RenderStatusPage(const ServerStatus& status) {
  std::string page = kHead;
  absl::StrAppend(&page, "<p>Version ", status.version, ", ", status.threads, " compute threads on ",
                  status.simd_target, ". ", status.gauges.draining ? "<span class=\"bad\">Draining.</span> " : "",
                  status.gauges.inflight_requests, " calls in flight hold ", status.gauges.inflight_bytes, " of ",
                  status.memory_budget_bytes, " bytes. <a href=\"/metrics\">metrics</a></p>\n");
  if (status.jobs.empty()) return page + "<p>No job has sent a batch yet.</p>\n</body>\n</html>\n";
  page +=
      "<table>\n<tr><th>job</th><th>step</th><th>loss</th><th>accuracy</th><th>rows</th><th>not finite</th>"
      "<th>last seen</th></tr>\n";
  for (const JobStatus& job : status.jobs) page += RenderJob(job, status.now_seconds);
  return page + "</table>\n</body>\n</html>\n";
}

}  // namespace lossd
