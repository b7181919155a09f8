// What the kernel knows of this process, from /proc.
#ifndef LOSSD_SERVER_PROCESS_STATS_H_
#define LOSSD_SERVER_PROCESS_STATS_H_

#include <cstdint>

namespace lossd {

// Zero where /proc does not tell.
struct ProcessStats {
  double cpu_seconds = 0;         // user and system
  double start_time_seconds = 0;  // Unix time
  int64_t resident_memory_bytes = 0;
  int64_t virtual_memory_bytes = 0;
  int64_t open_fds = 0;
  int64_t max_fds = 0;
  int64_t threads = 0;
};

// Thread-safe; a few system calls.
ProcessStats ReadProcessStats();

}  // namespace lossd

#endif  // LOSSD_SERVER_PROCESS_STATS_H_
