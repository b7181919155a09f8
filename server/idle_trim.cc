#include "server/idle_trim.h"

#include <malloc.h>

#include <chrono>

#include "server/buffer.h"

namespace lossd {
namespace {

constexpr auto kPeriod = std::chrono::seconds(1);

}  // namespace

void IdleTrim::KeepFreedMemory() {
  // One arena: of the others, malloc_trim() leaves up to 64 MB each.
  mallopt(M_ARENA_MAX, 1);
  // By default the end of the heap is given back at each call that ends, and faulted in again by the next one.
  mallopt(M_TRIM_THRESHOLD, 1 << 30);
  mallopt(M_TOP_PAD, 1 << 20);
  mallopt(M_MMAP_THRESHOLD, 4 << 20);
}

IdleTrim::IdleTrim(const Admission& admission) : admission_(admission), thread_([this] { Run(); }) {}

IdleTrim::~IdleTrim() {
  {
    std::lock_guard<std::mutex> lock(mutex_);
    stopped_ = true;
  }
  stop_.notify_all();
  thread_.join();
}

void IdleTrim::Run() {
  bool trimmed = true;
  std::unique_lock<std::mutex> lock(mutex_);
  while (!stop_.wait_for(lock, kPeriod, [this] { return stopped_; })) {
    const bool idle = admission_.load().requests == 0 && admission_.quiet() > kQuiet;
    Buffer::Trim(idle ? absl::ZeroDuration() : kUnused);
    if (idle && !trimmed) malloc_trim(0);
    trimmed = idle;
  }
}

}  // namespace lossd
