// Progress and curves in a terminal, as strings: nothing here writes anywhere.
#ifndef LOSSD_CLIENT_CPP_TERMINAL_PLOT_H_
#define LOSSD_CLIENT_CPP_TERMINAL_PLOT_H_

#include <cstdint>
#include <span>
#include <string>

namespace lossd {

struct PlotOptions {
  int width = 60;   // of the plot itself, in characters; at least 8
  int height = 12;  // in lines; at least 2
  std::string title;
  std::string x_label;
};

// A curve through values[0], values[1], ... drawn with Braille dots (two by four in a character), under the title, with
// labelled axes; the y axis spans the values. Where several values share a column, their mean is drawn. Values that are
// not finite leave a gap. UTF-8, every line ends with '\n' and no line with a blank.
//
//   loss by step
//    2.302 ┤⠑⢄
//    1.201 ┤  ⠑⠒⠤⣀
//    0.101 ┤      ⠉⠑⠒⠒
//          └──────────
//           1      690
std::string PlotCurve(std::span<const float> values, const PlotOptions& options);

// "━━━━━━━━━╺─────────": `width` characters, `done` of `total` filled. REQUIRES: 0 <= done <= total, total > 0.
std::string ProgressBar(int64_t done, int64_t total, int width);

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_TERMINAL_PLOT_H_
