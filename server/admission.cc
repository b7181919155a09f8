#include "server/admission.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"

namespace lossd {

Admission::Ticket& Admission::Ticket::operator=(Ticket&& other) noexcept {
  Release();
  admission_ = std::exchange(other.admission_, nullptr);
  bytes_ = std::exchange(other.bytes_, 0);
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

void Admission::Ticket::Release() {
  if (admission_ == nullptr) return;
  std::lock_guard<std::mutex> lock(admission_->mutex_);
  admission_->load_.bytes -= bytes_;
  admission_->load_.requests -= 1;
  if (admission_->load_.requests == 0) admission_->idle_.notify_all();
  admission_ = nullptr;
}

absl::StatusOr<Admission::Ticket> Admission::Enter() {
  std::lock_guard<std::mutex> lock(mutex_);
  last_entered_ = absl::Now();
  if (draining_) return absl::UnavailableError("this lossd is draining; retry on another replica");
  ++load_.requests;
  return Ticket(this);
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
  std::lock_guard<std::mutex> lock(mutex_);
  draining_ = true;
}

bool Admission::AwaitIdle(absl::Duration timeout) const {
  std::unique_lock<std::mutex> lock(mutex_);
  return idle_.wait_for(lock, absl::ToChronoMilliseconds(timeout), [this] { return load_.requests == 0; });
}

}  // namespace lossd
