#include "server/process_stats.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <sstream>
#include <string>
#include <vector>

namespace lossd {
namespace {

double BootTimeSeconds() {
  std::ifstream file("/proc/stat");
  for (std::string word; file >> word;) {
    double seconds = 0;
    if (word == "btime" && file >> seconds) return seconds;
    file.ignore(std::numeric_limits<std::streamsize>::max(), '\n');
  }
  return 0;
}

int64_t CountOpenFds() {
  std::error_code error;
  const std::filesystem::directory_iterator fds("/proc/self/fd", error);
  return error ? 0 : std::distance(begin(fds), end(fds)) - 1;  // one of them is the folder being read
}

}  // namespace

ProcessStats ReadProcessStats() {
  ProcessStats stats;
  // proc(5): fields after the command, which ends with the last parenthesis; state is the third field.
  std::ifstream file("/proc/self/stat");
  std::string line;
  std::getline(file, line);
  const size_t end = line.rfind(')');
  if (end != std::string::npos) {
    std::istringstream fields(line.substr(end + 2));
    const std::istream_iterator<std::string> words(fields);
    std::vector<std::string> values(words, {});
    if (values.size() > 21) {
      const auto ticks_per_second = static_cast<double>(sysconf(_SC_CLK_TCK));
      const auto field = [&values](size_t number) { return values[number - 3]; };
      stats.cpu_seconds = (std::stod(field(14)) + std::stod(field(15))) / ticks_per_second;
      stats.threads = std::stoll(field(20));
      stats.start_time_seconds = BootTimeSeconds() + std::stod(field(22)) / ticks_per_second;
      stats.virtual_memory_bytes = std::stoll(field(23));
      stats.resident_memory_bytes = std::stoll(field(24)) * sysconf(_SC_PAGESIZE);
    }
  }
  stats.open_fds = CountOpenFds();
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) == 0) stats.max_fds = static_cast<int64_t>(limit.rlim_cur);
  return stats;
}

}  // namespace lossd
