// Who may come in, and how much they may hold: calls in flight against the memory budget, and the drain.
#ifndef LOSSD_SERVER_ADMISSION_H_
#define LOSSD_SERVER_ADMISSION_H_

#include <condition_variable>
#include <cstdint>
#include <mutex>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace lossd {

// Thread-safe. Must outlive its tickets.
class Admission {
 public:
  // One call's place. Movable; gives everything back when destroyed.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept { *this = std::move(other); }
    Ticket& operator=(Ticket&& other) noexcept;
    ~Ticket() { Release(); }

    // Adds `bytes` to what this call holds. Errors: kResourceExhausted, with all numbers.
    absl::Status Reserve(int64_t bytes);
    // Whether that could succeed if no other call were in flight: then a refusal is worth a retry.
    bool CouldEverReserve(int64_t bytes) const { return bytes <= admission_->budget_bytes_ - bytes_; }

   private:
    friend class Admission;
    explicit Ticket(Admission* admission) : admission_(admission) {}
    void Release();

    Admission* admission_ = nullptr;
    int64_t bytes_ = 0;
  };

  struct Load {
    int64_t requests = 0;
    int64_t bytes = 0;
  };

  explicit Admission(int64_t budget_bytes) : budget_bytes_(budget_bytes) {}

  // A place for one call. Errors: kUnavailable while draining.
  absl::StatusOr<Ticket> Enter();

  Load load() const;
  bool draining() const;

  // From now on nobody enters. Idempotent.
  void StartDraining();
  // Waits for calls in flight. True when there are none left, false when `timeout` passed first.
  bool AwaitIdle(absl::Duration timeout) const;
  // How long nobody has tried to enter.
  absl::Duration quiet() const;

 private:
  const int64_t budget_bytes_;
  mutable std::mutex mutex_;
  mutable std::condition_variable idle_;
  Load load_;
  absl::Time last_entered_ = absl::InfinitePast();
  bool draining_ = false;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_ADMISSION_H_
