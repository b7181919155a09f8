// The page a person sees at / of the HTTP port: what runs here, and the loss of every job.
#ifndef LOSSD_SERVER_STATUS_PAGE_H_
#define LOSSD_SERVER_STATUS_PAGE_H_

#include <string>
#include <vector>

#include "server/metrics.h"

namespace lossd {

struct ServerStatus {
  std::string version;
  std::string simd_target;
  int threads = 0;
  Metrics::Gauges gauges;
  int64_t memory_budget_bytes = 0;
  std::vector<JobStatus> jobs;  // as they are to be listed
  double now_seconds = 0;       // Unix time
};

// An HTML document without scripts and without anything from elsewhere.
std::string RenderStatusPage(const ServerStatus& status);

}  // namespace lossd

#endif  // LOSSD_SERVER_STATUS_PAGE_H_
