#include "server/service.h"

#include "absl/time/clock.h"
#include "server/evaluate_call.h"
#include "server/wire.h"

namespace lossd {
namespace {

// A call that is answered at once.
void RecordCall(Metrics& metrics, const char* method, absl::StatusCode code) {
  metrics.CallStarted(method);
  metrics.CallHandled(method, CodeName(code), 0);
}

// EvaluateStream is part of the contract but not of this build.
class RefusedStream final : public grpc::ServerBidiReactor<v1::EvaluateStreamRequest, v1::EvaluateStreamResponse> {
 public:
  RefusedStream() {
    Finish(
        ToGrpcStatus(absl::UnimplementedError("EvaluateStream is not supported by this build of lossd; use Evaluate")));
  }
  void OnDone() override { delete this; }
};

}  // namespace

grpc::ServerUnaryReactor* LossService::Evaluate(grpc::CallbackServerContext* call, const grpc::ByteBuffer* request,
                                                grpc::ByteBuffer* response) {
  auto* evaluation = new EvaluateCall(context_, call, request, response);
  evaluation->Start();
  return evaluation;
}

grpc::ServerBidiReactor<v1::EvaluateStreamRequest, v1::EvaluateStreamResponse>* LossService::EvaluateStream(
    grpc::CallbackServerContext*) {
  RecordCall(context_.metrics, "EvaluateStream", absl::StatusCode::kUnimplemented);
  return new RefusedStream;
}

grpc::ServerUnaryReactor* LossService::GetServerInfo(grpc::CallbackServerContext* call, const v1::GetServerInfoRequest*,
                                                     v1::GetServerInfoResponse* response) {
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
  RecordCall(context_.metrics, "GetServerInfo", absl::StatusCode::kOk);
  grpc::ServerUnaryReactor* reactor = call->DefaultReactor();
  reactor->Finish(grpc::Status::OK);
  return reactor;
}

}  // namespace lossd
