// Evaluate: one batch, one answer. Admitted, or refused, before its body is read.
#ifndef LOSSD_SERVER_EVALUATE_CALL_H_
#define LOSSD_SERVER_EVALUATE_CALL_H_

#include <cstdint>
#include <optional>

#include "server/call.h"
#include "server/evaluation.h"
#include "server/rpc.h"

namespace lossd {

class EvaluateCall final : public CountedCall {
 public:
  EvaluateCall(const ServiceContext& context, Rpc& rpc)
      : CountedCall(context, rpc, "Evaluate"), evaluation_(context, rpc) {}

  void OnStart() override;
  void OnRead(std::optional<grpc::ByteBuffer> message) override;

 private:
  std::optional<int64_t> DeclaredBytes() const;
  void Compute();
  void Fail(const absl::Status& status);

  BatchEvaluation evaluation_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_EVALUATE_CALL_H_
