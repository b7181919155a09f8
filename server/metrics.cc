#include "server/metrics.h"

#include <prometheus/counter.h>
#include <prometheus/gauge.h>
#include <prometheus/histogram.h>
#include <prometheus/registry.h>
#include <prometheus/text_serializer.h>

#include <chrono>
#include <limits>
#include <map>
#include <mutex>

#include "server/job_table.h"
#include "server/process_stats.h"

namespace lossd {
namespace {

using prometheus::ClientMetric;
using prometheus::MetricFamily;
using prometheus::MetricType;
using Labels = std::map<std::string, std::string>;

// From 10 us, a small batch, to 10 s: three buckets a decade hold quantiles to a factor of two.
const prometheus::Histogram::BucketBoundaries kSeconds = {
    1e-5, 2.5e-5, 5e-5, 1e-4, 2.5e-4, 5e-4, 1e-3, 2.5e-3, 5e-3, 1e-2, 2.5e-2, 5e-2, 0.1, 0.25, 0.5, 1, 2.5, 5, 10};

double NowSeconds() {
  return std::chrono::duration<double>(std::chrono::system_clock::now().time_since_epoch()).count();
}

MetricFamily FamilyOf(const char* name, const char* help, MetricType type) {
  MetricFamily family;
  family.name = name;
  family.help = help;
  family.type = type;
  return family;
}

void AddSample(MetricFamily& family, const Labels& labels, double value) {
  ClientMetric metric;
  for (const auto& [name, text] : labels) metric.label.push_back({name, text});
  (family.type == MetricType::Counter ? metric.counter.value : metric.gauge.value) = value;
  family.metric.push_back(std::move(metric));
}

MetricFamily Single(const char* name, const char* help, MetricType type, double value) {
  MetricFamily family = FamilyOf(name, help, type);
  AddSample(family, {}, value);
  return family;
}

std::vector<MetricFamily> ProcessFamilies() {
  const ProcessStats stats = ReadProcessStats();
  const auto number = [](int64_t value) { return static_cast<double>(value); };
  constexpr MetricType kGauge = MetricType::Gauge;
  return {
      Single("process_cpu_seconds_total", "User and system CPU time.", MetricType::Counter, stats.cpu_seconds),
      Single("process_start_time_seconds", "Start of the process, Unix time.", kGauge, stats.start_time_seconds),
      Single("process_resident_memory_bytes", "Resident memory.", kGauge, number(stats.resident_memory_bytes)),
      Single("process_virtual_memory_bytes", "Virtual memory.", kGauge, number(stats.virtual_memory_bytes)),
      Single("process_open_fds", "Open file descriptors.", kGauge, number(stats.open_fds)),
      Single("process_max_fds", "Limit of open file descriptors.", kGauge, number(stats.max_fds)),
      Single("process_threads", "Threads.", kGauge, number(stats.threads)),
  };
}

std::vector<MetricFamily> JobFamilies(const std::vector<JobStatus>& jobs) {
  MetricFamily loss = FamilyOf("lossd_job_loss", "Mean loss of the job's last batch.", MetricType::Gauge);
  MetricFamily step = FamilyOf("lossd_job_step", "The job's training step of its last batch.", MetricType::Gauge);
  MetricFamily rows = FamilyOf("lossd_job_rows_total", "Elements evaluated for the job.", MetricType::Counter);
  MetricFamily accuracy =
      FamilyOf("lossd_job_accuracy", "Share of live elements predicted right in the job's last batch that asked.",
               MetricType::Gauge);
  MetricFamily nonfinite =
      FamilyOf("lossd_job_nonfinite_total", "Elements of the job whose loss was NaN or infinite.", MetricType::Counter);
  MetricFamily seen = FamilyOf("lossd_job_last_seen_seconds", "Unix time of the job's last batch.", MetricType::Gauge);
  for (const JobStatus& job : jobs) {
    const Labels labels = {{"job", job.job}};
    AddSample(loss, labels, job.loss);
    if (job.step) AddSample(step, labels, static_cast<double>(*job.step));
    AddSample(rows, labels, static_cast<double>(job.rows));
    if (job.accuracy) AddSample(accuracy, labels, *job.accuracy);
    AddSample(nonfinite, labels, static_cast<double>(job.nonfinite_count));
    AddSample(seen, labels, job.last_seen_seconds);
  }
  return {loss, step, rows, accuracy, nonfinite, seen};
}

}  // namespace

struct Metrics::State {
  State(int max_jobs, std::function<Gauges()> read_gauges)
      : gauges(std::move(read_gauges)), jobs(static_cast<size_t>(max_jobs)) {}

  prometheus::Counter& AddCounter(const char* name, const char* help) {
    return prometheus::BuildCounter().Name(name).Help(help).Register(registry).Add({});
  }
  prometheus::Histogram& AddHistogram(const char* name, const char* help) {
    return prometheus::BuildHistogram().Name(name).Help(help).Register(registry).Add({}, kSeconds);
  }
  static Labels MethodLabels(const std::string& method) {
    const bool stream = method == "EvaluateStream";
    return {{"grpc_type", stream ? "bidi_stream" : "unary"},
            {"grpc_service", "lossd.v1.LossService"},
            {"grpc_method", method}};
  }

  using CountersByCode = std::map<std::string, prometheus::Counter*, std::less<>>;
  // The series of one method, looked up once: a look-up by labels takes a lock and builds a map.
  struct MethodSeries {
    std::string method;
    prometheus::Counter* started;
    prometheus::Histogram* handling;
    CountersByCode handled;
  };
  // REQUIRES: mutex is held.
  MethodSeries& SeriesOf(const std::string& method) {
    for (MethodSeries& series : methods) {
      if (series.method == method) return series;
    }
    const Labels labels = MethodLabels(method);
    methods.push_back({method, &started.Add(labels), &handling.Add(labels, kSeconds), {}});
    return methods.back();
  }
  template <typename MakeLabels>
  static prometheus::Counter& CounterOf(const char* code, CountersByCode& known,
                                        prometheus::Family<prometheus::Counter>& family,
                                        const MakeLabels& make_labels) {
    const auto found = known.find(code);
    if (found != known.end()) return *found->second;
    Labels labels = make_labels();
    labels["grpc_code"] = code;
    return *(known[code] = &family.Add(labels));
  }
  prometheus::Counter& HandledOf(MethodSeries& series, const char* code) {
    return CounterOf(code, series.handled, handled, [&] { return MethodLabels(series.method); });
  }
  prometheus::Counter& StreamBatchesOf(const char* code) {
    return CounterOf(code, streamed, stream_batches, [] { return Labels(); });
  }
  prometheus::Counter& RowsOf(const char* loss) {
    for (const auto& [name, counter] : rows_of_losses) {
      if (name == loss) return *counter;
    }
    return *rows_of_losses.emplace_back(loss, &rows.Add({{"loss", loss}})).second;
  }

  std::mutex mutex;
  std::vector<MethodSeries> methods;
  CountersByCode streamed;
  std::vector<std::pair<std::string, prometheus::Counter*>> rows_of_losses;

  std::function<Gauges()> gauges;
  JobTable jobs;
  prometheus::Registry registry;
  prometheus::Family<prometheus::Counter>& started =
      prometheus::BuildCounter().Name("grpc_server_started_total").Help("Calls started.").Register(registry);
  prometheus::Family<prometheus::Counter>& handled = prometheus::BuildCounter()
                                                         .Name("grpc_server_handled_total")
                                                         .Help("Calls completed, by status.")
                                                         .Register(registry);
  prometheus::Family<prometheus::Histogram>& handling = prometheus::BuildHistogram()
                                                            .Name("grpc_server_handling_seconds")
                                                            .Help("From the start of a call to its completion.")
                                                            .Register(registry);
  prometheus::Family<prometheus::Counter>& stream_batches = prometheus::BuildCounter()
                                                                .Name("lossd_stream_batches_total")
                                                                .Help("Batches of EvaluateStream answered, by status.")
                                                                .Register(registry);
  prometheus::Family<prometheus::Counter>& rows =
      prometheus::BuildCounter().Name("lossd_rows_total").Help("Elements evaluated, by loss.").Register(registry);
  prometheus::Family<prometheus::Counter>& rejected =
      prometheus::BuildCounter().Name("lossd_rejected_total").Help("Calls refused, by reason.").Register(registry);
  prometheus::Counter& received_bytes = AddCounter("lossd_received_bytes_total", "Bytes of request messages.");
  prometheus::Counter& sent_bytes = AddCounter("lossd_sent_bytes_total", "Bytes of response messages.");
  prometheus::Counter& nonfinite = AddCounter("lossd_nonfinite_total", "Elements whose loss was NaN or infinite.");
  prometheus::Histogram& decode_seconds = AddHistogram("lossd_decode_seconds", "From bytes to a checked request.");
  prometheus::Histogram& queue_seconds =
      AddHistogram("lossd_queue_seconds", "From a checked request to a free thread.");
  prometheus::Histogram& compute_seconds = AddHistogram("lossd_compute_seconds", "Evaluating a batch, wall time.");
};

Metrics::Metrics(int64_t memory_budget_bytes, int max_jobs, const char* version, const char* simd_target,
                 std::function<Gauges()> gauges)
    : state_(std::make_unique<State>(max_jobs, std::move(gauges))) {
  prometheus::BuildGauge()
      .Name("lossd_build_info")
      .Help("1, with what is running as labels.")
      .Register(state_->registry)
      .Add({{"version", version}, {"simd", simd_target}})
      .Set(1);
  prometheus::BuildGauge()
      .Name("lossd_memory_budget_bytes")
      .Help("What all calls in flight may hold together.")
      .Register(state_->registry)
      .Add({})
      .Set(static_cast<double>(memory_budget_bytes));
  // Series that alerts take rates of exist from the start.
  for (const char* reason : {"queue", "memory", "too_large", "draining"}) state_->rejected.Add({{"reason", reason}});
  for (const char* method : {"Evaluate", "EvaluateStream", "GetServerInfo"}) {
    State::MethodSeries& series = state_->SeriesOf(method);
    for (const char* code : {"OK", "Internal"}) state_->HandledOf(series, code);
  }
  for (const char* code : {"OK", "Internal"}) state_->StreamBatchesOf(code);
}

Metrics::~Metrics() = default;

void Metrics::CallStarted(const std::string& method) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  state_->SeriesOf(method).started->Increment();
}

void Metrics::CallHandled(const std::string& method, const char* code, double seconds) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  State::MethodSeries& series = state_->SeriesOf(method);
  series.handling->Observe(seconds);
  state_->HandledOf(series, code).Increment();
}

void Metrics::StreamedBatchAnswered(const char* code) {
  std::lock_guard<std::mutex> lock(state_->mutex);
  state_->StreamBatchesOf(code).Increment();
}

void Metrics::ReceivedBytes(int64_t bytes) { state_->received_bytes.Increment(static_cast<double>(bytes)); }
void Metrics::SentBytes(int64_t bytes) { state_->sent_bytes.Increment(static_cast<double>(bytes)); }
void Metrics::DecodeSeconds(double seconds) { state_->decode_seconds.Observe(seconds); }
void Metrics::QueueSeconds(double seconds) { state_->queue_seconds.Observe(seconds); }
void Metrics::ComputeSeconds(double seconds) { state_->compute_seconds.Observe(seconds); }
void Metrics::Rejected(const char* reason) { state_->rejected.Add({{"reason", reason}}).Increment(); }

void Metrics::Evaluated(const BatchRecord& batch) {
  {
    std::lock_guard<std::mutex> lock(state_->mutex);
    state_->RowsOf(batch.loss_name).Increment(static_cast<double>(batch.rows));
  }
  if (batch.nonfinite_count > 0) state_->nonfinite.Increment(static_cast<double>(batch.nonfinite_count));
  state_->jobs.Add(batch, NowSeconds());
}

std::vector<JobStatus> Metrics::Jobs() const { return state_->jobs.Snapshot(); }

std::string Metrics::Text() const {
  std::vector<MetricFamily> families = state_->registry.Collect();
  const Gauges gauges = state_->gauges();
  const auto append = [&families](std::vector<MetricFamily> more) {
    for (MetricFamily& family : more) families.push_back(std::move(family));
  };
  append({
      Single("lossd_inflight_requests", "Calls and streamed batches in flight.", MetricType::Gauge,
             static_cast<double>(gauges.inflight_requests)),
      Single("lossd_inflight_bytes", "Bytes that calls in flight hold.", MetricType::Gauge,
             static_cast<double>(gauges.inflight_bytes)),
      Single("lossd_draining", "1 while draining.", MetricType::Gauge, gauges.draining ? 1 : 0),
  });
  append(JobFamilies(Jobs()));
  append(ProcessFamilies());
  return prometheus::TextSerializer().Serialize(families);
}

}  // namespace lossd
