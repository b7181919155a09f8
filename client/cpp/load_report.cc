#include "client/cpp/load_report.h"

#include <algorithm>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"
#include "client/cpp/json.h"

namespace lossd {
namespace {

constexpr double kGiga = 1e9;

struct Rates {
  double calls = 0;
  double rows = 0;
  double sent_gigabytes = 0;
  double received_gigabytes = 0;
};

Rates RatesOf(const LoadSize& size, const LoadCounts& counts) {
  const double seconds = counts.seconds();
  if (seconds <= 0) return {};
  const double calls = static_cast<double>(counts.num_answered()) / seconds;
  return {calls, calls * static_cast<double>(size.rows), calls * static_cast<double>(size.request_bytes) / kGiga,
          static_cast<double>(counts.received_bytes) / seconds / kGiga};
}

struct Percentile {
  const char* name;
  double percent;
};
constexpr Percentile kPercentiles[] = {{"p50", 50}, {"p90", 90}, {"p99", 99}, {"p99.9", 99.9}};

std::string Milliseconds(double seconds) {
  const double milliseconds = seconds * 1e3;
  return absl::StrFormat("%.*f", milliseconds < 10 ? 3 : milliseconds < 1000 ? 1 : 0, milliseconds);
}

std::string LatencyText(const LatencyHistogram& latency) {
  if (latency.count() == 0) return "-\n";
  std::string text = absl::StrCat("mean ", Milliseconds(latency.mean_seconds()));
  for (const Percentile& one : kPercentiles) {
    absl::StrAppend(&text, "  ", one.name, " ", Milliseconds(latency.PercentileSeconds(one.percent)));
  }
  return absl::StrCat(text, "  max ", Milliseconds(latency.max_seconds()), " ms\n");
}

std::string LatencyJson(const LatencyHistogram& latency) {
  JsonObject json;
  json.Add("mean", latency.mean_seconds());
  for (const Percentile& one : kPercentiles) json.Add(one.name, latency.PercentileSeconds(one.percent));
  json.Add("max", latency.max_seconds());
  return json.str();
}

std::string CodeName(size_t code) { return absl::StatusCodeToString(static_cast<absl::StatusCode>(code)); }

std::string ErrorsJson(const LoadCounts& counts) {
  JsonObject json;
  for (size_t code = 1; code < counts.by_code.size(); ++code) {
    if (counts.by_code[code] > 0) json.Add(CodeName(code), counts.by_code[code]);
  }
  return json.str();
}

std::string ErrorsText(const LoadCounts& counts) {
  std::string text;
  for (size_t code = 1; code < counts.by_code.size(); ++code) {
    if (counts.by_code[code] > 0) absl::StrAppend(&text, "  ", CodeName(code), " ", counts.by_code[code]);
  }
  if (counts.num_pushbacks > 0) absl::StrAppend(&text, "  (with a time to retry: ", counts.num_pushbacks, ")");
  return absl::StrCat("errors   ", text, "\n               of them: ", counts.first_error, "\n  latency      ",
                      LatencyText(counts.failed));
}

std::string LoopText(const LoadOptions& options) {
  if (options.rate) {
    return absl::StrFormat("open, %g arrivals/s, at most %d out", *options.rate, options.max_outstanding);
  }
  return absl::StrCat("closed, ", NumSlots(options), " at a time");
}

}  // namespace

std::string ProgressText(const LoadSize& size, const LoadResult& result) {
  const LoadCounts& counts = result.counts;
  const Rates rates = RatesOf(size, counts);
  if (counts.num_answered() + counts.num_errors() == 0) return "warming up";
  return absl::StrFormat("%.0f s  %.1f calls/s  %.3f GB/s out, %.3f in  p50 %s ms  p99 %s ms  errors %d  dropped %d",
                         counts.seconds(), rates.calls, rates.sent_gigabytes, rates.received_gigabytes,
                         Milliseconds(counts.answered.PercentileSeconds(50)),
                         Milliseconds(counts.answered.PercentileSeconds(99)), counts.num_errors(), result.num_dropped);
}

std::string LoadText(const LoadOptions& options, const LoadSize& size, const LoadResult& result) {
  const LoadCounts& counts = result.counts;
  const Rates rates = RatesOf(size, counts);
  std::string text =
      absl::StrFormat("load           %s; %d channels, %s\n", LoopText(options), options.num_channels,
                      options.calls == Calls::kUnary ? "unary calls" : absl::StrCat(NumStreams(options), " streams"));
  absl::StrAppendFormat(&text, "answered       %d of %d bytes each, in %.3f s\n", counts.num_answered(),
                        size.request_bytes, counts.seconds());
  absl::StrAppendFormat(&text, "rate           %.1f calls/s, %.0f rows/s, %.3f GB/s out, %.3f GB/s in\n", rates.calls,
                        rates.rows, rates.sent_gigabytes, rates.received_gigabytes);
  absl::StrAppend(&text, "latency        ", LatencyText(counts.answered));
  if (counts.num_errors() > 0) absl::StrAppend(&text, ErrorsText(counts));
  if (result.num_dropped > 0) absl::StrAppend(&text, "dropped        ", result.num_dropped, " arrivals\n");
  return text;
}

std::string LoadJson(const LoadOptions& options, const LoadSize& size, const LoadResult& result) {
  const LoadCounts& counts = result.counts;
  const Rates rates = RatesOf(size, counts);
  JsonObject json;
  json.Add("target", options.target);
  json.Add("calls", absl::string_view(options.calls == Calls::kUnary ? "unary" : "stream"));
  if (options.rate) {
    json.Add("rate", *options.rate);
    json.Add("max_outstanding", int64_t{options.max_outstanding});
  } else {
    json.Add("concurrency", int64_t{NumSlots(options)});
  }
  json.Add("channels", int64_t{options.num_channels});
  if (options.calls == Calls::kStream) json.Add("streams", int64_t{NumStreams(options)});
  json.Add("request_bytes", size.request_bytes);
  json.Add("rows", size.rows);
  json.Add("seconds", counts.seconds());
  json.Add("answered", counts.num_answered());
  json.AddJson("errors", ErrorsJson(counts));
  json.Add("errors_with_pushback", counts.num_pushbacks);
  if (counts.num_errors() > 0) json.Add("first_error", counts.first_error);
  json.Add("dropped", result.num_dropped);
  json.Add("calls_per_second", rates.calls);
  json.Add("rows_per_second", rates.rows);
  json.Add("sent_gigabytes_per_second", rates.sent_gigabytes);
  json.Add("received_gigabytes_per_second", rates.received_gigabytes);
  json.AddJson("latency_seconds", LatencyJson(counts.answered));
  json.AddJson("error_latency_seconds", LatencyJson(counts.failed));
  return json.str();
}

}  // namespace lossd
