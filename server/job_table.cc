#include "server/job_table.h"

namespace lossd {

void JobTable::Add(const BatchRecord& batch, double now_seconds) {
  if (batch.job.empty() || max_jobs_ == 0) return;
  std::lock_guard<std::mutex> lock(mutex_);
  const auto found = index_.find(batch.job);
  if (found != index_.end()) {
    jobs_.splice(jobs_.begin(), jobs_, found->second);
  } else {
    if (jobs_.size() == max_jobs_) {
      index_.erase(jobs_.back().job);
      jobs_.pop_back();
    }
    jobs_.emplace_front().job = batch.job;
    index_.emplace(batch.job, jobs_.begin());
  }
  JobStatus& status = jobs_.front();
  if (batch.step) status.step = batch.step;
  if (batch.accuracy) status.accuracy = batch.accuracy;
  if (batch.mean_loss) status.loss = *batch.mean_loss;
  status.rows += batch.rows;
  status.nonfinite_count += batch.nonfinite_count;
  status.last_seen_seconds = now_seconds;
}

std::vector<JobStatus> JobTable::Snapshot() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return {jobs_.begin(), jobs_.end()};
}

}  // namespace lossd
