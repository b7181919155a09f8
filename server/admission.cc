#include "server/admission.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace lossd {

Admission::Ticket& Admission::Ticket::operator=(Ticket&& other) noexcept {
  Release();
  admission_ = std::exchange(other.admission_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
  backlog_bytes_ = std::exchange(other.backlog_bytes_, 0);
  guessed_ = std::exchange(other.guessed_, false);
  return *this;
}

absl::Status Admission::Ticket::Reserve(int64_t bytes) {
  const int64_t budget_bytes = admission_->budget_bytes_;
  if (!CouldEverReserve(bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat("the call needs ", bytes_ + bytes,
                                                     " bytes and memory_budget_bytes is ", budget_bytes,
                                                     "; send fewer rows at a time"));
  }
  std::lock_guard<std::mutex> lock(admission_->mutex_);
  if (bytes > budget_bytes - admission_->load_.bytes) {
    return absl::ResourceExhaustedError(absl::StrCat("the call needs ", bytes, " more bytes; ", admission_->load_.bytes,
                                                     " of memory_budget_bytes = ", budget_bytes,
                                                     " are taken by calls in flight; retry later"));
  }
  admission_->load_.bytes += bytes;
  bytes_ += bytes;
  return absl::OkStatus();
}

void Admission::Ticket::Arrived(int64_t request_bytes) {
  std::lock_guard<std::mutex> lock(admission_->mutex_);
  admission_->load_.backlog_bytes += request_bytes - backlog_bytes_;
  backlog_bytes_ = request_bytes;
  if (std::exchange(guessed_, false)) admission_->usual_bytes_ += (request_bytes - admission_->usual_bytes_) / 8;
}

void Admission::Ticket::LeaveBacklog() {
  if (admission_ == nullptr || backlog_bytes_ == 0) return;
  std::lock_guard<std::mutex> lock(admission_->mutex_);
  admission_->load_.backlog_bytes -= std::exchange(backlog_bytes_, 0);
}

void Admission::Ticket::Release() {
  if (admission_ == nullptr) return;
  std::lock_guard<std::mutex> lock(admission_->mutex_);
  admission_->load_.bytes -= std::exchange(bytes_, 0);
  admission_->load_.backlog_bytes -= std::exchange(backlog_bytes_, 0);
  admission_->load_.requests -= 1;
  if (admission_->load_.requests == 0) admission_->idle_.notify_all();
  admission_ = nullptr;
}

bool Admission::FitsBacklog(int64_t request_bytes) const {
  const int64_t room = request_bytes <= kSmallBytes ? max_backlog_bytes_ : max_backlog_bytes_ / 5 * 4;
  return load_.backlog_bytes == 0 || request_bytes <= room - load_.backlog_bytes;
}

absl::StatusOr<Admission::Ticket> Admission::Enter(std::optional<int64_t> declared_bytes) {
  std::lock_guard<std::mutex> lock(mutex_);
  const int64_t request_bytes = declared_bytes.value_or(usual_bytes_);
  last_entered_ = absl::Now();
  if (draining_) return Draining();
  if (!FitsBacklog(request_bytes)) {
    return absl::ResourceExhaustedError(absl::StrCat(load_.backlog_bytes, " bytes of other requests wait to be ",
                                                     "evaluated, and at most ", max_backlog_bytes_,
                                                     " may; retry later"));
  }
  ++load_.requests;
  load_.backlog_bytes += request_bytes;
  return Ticket(this, request_bytes, !declared_bytes);
}

bool Admission::HasRoom(int64_t request_bytes, int64_t held_bytes) const {
  std::lock_guard<std::mutex> lock(mutex_);
  const bool fits_budget = load_.bytes == 0 || held_bytes <= budget_bytes_ - load_.bytes;
  return fits_budget && FitsBacklog(request_bytes);
}

absl::Status Admission::Draining() {
  return absl::UnavailableError("this lossd is draining; retry on another replica");
}

Admission::Load Admission::load() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return load_;
}

bool Admission::draining() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return draining_;
}

absl::Duration Admission::quiet() const {
  std::lock_guard<std::mutex> lock(mutex_);
  return absl::Now() - last_entered_;
}

void Admission::StartDraining() {
  std::lock_guard<std::mutex> watches_lock(watches_mutex_);
  {
    std::lock_guard<std::mutex> lock(mutex_);
    if (std::exchange(draining_, true)) return;
  }
  for (const auto& function : watches_) function();
}

Admission::DrainWatch::DrainWatch(Admission& admission, std::function<void()> function) : admission_(admission) {
  std::lock_guard<std::mutex> lock(admission_.watches_mutex_);
  place_ = admission_.watches_.insert(admission_.watches_.end(), std::move(function));
}

Admission::DrainWatch::~DrainWatch() {
  std::lock_guard<std::mutex> lock(admission_.watches_mutex_);
  admission_.watches_.erase(place_);
}

bool Admission::AwaitIdle(absl::Duration timeout) const {
  std::unique_lock<std::mutex> lock(mutex_);
  return idle_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [this] { return load_.requests == 0; });
}

}  // namespace lossd
