#include "server/rpc.h"

#include <chrono>
#include <utility>

#include "absl/time/clock.h"
#include "server/wire.h"

namespace lossd {

// ---- Rpc ----

Rpc::Rpc(RpcQueue& queue) : queue_(queue) { queue_.CallAdded(); }

void Rpc::Accept() {
  // For Accepted() and for Done(), which may come first.
  references_ = 2;
  context_.AsyncNotifyWhenDone(&done_);
  RpcQueue& queue = queue_;  // nothing of this call is looked at once it may be accepted
  queue.order_.fetch_add(1, std::memory_order_release);
  queue.service_.RequestCall(&context_, &stream_, queue.queue_.get(), queue.queue_.get(), &accepted_);
}

void Rpc::Unref() {
  if (references_.fetch_sub(1, std::memory_order_acq_rel) != 1) return;
  Order();
  RpcQueue& queue = queue_;
  if (handler_ != nullptr) handler_->OnEnd(FinalCode());
  delete this;
  queue.CallEnded();
}

Rpc::Hold Rpc::Keep() {
  Ref();
  return Hold(static_cast<void*>(this), [](void* rpc) { static_cast<Rpc*>(rpc)->Unref(); });
}

void Rpc::Read() {
  Ref();
  Order();
  stream_.Read(&message_, &read_);
}

void Rpc::Write(const grpc::ByteBuffer& message) {
  Ref();
  Order();
  stream_.Write(message, &written_);
}

void Rpc::WriteAndFinish(const grpc::ByteBuffer& message) {
  Ref();
  code_ = absl::StatusCode::kOk;
  Order();
  stream_.WriteAndFinish(message, grpc::WriteOptions(), grpc::Status::OK, &finished_);
}

void Rpc::Finish(const absl::Status& status) {
  Ref();
  code_ = status.code();
  Order();
  stream_.Finish(ToGrpcStatus(status), &finished_);
}

void Rpc::WakeIn(absl::Duration delay) {
  Ref();
  Order();
  alarm_.Set(queue_.queue_.get(), absl::ToChronoTime(absl::Now() + delay), &woken_);
}

std::string Rpc::Metadata(const std::string& key) const {
  const auto found = context_.client_metadata().find(key);
  return found == context_.client_metadata().end() ? "" : std::string(found->second.begin(), found->second.end());
}

absl::Status Rpc::CheckAlive() const {
  if (cancelled_.load(std::memory_order_relaxed)) return absl::CancelledError("the client cancelled the call");
  if (deadline_ <= absl::Now()) {
    return absl::DeadlineExceededError("the deadline passed before the answer was ready");
  }
  return absl::OkStatus();
}

void Rpc::Run(void* tag, bool ok) {
  const auto* const operation = static_cast<const Tag*>(tag);
  Rpc* const rpc = operation->rpc;
  rpc->Order();
  (rpc->*operation->event)(ok);
  rpc->Unref();
}

void Rpc::Accepted(bool ok) {
  if (!ok) return Unref();  // the server is shutting down, and Done() will not come
  (new Rpc(queue_))->Accept();
  started_ = absl::Now();
  deadline_ = absl::FromChrono(context_.deadline());
  handler_ = queue_.factory_(context_.method(), *this);
  handler_->OnStart();
}

void Rpc::Done(bool) {
  if (context_.IsCancelled()) cancelled_.store(true, std::memory_order_relaxed);
}

// A call that was cancelled was not answered, whatever we had to say: its client left, or never sent all of it.
absl::StatusCode Rpc::FinalCode() const {
  if (!cancelled_ || code_ == absl::StatusCode::kDeadlineExceeded) return code_;
  return deadline_ <= absl::Now() ? absl::StatusCode::kDeadlineExceeded : absl::StatusCode::kCancelled;
}

void Rpc::ReadDone(bool ok) {
  std::optional<grpc::ByteBuffer> message;
  if (ok) message.emplace(std::move(message_));
  message_.Clear();
  handler_->OnRead(std::move(message));
}

void Rpc::WriteDone(bool ok) { handler_->OnWrite(ok); }

void Rpc::Finished(bool) {}

void Rpc::Woken(bool) { handler_->OnWake(); }

// ---- RpcQueue ----

RpcQueue::~RpcQueue() {
  if (queue_ == nullptr || !threads_.empty()) return;
  queue_->Shutdown();
  void* tag;
  bool ok;
  while (queue_->Next(&tag, &ok)) {
  }
}

void RpcQueue::Register(grpc::ServerBuilder& builder) {
  builder.RegisterAsyncGenericService(&service_);
  queue_ = builder.AddCompletionQueue();
}

void RpcQueue::Serve(int threads) {
  (new Rpc(*this))->Accept();
  threads_.emplace_back([this] { Poll(); });
  for (int i = 1; i < threads; ++i) threads_.emplace_back([this, i] { Help(i * kCallsPerThread); });
}

void RpcQueue::Run(void* tag, bool ok) {
  order_.load(std::memory_order_acquire);
  Rpc::Run(tag, ok);
}

void RpcQueue::Poll() {
  void* tag;
  bool ok;
  while (queue_->Next(&tag, &ok)) Run(tag, ok);
}

void RpcQueue::Help(int64_t num_calls) {
  constexpr auto kPatience = std::chrono::milliseconds(1);
  for (;;) {
    {
      std::unique_lock<std::mutex> lock(mutex_);
      changed_.wait(lock, [&] { return stopped_ || num_calls_ >= num_calls; });
      if (stopped_) return;
    }
    while (num_calls_.load(std::memory_order_relaxed) >= num_calls) {
      void* tag;
      bool ok;
      const auto status = queue_->AsyncNext(&tag, &ok, std::chrono::system_clock::now() + kPatience);
      if (status == grpc::CompletionQueue::SHUTDOWN) return;
      if (status == grpc::CompletionQueue::GOT_EVENT) Run(tag, ok);
    }
  }
}

void RpcQueue::CallAdded() {
  const int64_t now = ++num_calls_;
  if (now % kCallsPerThread != 0) return;
  { std::lock_guard<std::mutex> lock(mutex_); }
  changed_.notify_all();
}

void RpcQueue::CallEnded() {
  std::lock_guard<std::mutex> lock(mutex_);  // nobody may see the last call end, and the queue go, before this returns
  if (--num_calls_ == 0) changed_.notify_all();
}

void RpcQueue::Stop() {
  if (threads_.empty()) return;
  {
    std::unique_lock<std::mutex> lock(mutex_);
    changed_.wait(lock, [this] { return num_calls_ == 0; });
    stopped_ = true;
  }
  changed_.notify_all();
  queue_->Shutdown();
  for (std::thread& thread : threads_) thread.join();
  threads_.clear();
}

}  // namespace lossd
