// Who may come in, and how much they may hold: calls in flight against the memory budget, requests that are arriving or
// waiting against the backlog's, and the drain.
#ifndef LOSSD_SERVER_ADMISSION_H_
#define LOSSD_SERVER_ADMISSION_H_

#include <condition_variable>
#include <cstdint>
#include <functional>
#include <list>
#include <mutex>
#include <optional>
#include <utility>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/time/time.h"

namespace lossd {

// Thread-safe. Must outlive its tickets and watches.
class Admission {
 public:
  // One call's place. Movable; gives everything back when destroyed.
  class Ticket {
   public:
    Ticket() = default;
    Ticket(Ticket&& other) noexcept { *this = std::move(other); }
    Ticket& operator=(Ticket&& other) noexcept;
    ~Ticket() { Release(); }

    // Adds `bytes` to what this call holds; gives back if negative. Errors: kResourceExhausted, with all numbers.
    absl::Status Reserve(int64_t bytes);
    // Whether that could succeed if no other call were in flight: then a refusal is worth a retry.
    bool CouldEverReserve(int64_t bytes) const { return bytes <= admission_->budget_bytes_ - bytes_; }
    int64_t bytes() const { return bytes_; }
    // The request is here, and has so many bytes.
    void Arrived(int64_t request_bytes);
    // The request is being computed. Idempotent.
    void LeaveBacklog();

   private:
    friend class Admission;
    Ticket(Admission* admission, int64_t backlog_bytes, bool guessed)
        : admission_(admission), backlog_bytes_(backlog_bytes), guessed_(guessed) {}
    void Release();

    Admission* admission_ = nullptr;
    int64_t bytes_ = 0;
    int64_t backlog_bytes_ = 0;
    bool guessed_ = false;  // the request has not said its size, and is not here yet
  };

  struct Load {
    int64_t requests = 0;
    int64_t bytes = 0;
    int64_t backlog_bytes = 0;
  };

  // Calls `function` when the drain starts, on the thread that starts it. Whoever comes later asks draining() itself.
  class DrainWatch {
   public:
    DrainWatch(Admission& admission, std::function<void()> function);
    // Waits for a call that is under way.
    ~DrainWatch();
    DrainWatch(const DrainWatch&) = delete;
    DrainWatch& operator=(const DrainWatch&) = delete;

   private:
    Admission& admission_;
    std::list<std::function<void()>>::iterator place_;
  };

  // Small calls find a fifth of the backlog's room kept free of large ones.
  static constexpr int64_t kSmallBytes = 1 << 18;

  Admission(int64_t budget_bytes, int64_t max_backlog_bytes)
      : budget_bytes_(budget_bytes), max_backlog_bytes_(max_backlog_bytes) {}

  // A place for one call whose request has so many bytes; unless that is known it is taken for one as large as others
  // turned out to be that had not said so either. The first one in the backlog is never too large for it. Errors:
  // kUnavailable while draining; kResourceExhausted while too much is waiting.
  absl::StatusOr<Ticket> Enter(std::optional<int64_t> request_bytes);
  // Whether a call of this size that holds so much memory would find room in backlog and budget now.
  bool HasRoom(int64_t request_bytes, int64_t held_bytes) const;

  Load load() const;
  bool draining() const;
  // What who comes then is told.
  static absl::Status Draining();

  // From now on nobody enters, and who watches for that is told. Idempotent.
  void StartDraining();
  // Waits for calls in flight. True when there are none left, false when `timeout` passed first.
  bool AwaitIdle(absl::Duration timeout) const;
  // How long nobody has tried to enter.
  absl::Duration quiet() const;

 private:
  bool FitsBacklog(int64_t request_bytes) const;  // REQUIRES: mutex_ is held

  const int64_t budget_bytes_;
  const int64_t max_backlog_bytes_;
  mutable std::mutex mutex_;
  mutable std::condition_variable idle_;
  Load load_;
  int64_t usual_bytes_ = 0;  // of a request that does not say its size, the recent ones weighing more
  absl::Time last_entered_ = absl::InfinitePast();
  bool draining_ = false;
  std::mutex watches_mutex_;  // held while they are called; before any other
  std::list<std::function<void()>> watches_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_ADMISSION_H_
