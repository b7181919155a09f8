#include "server/service.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "server/evaluate_call.h"
#include "server/health_call.h"
#include "server/reflection_call.h"
#include "server/stream_call.h"
#include "server/wire.h"

namespace lossd {
namespace {

v1::GetServerInfoResponse InfoOf(const Config& config) {
  v1::GetServerInfoResponse info;
  info.set_version(LOSSD_VERSION);
  info.set_simd_target(SimdTarget());
  info.set_compute_threads(config.threads);
  info.set_max_message_bytes(config.max_message_bytes);
  info.set_memory_budget_bytes(config.memory_budget_bytes);
  for (const Loss& loss :
       {Loss(CrossEntropy()), Loss(NegativeLogLikelihood()), Loss(KlDivergence()), Loss(BinaryCrossEntropy())}) {
    info.add_losses(Name(loss));
  }
  for (int type = v1::DataType_MIN; type <= v1::DataType_MAX; ++type) {
    if (IsFloat(static_cast<DataType>(type))) info.add_data_types(static_cast<v1::DataType>(type));
  }
  for (int output = v1::OUTPUT_LOGITS_GRADIENT; output <= v1::Output_MAX; ++output) {
    info.add_outputs(static_cast<v1::Output>(output));
  }
  return info;
}

class InfoCall final : public CountedCall {
 public:
  InfoCall(const ServiceContext& context, Rpc& rpc) : CountedCall(context, rpc, "GetServerInfo") {}
  void OnStart() override { rpc_.Read(); }
  void OnRead(std::optional<grpc::ByteBuffer> message) override {
    v1::GetServerInfoRequest request;
    if (absl::Status status = ParseSmall(message.value_or(grpc::ByteBuffer()), request); !status.ok()) {
      return rpc_.Finish(status);
    }
    rpc_.WriteAndFinish(SerializeSmall(InfoOf(context_.config)));
  }
};

// A method that is nobody's.
class UnknownCall final : public CountedCall {
 public:
  UnknownCall(const ServiceContext& context, Rpc& rpc, std::string name)
      : CountedCall(context, rpc, "unknown"), name_(std::move(name)) {}
  void OnStart() override {
    rpc_.Finish(absl::UnimplementedError(
        absl::StrCat("there is no method ", name_.substr(0, kMaxNameBytes),
                     " here; those of lossd.v1.LossService are Evaluate, EvaluateStream and GetServerInfo")));
  }
  void OnRead(std::optional<grpc::ByteBuffer>) override {}

 private:
  static constexpr size_t kMaxNameBytes = 200;
  const std::string name_;
};

}  // namespace

std::unique_ptr<RpcHandler> MakeHandler(const ServiceContext& context, const std::string& method, Rpc& rpc) {
  if (method == "/lossd.v1.LossService/Evaluate") return std::make_unique<EvaluateCall>(context, rpc);
  if (method == "/lossd.v1.LossService/EvaluateStream") return std::make_unique<StreamCall>(context, rpc);
  if (method == "/lossd.v1.LossService/GetServerInfo") return std::make_unique<InfoCall>(context, rpc);
  if (method == "/grpc.health.v1.Health/Check") return std::make_unique<HealthCall>(context, rpc, false);
  if (method == "/grpc.health.v1.Health/Watch") return std::make_unique<HealthCall>(context, rpc, true);
  if (method == "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo") {
    return std::make_unique<ReflectionCall>(rpc);
  }
  return std::make_unique<UnknownCall>(context, rpc, method);
}

}  // namespace lossd
