// The jobs that have metrics of their own: a bounded table, the least recently seen job dropped first.
#ifndef LOSSD_SERVER_JOB_TABLE_H_
#define LOSSD_SERVER_JOB_TABLE_H_

#include <cstddef>
#include <list>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "server/metrics.h"

namespace lossd {

// Thread-safe.
class JobTable {
 public:
  explicit JobTable(size_t max_jobs) : max_jobs_(max_jobs) {}

  // Adds a batch to its job's line. Batches without a job, or with no room for any, leave no trace.
  void Add(const BatchRecord& batch, double now_seconds);

  // The most recently seen first.
  std::vector<JobStatus> Snapshot() const;

 private:
  const size_t max_jobs_;
  mutable std::mutex mutex_;
  std::list<JobStatus> jobs_;  // most recently seen first
  std::unordered_map<std::string, std::list<JobStatus>::iterator> index_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_JOB_TABLE_H_
