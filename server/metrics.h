// Everything that lossd counts, under the names of docs/operations.md. The only file pair that knows the metrics
// library.
#ifndef LOSSD_SERVER_METRICS_H_
#define LOSSD_SERVER_METRICS_H_

#include <cstdint>
#include <functional>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <vector>

namespace lossd {

// What one evaluated batch tells its job's metrics. Without a job, only the totals.
struct BatchRecord {
  std::string job;
  std::optional<int64_t> step;
  const char* loss_name = "";  // LossSpec's field name: "cross_entropy"
  // As the caller sees it, rounded to the loss's type; none if no element counts.
  std::optional<double> mean_loss;
  int64_t rows = 0;                // elements
  std::optional<double> accuracy;  // correct / live elements, where known
  int64_t nonfinite_count = 0;
};

// A job as the status page shows it.
struct JobStatus {
  std::string job;
  std::optional<int64_t> step;
  double loss = std::numeric_limits<double>::quiet_NaN();  // of its last batch that had one
  int64_t rows = 0;
  std::optional<double> accuracy;
  int64_t nonfinite_count = 0;
  double last_seen_seconds = 0;  // Unix time
};

// Thread-safe. Costs a few mutexes a call, nothing a row.
class Metrics {
 public:
  // What is read at each scrape rather than counted.
  struct Gauges {
    int64_t inflight_requests = 0;
    int64_t inflight_bytes = 0;
    bool draining = false;
  };

  Metrics(int64_t memory_budget_bytes, int max_jobs, const char* version, const char* simd_target,
          std::function<Gauges()> gauges);
  ~Metrics();
  Metrics(const Metrics&) = delete;
  Metrics& operator=(const Metrics&) = delete;

  // One call of a method of lossd.v1.LossService, from its start to its end, when it counts as handled.
  void CallStarted(const std::string& method);
  // `code`: "OK", "InvalidArgument", ...: gRPC's codes as Prometheus's dashboards for gRPC spell them.
  void CallHandled(const std::string& method, const char* code, double seconds);

  // One batch of EvaluateStream, answered with its result or with its error.
  void StreamedBatchAnswered(const char* code);

  void ReceivedBytes(int64_t bytes);
  void SentBytes(int64_t bytes);
  void DecodeSeconds(double seconds);
  void QueueSeconds(double seconds);
  void ComputeSeconds(double seconds);
  // `reason`: "queue", "memory", "too_large" or "draining".
  void Rejected(const char* reason);
  void Evaluated(const BatchRecord& batch);

  // The Prometheus text exposition of all of it.
  std::string Text() const;
  // Jobs with metrics of their own, the most recently seen first.
  std::vector<JobStatus> Jobs() const;

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_METRICS_H_
