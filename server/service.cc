#include "server/service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "server/evaluate_call.h"
#include "server/log.h"
#include "server/stream_call.h"
#include "server/wire.h"

namespace lossd {
namespace {

// A call of a method that is nobody's.
class UnknownCall final : public RpcHandler {
 public:
  UnknownCall(const ServiceContext& context, Rpc& rpc, std::string method)
      : context_(context), rpc_(rpc), method_(std::move(method)) {
    context_.metrics.CallStarted(kUnknown);
  }
  void OnStart() override {
    rpc_.Finish(absl::UnimplementedError(
        absl::StrCat("there is no method ", method_.substr(0, kMaxNameBytes),
                     " here; those of lossd.v1.LossService are Evaluate, EvaluateStream and GetServerInfo")));
  }
  void OnRead(std::optional<grpc::ByteBuffer>) override {}
  void OnEnd(absl::StatusCode code) override {
    context_.metrics.CallHandled(kUnknown, CodeName(code), absl::ToDoubleSeconds(absl::Now() - rpc_.started()));
  }

 private:
  static constexpr char kUnknown[] = "unknown";
  static constexpr size_t kMaxNameBytes = 200;
  const ServiceContext& context_;
  Rpc& rpc_;
  const std::string method_;
};

}  // namespace

std::unique_ptr<RpcHandler> MakeHandler(const ServiceContext& context, const std::string& method, Rpc& rpc) {
  if (method == "/lossd.v1.LossService/Evaluate") return std::make_unique<EvaluateCall>(context, rpc);
  if (method == "/lossd.v1.LossService/EvaluateStream") return std::make_unique<StreamCall>(context, rpc);
  return std::make_unique<UnknownCall>(context, rpc, method);
}

grpc::ServerUnaryReactor* LossService::GetServerInfo(grpc::CallbackServerContext* call, const v1::GetServerInfoRequest*,
                                                     v1::GetServerInfoResponse* response) {
  context_.metrics.CallStarted("GetServerInfo");
  response->set_version(LOSSD_VERSION);
  response->set_simd_target(SimdTarget());
  response->set_compute_threads(context_.config.threads);
  response->set_max_message_bytes(context_.config.max_message_bytes);
  response->set_memory_budget_bytes(context_.config.memory_budget_bytes);
  for (const Loss& loss :
       {Loss(CrossEntropy()), Loss(NegativeLogLikelihood()), Loss(KlDivergence()), Loss(BinaryCrossEntropy())}) {
    response->add_losses(Name(loss));
  }
  for (int type = v1::DataType_MIN; type <= v1::DataType_MAX; ++type) {
    if (IsFloat(static_cast<DataType>(type))) response->add_data_types(static_cast<v1::DataType>(type));
  }
  for (int output = v1::OUTPUT_LOGITS_GRADIENT; output <= v1::Output_MAX; ++output) {
    response->add_outputs(static_cast<v1::Output>(output));
  }
  context_.metrics.CallHandled("GetServerInfo", CodeName(absl::StatusCode::kOk), 0);
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

void LogRefusal(const char* method, const absl::Status& status) {
  if (absl::IsInternal(status)) {
    LogError(absl::StrCat(method, " failed: ", status.message()));
  } else {
    LogDebug(absl::StrCat(method, " refused, ", CodeName(status.code()), ": ", status.message()));
  }
}

}  // namespace lossd
