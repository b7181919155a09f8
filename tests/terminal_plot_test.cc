#include "client/cpp/terminal_plot.h"

#include <limits>
#include <string>
#include <vector>

#include "absl/strings/str_split.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace lossd {
namespace {

using ::testing::HasSubstr;

constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();
constexpr float kInfinity = std::numeric_limits<float>::infinity();

PlotOptions Small() {
  PlotOptions options;
  options.width = 10;
  options.height = 3;
  options.title = "loss";
  options.x_label = "step";
  return options;
}

TEST(TerminalPlotTest, DrawsAFallingLine) {
  std::vector<float> values;
  for (int i = 0; i < 20; ++i) values.push_back(static_cast<float>(19 - i));
  EXPECT_EQ(PlotCurve(values, Small()),
            "loss\n"
            "       19 ┤⠑⠢⢄⡀\n"
            "      9.5 ┤   ⠈⠒⠤⡀\n"
            "        0 ┤      ⠈⠑⠢⢄\n"
            "          └──────────\n"
            "           1 step  20\n");
}

TEST(TerminalPlotTest, HasTheShapeAskedFor) {
  PlotOptions options;
  for (size_t count : {size_t{0}, size_t{1}, size_t{2}, size_t{119}, size_t{120}, size_t{121}, size_t{100'000}}) {
    const std::string plot = PlotCurve(std::vector<float>(count, 1.0f), options);
    const std::vector<std::string> lines = absl::StrSplit(plot, '\n');
    EXPECT_EQ(lines.size(), 12u + 2u + 1u) << count;  // the plot, the axis and its labels, the end
    for (const std::string& line : lines) EXPECT_FALSE(!line.empty() && line.back() == ' ') << line;
  }
}

TEST(TerminalPlotTest, ValuesThatAreNotFiniteLeaveAGap) {
  const std::string plot = PlotCurve(std::vector<float>{1, kNaN, kInfinity, -kInfinity, 2}, Small());
  EXPECT_THAT(plot, HasSubstr("2 ┤"));
  EXPECT_THAT(plot, HasSubstr("1 ┤"));
  EXPECT_THAT(PlotCurve(std::vector<float>(5, kNaN), Small()), HasSubstr("0 ┤\n"));
}

TEST(TerminalPlotTest, TheWidestRangeDoesNotOverflow) {
  const float largest = std::numeric_limits<float>::max();
  EXPECT_THAT(PlotCurve(std::vector<float>{-largest, largest}, Small()), HasSubstr("3.403e+38 ┤"));
}

TEST(ProgressBarTest, Fills) {
  EXPECT_EQ(ProgressBar(0, 10, 5), "╺────");
  EXPECT_EQ(ProgressBar(5, 10, 5), "━━╺──");
  EXPECT_EQ(ProgressBar(9, 10, 5), "━━━━╺");
  EXPECT_EQ(ProgressBar(10, 10, 5), "━━━━━");
}

}  // namespace
}  // namespace lossd
