#include "server/status_page.h"

#include <cmath>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::AllOf;
using ::testing::EndsWith;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

ServerStatus SomeStatus() {
  ServerStatus status;
  status.version = "1.2.3";
  status.simd_target = "AVX2";
  status.threads = 8;
  status.gauges = {.inflight_requests = 3, .inflight_bytes = 4000, .draining = false};
  status.memory_budget_bytes = 5000;
  status.now_seconds = 1000;
  return status;
}

JobStatus SomeJob(const std::string& name) {
  JobStatus job;
  job.job = name;
  job.step = 17;
  job.loss = 2.3025;
  job.rows = 1234;
  job.accuracy = 0.945;
  job.last_seen_seconds = 940;
  return job;
}

TEST(StatusPageTest, TheServer) {
  const std::string page = RenderStatusPage(SomeStatus());
  EXPECT_THAT(page, AllOf(StartsWith("<!doctype html>\n"), EndsWith("</html>\n")));
  EXPECT_THAT(page, HasSubstr("Version 1.2.3, 8 compute threads on AVX2."));
  EXPECT_THAT(page, HasSubstr("3 calls in flight hold 4000 of 5000 bytes."));
  EXPECT_THAT(page, HasSubstr("No job has sent a batch yet."));
  EXPECT_THAT(page, Not(HasSubstr("<table>")));
}

TEST(StatusPageTest, NoScriptAndNothingFromElsewhere) {
  ServerStatus status = SomeStatus();
  status.jobs = {SomeJob("digits")};
  const std::string page = RenderStatusPage(status);
  for (const char* part : {"<script", "http:", "https:", "src=", "@import", "url("}) {
    EXPECT_THAT(page, Not(HasSubstr(part)));
  }
}

TEST(StatusPageTest, Draining) {
  ServerStatus status = SomeStatus();
  EXPECT_THAT(RenderStatusPage(status), Not(HasSubstr("Draining")));
  status.gauges.draining = true;
  EXPECT_THAT(RenderStatusPage(status), HasSubstr("Draining."));
}

TEST(StatusPageTest, AJob) {
  ServerStatus status = SomeStatus();
  status.jobs = {SomeJob("team/digits:1.0")};
  const std::string page = RenderStatusPage(status);
  EXPECT_THAT(page, HasSubstr("<tr><td>team/digits:1.0</td><td>17</td><td>2.3025</td><td>94.50 %</td><td>1234</td>"
                              "<td>0</td><td>60 s ago</td></tr>"));
  EXPECT_THAT(page, Not(HasSubstr("No job")));
}

TEST(StatusPageTest, OneColumnForEachHeading) {
  ServerStatus status = SomeStatus();
  status.jobs = {SomeJob("digits")};
  const std::string page = RenderStatusPage(status);
  const auto count = [&page](const std::string& part) {
    int found = 0;
    for (size_t at = 0; (at = page.find(part, at)) != std::string::npos; ++at) ++found;
    return found;
  };
  EXPECT_EQ(count("<th>"), 7);
  EXPECT_EQ(count("<td>"), 7);
  EXPECT_EQ(count("</td>"), 7);
}

TEST(StatusPageTest, WhatIsNotKnownIsADash) {
  ServerStatus status = SomeStatus();
  status.jobs = {SomeJob("digits")};
  status.jobs[0].step.reset();
  status.jobs[0].accuracy.reset();
  EXPECT_THAT(RenderStatusPage(status), HasSubstr("<td>digits</td><td>&ndash;</td><td>2.3025</td><td>&ndash;</td>"));
}

TEST(StatusPageTest, LossesThatAreNotFiniteStandOut) {
  ServerStatus status = SomeStatus();
  status.jobs = {SomeJob("digits")};
  status.jobs[0].loss = std::nan("");
  status.jobs[0].nonfinite_count = 5;
  EXPECT_THAT(RenderStatusPage(status), AllOf(HasSubstr("<td>nan</td>"), HasSubstr("<td class=\"bad\">5</td>")));
}

TEST(StatusPageTest, JobsAreListedAsTheyCome) {
  ServerStatus status = SomeStatus();
  status.jobs = {SomeJob("second"), SomeJob("first")};
  const std::string page = RenderStatusPage(status);
  EXPECT_LT(page.find("<td>second</td>"), page.find("<td>first</td>"));
}

}  // namespace
}  // namespace lossd
