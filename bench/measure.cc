#include "bench/measure.h"

#include <time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <cmath>
#include <cstddef>
#include <cstring>
#include <optional>
#include <thread>

#include "bench/memory.h"
#include "bench/pool.h"

namespace lossd::bench {
namespace {

constexpr double kSampleSeconds = 3e-4;  // the clock and the way to Python are far below
constexpr double kLongSeconds = 0.03;
constexpr double kWarmSeconds = 0.05;
constexpr int kMostCalls = 10000;
constexpr int kPasses = 2;
// A process that takes no more of the CPU in a while rests. What a thread on another core takes is counted at each tick
// of the kernel's clock, which is every 1 to 10 ms.
constexpr std::chrono::milliseconds kWhile(12);
constexpr double kRestingSeconds = 5e-4;
constexpr int kMostWhiles = 20;

double CpuSeconds(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return static_cast<double>(time.tv_sec) + 1e-9 * static_cast<double>(time.tv_nsec);
}

void Settle(const Contender& contender) {
  clockid_t clock = CLOCK_PROCESS_CPUTIME_ID;
  if (contender.process != 0) clock_getcpuclockid(contender.process, &clock);
  double before = CpuSeconds(clock);
  for (int i = 0; i < kMostWhiles; ++i) {
    std::this_thread::sleep_for(kWhile);
    const double after = CpuSeconds(clock);
    if (after - before < kRestingSeconds) return;
    before = after;
  }
}

void Learn(Contender& contender) {
  contender.run(1);
  const double seconds = contender.run(1);
  contender.calls = std::clamp(static_cast<int>(std::ceil(kSampleSeconds / seconds)), 1, kMostCalls);
  contender.passes = seconds < kLongSeconds ? kPasses : 1;
  Settle(contender);
}

void TakeTurn(Contender& contender) {
  const double start = Now();
  while (contender.passes > 1 && Now() - start < kWarmSeconds) contender.run(contender.calls);
  for (int pass = 0; pass < contender.passes; ++pass) {
    contender.samples.push_back(contender.run(contender.calls) / contender.calls);
  }
  Settle(contender);
}

// Memory twice as large as the last level cache: once it has been read, nothing else is in that, nor anything to be
// written back.
class Eviction {
 public:
  Eviction() : size_(2 * static_cast<size_t>(std::max(sysconf(_SC_LEVEL3_CACHE_SIZE), kLeastCache))), memory_(size_) {
    std::memset(memory_.data(), 1, size_);
  }

  void operator()() const {
    for (size_t i = 0; i < size_; i += kCacheLine) {
      static_cast<void>(*reinterpret_cast<const volatile std::byte*>(memory_.data() + i));
    }
  }

 private:
  static constexpr size_t kCacheLine = 64;
  static constexpr long kLeastCache = 64L << 20;  // where nobody says how large it is

  size_t size_;
  Memory memory_;
};

void TakeColdTurn(Contender& contender, const Eviction& evict) {
  contender.run(1);  // wakes its threads
  for (int pass = 0; pass < kPasses; ++pass) {
    evict();
    contender.samples.push_back(contender.run(1));
  }
  Settle(contender);
}

}  // namespace

double Median(std::vector<double> values) {
  if (values.empty()) return 0;
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  if (values.size() % 2 == 1) return *middle;
  return (*middle + *std::max_element(values.begin(), middle)) / 2;
}

int Measure(std::vector<Contender>& contenders, const Rounds& rounds, const std::function<void(int)>& progress) {
  for (Contender& contender : contenders) Learn(contender);
  std::optional<Eviction> evict;
  if (rounds.cold) evict.emplace();
  const double start = Now();
  int done = 0;
  while (done < rounds.most && (done < rounds.least || Now() - start < rounds.seconds)) {
    progress(++done);
    for (Contender& contender : contenders) {
      if (evict) {
        TakeColdTurn(contender, *evict);
      } else {
        TakeTurn(contender);
      }
    }
  }
  return done;
}

}  // namespace lossd::bench
