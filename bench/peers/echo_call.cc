#include "bench/peers/echo.h"

namespace lossd::bench {
namespace {

constexpr size_t kMostWaiting = 2;  // beyond it nothing is read

}  // namespace

void EchoCall::OnRead(bool ok) {
  reading_ = false;
  read_all_ = !ok || unary_;
  if (ok) {
    waiting_.emplace_back();
    waiting_.back().Swap(&message_);
  }
  Proceed();
}

void EchoCall::OnWritten(bool ok) {
  writing_ = false;
  waiting_.pop_front();
  if (!ok) {  // the client is gone
    read_all_ = true;
    waiting_.clear();
  }
  Proceed();
}

void EchoCall::Proceed() {
  if (ending_) return;
  if (unary_ && !waiting_.empty()) {
    ending_ = true;
    return WriteAndEnd(&waiting_.front());
  }
  if (read_all_ && !reading_ && !writing_ && waiting_.empty()) {
    ending_ = true;
    return End();
  }
  if (!writing_ && !waiting_.empty()) {
    writing_ = true;
    Write(&waiting_.front());
  }
  if (!reading_ && !read_all_ && waiting_.size() < kMostWaiting) {
    reading_ = true;
    Read(&message_);
  }
}

}  // namespace lossd::bench
