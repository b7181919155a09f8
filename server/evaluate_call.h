// Evaluate: one batch, one answer. Admitted, or refused, before its body is read.
#ifndef LOSSD_SERVER_EVALUATE_CALL_H_
#define LOSSD_SERVER_EVALUATE_CALL_H_

#include <cstdint>
#include <optional>

#include "server/evaluation.h"
#include "server/rpc.h"
#include "server/service.h"

namespace lossd {

class EvaluateCall final : public RpcHandler {
 public:
  EvaluateCall(const ServiceContext& context, Rpc& rpc) : context_(context), rpc_(rpc), evaluation_(context, rpc) {}

  void OnStart() override;
  void OnRead(std::optional<grpc::ByteBuffer> message) override;
  void OnEnd(absl::StatusCode code) override;

 private:
  std::optional<int64_t> DeclaredBytes() const;
  void Compute();
  void Fail(const absl::Status& status);

  const ServiceContext& context_;
  Rpc& rpc_;
  Evaluation evaluation_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_EVALUATE_CALL_H_
