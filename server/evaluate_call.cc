#include "server/evaluate_call.h"

#include <utility>

#include "absl/strings/numbers.h"
#include "wire/metadata.h"

namespace lossd {
namespace {

constexpr char kPushbackMilliseconds[] = "100";
constexpr size_t kQuickBytes = 1 << 17;  // no message of so few bytes takes long to decode

}  // namespace

void EvaluateCall::OnStart() {
  if (const absl::Status status = evaluation_.Enter(DeclaredBytes()); !status.ok()) return Fail(status);
  rpc_.Read();
}

std::optional<int64_t> EvaluateCall::DeclaredBytes() const {
  int64_t bytes = 0;
  if (absl::SimpleAtoi(rpc_.Metadata(kRequestBytesKey), &bytes)) return bytes;
  return std::nullopt;
}

void EvaluateCall::OnRead(std::optional<grpc::ByteBuffer> message) {
  if (!message) {
    const absl::Status status = rpc_.CheckAlive();
    return Fail(status.ok() ? absl::InvalidArgumentError("the call ended without a request message") : status);
  }
  context_.metrics.ReceivedBytes(static_cast<int64_t>(message->Length()));
  const bool quick = message->Length() <= kQuickBytes;
  grpc::ByteBuffer again;
  if (!quick) again = *message;
  using Patience = BatchEvaluation::Patience;
  const absl::Status status = evaluation_.Prepare(*std::move(message), quick ? Patience::kLong : Patience::kShort);
  if (evaluation_.takes_long()) {
    return context_.executor.Submit([this, again, hold = rpc_.Keep()]() mutable {
      const absl::Status prepared = evaluation_.Prepare(std::exchange(again, {}), Patience::kLong);
      return prepared.ok() ? Compute() : Fail(prepared);
    });
  }
  again.Clear();  // slices go as soon as they have been gathered
  if (!status.ok()) return Fail(status);
  if (evaluation_.IsSmall()) return Compute();
  context_.executor.Submit([this, hold = rpc_.Keep()] { Compute(); });
}

void EvaluateCall::Compute() {
  absl::StatusOr<MessageWriter> answer = evaluation_.Evaluate();
  if (!answer.ok()) return Fail(answer.status());
  context_.metrics.SentBytes(answer->size());
  rpc_.WriteAndFinish(answer->Finish());
}

void EvaluateCall::Fail(const absl::Status& status) {
  if (evaluation_.may_retry()) rpc_.AddTrailingMetadata(kPushbackKey, kPushbackMilliseconds);
  evaluation_.CountRefusal();
  LogRefusal(status, evaluation_.job());
  rpc_.Finish(status);
}

}  // namespace lossd
