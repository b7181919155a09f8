#include "server/metrics.h"

#include <cmath>
#include <cstdlib>
#include <limits>
#include <map>
#include <set>
#include <sstream>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::Contains;
using ::testing::HasSubstr;
using ::testing::Key;
using ::testing::Not;

// A text exposition: samples by their name and labels, types by name. Complains about lines that are not of the format.
struct Exposition {
  std::map<std::string, double> samples;
  std::map<std::string, std::string> types;

  explicit Exposition(const std::string& text) {
    std::istringstream lines(text);
    for (std::string line; std::getline(lines, line);) Read(line);
  }

  void Read(const std::string& line) {
    std::istringstream words(line);
    std::string word, name, type;
    if (line.rfind("# TYPE ", 0) == 0) {
      words >> word >> word >> name >> type;
      EXPECT_TRUE(types.emplace(name, type).second) << "twice: " << line;
      return;
    }
    if (line.rfind("# HELP ", 0) == 0) return;
    const size_t space = line.rfind(' ');
    ASSERT_NE(space, std::string::npos) << line;
    char* end = nullptr;
    const double value = std::strtod(line.c_str() + space + 1, &end);
    EXPECT_EQ(*end, '\0') << line;
    EXPECT_TRUE(samples.emplace(line.substr(0, space), value).second) << "twice: " << line;
  }

  double operator[](const std::string& sample) const {
    const auto found = samples.find(sample);
    EXPECT_NE(found, samples.end()) << "no sample " << sample;
    return found == samples.end() ? std::nan("") : found->second;
  }
};

class MetricsTest : public ::testing::Test {
 protected:
  Exposition Scrape() const { return Exposition(metrics_.Text()); }

  Metrics::Gauges gauges_;
  Metrics metrics_{123456789, 2, "1.2.3", "AVX2", [this] { return gauges_; }};
};

BatchRecord BatchOf(const std::string& job) {
  BatchRecord batch;
  batch.job = job;
  batch.step = 7;
  batch.loss_name = "cross_entropy";
  batch.mean_loss = 0.5;
  batch.rows = 10;
  batch.accuracy = 0.75;
  return batch;
}

// Everything once.
void FeedAll(Metrics& metrics) {
  metrics.CallStarted("Evaluate");
  metrics.CallHandled("Evaluate", "OK", 0.25);
  metrics.StreamedBatchAnswered("OK");
  metrics.ReceivedBytes(1000);
  metrics.SentBytes(2000);
  metrics.DecodeSeconds(0.001);
  metrics.QueueSeconds(0.002);
  metrics.ComputeSeconds(0.003);
  metrics.Rejected("memory");
  metrics.Evaluated(BatchOf("digits"));
}

TEST_F(MetricsTest, EveryNameWithItsType) {
  FeedAll(metrics_);
  const Exposition text = Scrape();
  const std::map<std::string, std::string> want = {
      {"grpc_server_started_total", "counter"},
      {"grpc_server_handled_total", "counter"},
      {"grpc_server_handling_seconds", "histogram"},
      {"lossd_queue_seconds", "histogram"},
      {"lossd_compute_seconds", "histogram"},
      {"lossd_decode_seconds", "histogram"},
      {"lossd_rows_total", "counter"},
      {"lossd_received_bytes_total", "counter"},
      {"lossd_sent_bytes_total", "counter"},
      {"lossd_inflight_requests", "gauge"},
      {"lossd_inflight_bytes", "gauge"},
      {"lossd_memory_budget_bytes", "gauge"},
      {"lossd_rejected_total", "counter"},
      {"lossd_stream_batches_total", "counter"},
      {"lossd_nonfinite_total", "counter"},
      {"lossd_draining", "gauge"},
      {"lossd_build_info", "gauge"},
      {"lossd_job_loss", "gauge"},
      {"lossd_job_step", "gauge"},
      {"lossd_job_rows_total", "counter"},
      {"lossd_job_accuracy", "gauge"},
      {"lossd_job_nonfinite_total", "counter"},
      {"lossd_job_last_seen_seconds", "gauge"},
      {"process_cpu_seconds_total", "counter"},
      {"process_start_time_seconds", "gauge"},
      {"process_resident_memory_bytes", "gauge"},
      {"process_virtual_memory_bytes", "gauge"},
      {"process_open_fds", "gauge"},
      {"process_max_fds", "gauge"},
      {"process_threads", "gauge"},
  };
  EXPECT_EQ(text.types, want);
  for (const auto& [name, type] : want) {
    const auto first = text.samples.lower_bound(name);
    EXPECT_TRUE(first != text.samples.end() && first->first.rfind(name, 0) == 0) << name;
  }
}

TEST_F(MetricsTest, WhatIsThereBeforeTheFirstCall) {
  const Exposition text = Scrape();
  EXPECT_EQ(text["lossd_build_info{simd=\"AVX2\",version=\"1.2.3\"}"], 1);
  EXPECT_EQ(text["lossd_memory_budget_bytes"], 123456789);
  for (const char* sample : {
           "lossd_rejected_total{reason=\"memory\"}",
           "lossd_rejected_total{reason=\"too_large\"}",
           "lossd_rejected_total{reason=\"draining\"}",
           "lossd_stream_batches_total{grpc_code=\"OK\"}",
           "lossd_stream_batches_total{grpc_code=\"Internal\"}",
           "lossd_received_bytes_total",
           "lossd_sent_bytes_total",
           "lossd_nonfinite_total",
           "lossd_decode_seconds_count",
           "lossd_queue_seconds_count",
           "lossd_compute_seconds_count",
           "lossd_inflight_requests",
           "lossd_inflight_bytes",
           "lossd_draining",
       }) {
    EXPECT_EQ(text[sample], 0) << sample;
  }
  for (const char* type_and_method : {
           "grpc_method=\"Evaluate\",grpc_service=\"lossd.v1.LossService\",grpc_type=\"unary\"",
           "grpc_method=\"EvaluateStream\",grpc_service=\"lossd.v1.LossService\",grpc_type=\"bidi_stream\"",
           "grpc_method=\"GetServerInfo\",grpc_service=\"lossd.v1.LossService\",grpc_type=\"unary\"",
       }) {
    const std::string labels = type_and_method;
    EXPECT_EQ(text["grpc_server_started_total{" + labels + "}"], 0);
    EXPECT_EQ(text["grpc_server_handled_total{grpc_code=\"OK\"," + labels + "}"], 0);
    EXPECT_EQ(text["grpc_server_handled_total{grpc_code=\"Internal\"," + labels + "}"], 0);
  }
}

TEST_F(MetricsTest, Calls) {
  for (int i = 0; i < 3; ++i) metrics_.CallStarted("Evaluate");
  metrics_.CallHandled("Evaluate", "OK", 0.02);
  metrics_.CallHandled("Evaluate", "InvalidArgument", 0.2);
  metrics_.CallStarted("GetServerInfo");
  const Exposition text = Scrape();
  const std::string labels = "grpc_method=\"Evaluate\",grpc_service=\"lossd.v1.LossService\",grpc_type=\"unary\"";
  EXPECT_EQ(text["grpc_server_started_total{" + labels + "}"], 3);
  EXPECT_EQ(text["grpc_server_handled_total{grpc_code=\"OK\"," + labels + "}"], 1);
  EXPECT_EQ(text["grpc_server_handled_total{grpc_code=\"InvalidArgument\"," + labels + "}"], 1);
  EXPECT_EQ(text["grpc_server_handling_seconds_count{" + labels + "}"], 2);
  EXPECT_DOUBLE_EQ(text["grpc_server_handling_seconds_sum{" + labels + "}"], 0.22);
  EXPECT_EQ(text["grpc_server_handling_seconds_bucket{" + labels + ",le=\"0.025\"}"], 1);
  EXPECT_EQ(text["grpc_server_handling_seconds_bucket{" + labels + ",le=\"+Inf\"}"], 2);
}

TEST_F(MetricsTest, CountersAddUp) {
  metrics_.ReceivedBytes(1000);
  metrics_.ReceivedBytes(0);
  metrics_.ReceivedBytes(int64_t{1} << 40);
  metrics_.SentBytes(5);
  metrics_.Rejected("too_large");
  metrics_.Rejected("too_large");
  for (const char* code : {"OK", "InvalidArgument", "OK"}) metrics_.StreamedBatchAnswered(code);
  const Exposition text = Scrape();
  EXPECT_EQ(text["lossd_received_bytes_total"], 1000 + std::ldexp(1.0, 40));
  EXPECT_EQ(text["lossd_sent_bytes_total"], 5);
  EXPECT_EQ(text["lossd_rejected_total{reason=\"too_large\"}"], 2);
  EXPECT_EQ(text["lossd_rejected_total{reason=\"memory\"}"], 0);
  EXPECT_EQ(text["lossd_stream_batches_total{grpc_code=\"OK\"}"], 2);
  EXPECT_EQ(text["lossd_stream_batches_total{grpc_code=\"InvalidArgument\"}"], 1);
  EXPECT_EQ(text["lossd_stream_batches_total{grpc_code=\"Internal\"}"], 0);
}

TEST_F(MetricsTest, Histograms) {
  metrics_.DecodeSeconds(1e-6);
  metrics_.QueueSeconds(0.3);
  metrics_.ComputeSeconds(0);
  metrics_.ComputeSeconds(1000);
  const Exposition text = Scrape();
  EXPECT_EQ(text["lossd_decode_seconds_bucket{le=\"1e-05\"}"], 1);
  EXPECT_EQ(text["lossd_queue_seconds_bucket{le=\"0.25\"}"], 0);
  EXPECT_EQ(text["lossd_queue_seconds_bucket{le=\"0.5\"}"], 1);
  EXPECT_EQ(text["lossd_compute_seconds_bucket{le=\"10\"}"], 1);
  EXPECT_EQ(text["lossd_compute_seconds_bucket{le=\"+Inf\"}"], 2);
  EXPECT_EQ(text["lossd_compute_seconds_sum"], 1000);
}

TEST_F(MetricsTest, GaugesAreReadAtEachScrape) {
  gauges_ = {.inflight_requests = 3, .inflight_bytes = 4000, .draining = false};
  EXPECT_EQ(Scrape()["lossd_inflight_requests"], 3);
  EXPECT_EQ(Scrape()["lossd_inflight_bytes"], 4000);
  EXPECT_EQ(Scrape()["lossd_draining"], 0);
  gauges_ = {.inflight_requests = 0, .inflight_bytes = 0, .draining = true};
  EXPECT_EQ(Scrape()["lossd_inflight_requests"], 0);
  EXPECT_EQ(Scrape()["lossd_inflight_bytes"], 0);
  EXPECT_EQ(Scrape()["lossd_draining"], 1);
}

TEST_F(MetricsTest, AJob) {
  BatchRecord batch = BatchOf("team/digits:1.0");
  metrics_.Evaluated(batch);
  batch.step = 8;
  batch.mean_loss = 0.25;
  batch.nonfinite_count = 2;
  batch.accuracy.reset();
  metrics_.Evaluated(batch);
  const Exposition text = Scrape();
  const std::string label = "{job=\"team/digits:1.0\"}";
  EXPECT_EQ(text["lossd_job_loss" + label], 0.25);
  EXPECT_EQ(text["lossd_job_step" + label], 8);
  EXPECT_EQ(text["lossd_job_rows_total" + label], 20);
  EXPECT_EQ(text["lossd_job_accuracy" + label], 0.75);
  EXPECT_EQ(text["lossd_job_nonfinite_total" + label], 2);
  EXPECT_GT(text["lossd_job_last_seen_seconds" + label], 1.6e9);
  EXPECT_EQ(text["lossd_rows_total{loss=\"cross_entropy\"}"], 20);
  EXPECT_EQ(text["lossd_nonfinite_total"], 2);
}

// Prometheus must read back the very number that the caller got: to the bit for float32, and to the 16 digits that
// prometheus-cpp prints for float64.
TEST_F(MetricsTest, LossesKeepTheirDigits) {
  for (const float loss : {2.3025851f, 1.1754944e-38f, 3.4028235e38f, -0.1f, 0.0f}) {
    BatchRecord batch = BatchOf("digits");
    batch.mean_loss = loss;
    metrics_.Evaluated(batch);
    EXPECT_EQ(static_cast<float>(Scrape()["lossd_job_loss{job=\"digits\"}"]), loss);
  }
  for (const double loss : {2.302585092994046, 1e-300, 1.0 / 3}) {
    BatchRecord batch = BatchOf("digits");
    batch.mean_loss = loss;
    metrics_.Evaluated(batch);
    EXPECT_NEAR(Scrape()["lossd_job_loss{job=\"digits\"}"], loss, 1e-15 * loss);
  }
}

TEST_F(MetricsTest, LossesThatAreNotFinite) {
  struct Case {
    double loss;
    const char* want;
  };
  constexpr double kInfinity = std::numeric_limits<double>::infinity();
  for (const Case& test : {Case{std::nan(""), "Nan"}, Case{kInfinity, "+Inf"}, Case{-kInfinity, "-Inf"}}) {
    BatchRecord batch = BatchOf("digits");
    batch.mean_loss = test.loss;
    metrics_.Evaluated(batch);
    EXPECT_THAT(metrics_.Text(), HasSubstr(std::string("lossd_job_loss{job=\"digits\"} ") + test.want + "\n"));
  }
}

TEST_F(MetricsTest, AJobWithoutStepAndAccuracyHasNoSampleOfThem) {
  BatchRecord batch = BatchOf("digits");
  batch.step.reset();
  batch.accuracy.reset();
  metrics_.Evaluated(batch);
  const Exposition text = Scrape();
  EXPECT_THAT(text.samples, Not(Contains(Key("lossd_job_step{job=\"digits\"}"))));
  EXPECT_THAT(text.samples, Not(Contains(Key("lossd_job_accuracy{job=\"digits\"}"))));
  EXPECT_EQ(text["lossd_job_loss{job=\"digits\"}"], 0.5);
}

TEST_F(MetricsTest, TheLeastRecentlySeenJobIsDropped) {
  for (const char* job : {"a", "b", "a", "c"}) metrics_.Evaluated(BatchOf(job));
  const std::string text = metrics_.Text();
  EXPECT_THAT(text, Not(HasSubstr("{job=\"b\"}")));
  for (const char* job : {"a", "c"}) EXPECT_THAT(text, HasSubstr("lossd_job_loss{job=\"" + std::string(job) + "\"}"));
  EXPECT_EQ(metrics_.Jobs().size(), 2u);
  EXPECT_EQ(metrics_.Jobs()[0].job, "c");
  EXPECT_EQ(Scrape()["lossd_rows_total{loss=\"cross_entropy\"}"], 40);  // the totals forget nobody
}

TEST_F(MetricsTest, ABatchWithoutAJobCountsInTheTotalsOnly) {
  metrics_.Evaluated(BatchOf(""));
  EXPECT_THAT(metrics_.Text(), Not(HasSubstr("{job=")));
  EXPECT_EQ(Scrape()["lossd_rows_total{loss=\"cross_entropy\"}"], 10);
  EXPECT_TRUE(metrics_.Jobs().empty());
}

TEST_F(MetricsTest, TheProcessIsThere) {
  const Exposition text = Scrape();
  EXPECT_GT(text["process_resident_memory_bytes"], 1e5);
  EXPECT_GT(text["process_open_fds"], 0);
  EXPECT_GE(text["process_threads"], 1);
}

TEST_F(MetricsTest, ManyThreadsAndAScraperLoseNothing) {
  constexpr int kThreads = 4, kEach = 500;
  std::vector<std::thread> threads;
  for (int t = 0; t < kThreads; ++t) {
    threads.emplace_back([this] {
      for (int i = 0; i < kEach; ++i) FeedAll(metrics_);
    });
  }
  for (int i = 0; i < 20; ++i) Scrape();
  for (std::thread& thread : threads) thread.join();
  const Exposition text = Scrape();
  EXPECT_EQ(text["lossd_received_bytes_total"], 1000.0 * kThreads * kEach);
  EXPECT_EQ(text["lossd_compute_seconds_count"], kThreads * kEach);
  EXPECT_EQ(text["lossd_job_rows_total{job=\"digits\"}"], 10.0 * kThreads * kEach);
}

}  // namespace
}  // namespace lossd
