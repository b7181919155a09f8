#include "server/call.h"

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/log.h"
#include "server/wire.h"

namespace lossd {

CountedCall::CountedCall(const ServiceContext& context, Rpc& rpc, const char* method)
    : context_(context), rpc_(rpc), method_(method) {
  context_.metrics.CallStarted(method_);
}

void CountedCall::OnEnd(absl::StatusCode code) {
  context_.metrics.CallHandled(method_, CodeName(code), absl::ToDoubleSeconds(absl::Now() - rpc_.started()));
}

void CountedCall::LogRefusal(const absl::Status& status, absl::string_view job) const {
  const auto text = [&](absl::string_view what) {
    const std::string of_job = job.empty() ? "" : absl::StrCat(" for job ", job);
    return absl::StrCat(method_, of_job, " ", what, ", ", CodeName(status.code()), ": ", status.message());
  };
  if (absl::IsInternal(status)) {
    LogError(text("failed"));
  } else {
    LogDebug([&] { return text("refused"); });
  }
}

}  // namespace lossd
