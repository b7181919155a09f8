#include "client/cpp/terminal_plot.h"

#include <algorithm>
#include <cmath>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <vector>

#include "absl/strings/str_cat.h"
#include "absl/strings/str_format.h"

namespace lossd {
namespace {

constexpr int kLabelWidth = 9;
constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

std::string Repeat(const char* text, int64_t count) {
  std::string repeated;
  for (int64_t i = 0; i < count; ++i) repeated += text;
  return repeated;
}

std::string WithoutTrailingBlanks(std::string line) {
  line.erase(line.find_last_not_of(' ') + 1);
  return line;
}

// Dots, two by four to a character.
class Canvas {
 public:
  Canvas(int width, int height) : width_(width), cells_(static_cast<size_t>(width * height)) {}

  void Set(int x, int y) {
    // U+2800 plus one bit for each dot: 1 4 / 2 5 / 3 6 / 7 8.
    static constexpr unsigned kBits[4][2] = {{0x01, 0x08}, {0x02, 0x10}, {0x04, 0x20}, {0x40, 0x80}};
    cells_[static_cast<size_t>(y / 4 * width_ + x / 2)] |= kBits[y % 4][x % 2];
  }

  std::string Line(int row) const {
    std::string line;
    for (int column = 0; column < width_; ++column) {
      const unsigned dots = cells_[static_cast<size_t>(row * width_ + column)];
      if (dots == 0) {
        line += ' ';
      } else {
        const char utf8[] = {'\xe2', static_cast<char>(0xa0 | dots >> 6), static_cast<char>(0x80 | (dots & 0x3f))};
        line.append(utf8, sizeof(utf8));
      }
    }
    return line;
  }

 private:
  int width_;
  std::vector<unsigned> cells_;
};

// One value for each of `num_columns` columns: the mean of the finite values that fall into it, or, where there are
// fewer values than columns, the nearest value.
std::vector<float> Resample(std::span<const float> values, int num_columns) {
  std::vector<float> columns(static_cast<size_t>(num_columns), kNaN);
  for (size_t column = 0; column < columns.size() && !values.empty(); ++column) {
    const size_t begin = column * values.size() / columns.size();
    const size_t end = std::max(begin + 1, (column + 1) * values.size() / columns.size());
    double sum = 0;
    int count = 0;
    for (float value : values.subspan(begin, end - begin)) {
      if (!std::isfinite(value)) continue;
      sum += static_cast<double>(value);
      ++count;
    }
    if (count > 0) columns[column] = static_cast<float>(sum / count);
  }
  return columns;
}

struct Range {
  float low = 0;
  float high = 1;
};

Range FiniteRange(std::span<const float> values) {
  Range range{std::numeric_limits<float>::infinity(), -std::numeric_limits<float>::infinity()};
  for (float value : values) {
    if (!std::isfinite(value)) continue;
    range.low = std::min(range.low, value);
    range.high = std::max(range.high, value);
  }
  return range.low <= range.high ? range : Range{};
}

// The dot row of `value`; 0 is the top.
int DotRow(float value, const Range& range, int num_rows) {
  // In double, and halved, so that no difference of two floats overflows.
  const double low = static_cast<double>(range.low) / 2, high = static_cast<double>(range.high) / 2;
  if (high <= low) return num_rows / 2;
  const double share = (high - static_cast<double>(value) / 2) / (high - low);
  return std::clamp(static_cast<int>(std::lround(share * (num_rows - 1))), 0, num_rows - 1);
}

void Draw(std::span<const float> columns, const Range& range, int num_rows, Canvas* canvas) {
  int previous = -1;
  for (size_t x = 0; x < columns.size(); ++x) {
    if (!std::isfinite(columns[x])) {
      previous = -1;
      continue;
    }
    const int row = DotRow(columns[x], range, num_rows);
    // Joined to the column before, from just beside its dot.
    const int from = previous < 0 || previous == row ? row : previous + (row > previous ? 1 : -1);
    for (int y = std::min(from, row); y <= std::max(from, row); ++y) canvas->Set(static_cast<int>(x), y);
    previous = row;
  }
}

std::string YLabel(const Range& range, int line, int height) {
  if (line != 0 && line != height / 2 && line != height - 1) return std::string(kLabelWidth, ' ') + " │";
  const double share = static_cast<double>(line) / (height - 1);
  const double low = static_cast<double>(range.low), high = static_cast<double>(range.high);
  return absl::StrFormat("%*.4g ┤", kLabelWidth, high + (low - high) * share);
}

std::string XAxis(size_t num_values, const PlotOptions& options) {
  const std::string indent(kLabelWidth + 2, ' ');
  const std::string last = absl::StrCat(num_values);
  const int room = options.width - 1 - static_cast<int>(last.size() + options.x_label.size());
  const std::string left(static_cast<size_t>(std::max(room / 2, 1)), ' ');
  const std::string right(static_cast<size_t>(std::max(room - room / 2, 1)), ' ');
  return absl::StrCat(std::string(kLabelWidth, ' '), " └", Repeat("─", options.width), "\n", indent, "1", left,
                      options.x_label, right, last, "\n");
}

}  // namespace

std::string PlotCurve(std::span<const float> values, const PlotOptions& options) {
  const std::vector<float> columns = Resample(values, options.width * 2);
  const Range range = FiniteRange(columns);
  Canvas canvas(options.width, options.height);
  Draw(columns, range, options.height * 4, &canvas);
  std::string plot = options.title.empty() ? "" : options.title + "\n";
  for (int line = 0; line < options.height; ++line) {
    plot += WithoutTrailingBlanks(YLabel(range, line, options.height) + canvas.Line(line)) + "\n";
  }
  return plot + XAxis(values.size(), options);
}

std::string ProgressBar(int64_t done, int64_t total, int width) {
  const int64_t filled = static_cast<int64_t>(static_cast<double>(done) / static_cast<double>(total) * width);
  if (filled >= width) return Repeat("━", width);
  return Repeat("━", filled) + "╺" + Repeat("─", width - filled - 1);
}

}  // namespace lossd
