// How long to wait before the next try.
#ifndef LOSSD_CLIENT_CPP_BACKOFF_H_
#define LOSSD_CLIENT_CPP_BACKOFF_H_

#include <algorithm>
#include <optional>
#include <random>

#include "absl/time/time.h"

namespace lossd {

// Pauses that double, each up to 40 % longer, so that clients which were refused together do not come back together.
// Not thread-safe.
class Backoff {
 public:
  // Before the next try, or nothing after too many of them. At least `pushback`, which the server asked for.
  std::optional<absl::Duration> Next(absl::Duration pushback = absl::ZeroDuration()) {
    if (++tries_ == kMaxTries) return std::nullopt;
    const absl::Duration pause = std::min(kFirst * (1 << (tries_ - 1)), kLongest);
    return std::max(pushback, pause) * std::uniform_real_distribution<>(1, 1.4)(random_);
  }

  // Something has got on.
  void Reset() { tries_ = 0; }

 private:
  static constexpr int kMaxTries = 6;
  static constexpr absl::Duration kFirst = absl::Milliseconds(50);
  static constexpr absl::Duration kLongest = absl::Seconds(2);

  int tries_ = 0;
  std::minstd_rand random_{std::random_device()()};
};

}  // namespace lossd

#endif  // LOSSD_CLIENT_CPP_BACKOFF_H_
