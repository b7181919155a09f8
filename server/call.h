// What the calls of every method have in common.
#ifndef LOSSD_SERVER_CALL_H_
#define LOSSD_SERVER_CALL_H_

#include "absl/status/status.h"
#include "absl/strings/string_view.h"
#include "server/admission.h"
#include "server/config.h"
#include "server/executor.h"
#include "server/metrics.h"
#include "server/rpc.h"

namespace lossd {

// What every call works with. The members outlive the calls.
struct ServiceContext {
  const Config& config;
  Admission& admission;
  Executor& executor;
  Metrics& metrics;
};

// A call that the metrics count: when it starts, and when it has ended.
class CountedCall : public RpcHandler {
 public:
  // `method`: a literal, as in the metrics.
  CountedCall(const ServiceContext& context, Rpc& rpc, const char* method);
  void OnEnd(absl::StatusCode code) final;

 protected:
  // Tells the log of a call or a batch that has no result: an error if it is a bug of ours, else for debugging.
  void LogRefusal(const absl::Status& status, absl::string_view job) const;

  const ServiceContext& context_;
  Rpc& rpc_;

 private:
  const char* const method_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_CALL_H_
