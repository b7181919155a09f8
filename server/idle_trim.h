// Gives memory back to the system when a burst is over.
#ifndef LOSSD_SERVER_IDLE_TRIM_H_
#define LOSSD_SERVER_IDLE_TRIM_H_

#include <condition_variable>
#include <mutex>
#include <thread>

#include "absl/time/time.h"
#include "server/admission.h"

namespace lossd {

// While calls come, freed memory is kept: of malloc, where gRPC reads messages to, and of buffers. Once nobody has
// entered for kQuiet and nothing is in flight, all of it goes back; buffers of a size that nobody uses any more go
// after kUnused anyway.
class IdleTrim {
 public:
  static constexpr absl::Duration kQuiet = absl::Seconds(5);
  static constexpr absl::Duration kUnused = absl::Seconds(20);

  // Tells malloc to keep what is freed. Once a process, before the first allocation of size.
  static void KeepFreedMemory();

  // `admission` outlives it.
  explicit IdleTrim(const Admission& admission);
  ~IdleTrim();

 private:
  void Run();

  const Admission& admission_;
  std::mutex mutex_;
  std::condition_variable stop_;
  bool stopped_ = false;
  std::thread thread_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_IDLE_TRIM_H_
