#include "fake_lossd.h"

#include <utility>

namespace lossd {

FakeLossd::FakeLossd(Evaluate evaluate) {
  service_.evaluate = std::move(evaluate);
  int port = 0;
  grpc::ServerBuilder builder;
  builder.AddListeningPort("127.0.0.1:0", grpc::InsecureServerCredentials(), &port);
  builder.SetMaxReceiveMessageSize(-1);
  builder.SetMaxSendMessageSize(-1);
  builder.RegisterService(&service_);
  builder.RegisterService(&health_);
  server_ = builder.BuildAndStart();
  target_ = "127.0.0.1:" + std::to_string(port);
}

FakeLossd::~FakeLossd() { server_->Shutdown(); }

grpc::Status FakeLossd::Service::Evaluate(grpc::ServerContext* context, const v1::EvaluateRequest* request,
                                          v1::EvaluateResponse* response) {
  ++num_calls;
  const auto declared = context->client_metadata().find("lossd-request-bytes");
  if (declared != context->client_metadata().end())
    declared_bytes.assign(declared->second.data(), declared->second.size());
  const grpc::Status status = evaluate(*request, response);
  if (status.error_code() == grpc::StatusCode::RESOURCE_EXHAUSTED && !pushback.empty()) {
    context->AddTrailingMetadata("grpc-retry-pushback-ms", pushback);
  }
  return status;
}

grpc::Status FakeLossd::Service::EvaluateStream(grpc::ServerContext* context, Stream* messages) {
  ++num_streams;
  if (!stream) return {grpc::StatusCode::UNIMPLEMENTED, "no streams here"};
  return stream(context, messages);
}

grpc::Status FakeLossd::Service::GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                                               v1::GetServerInfoResponse* response) {
  *response = info;
  return grpc::Status::OK;
}

grpc::Status FakeLossd::Health::Check(grpc::ServerContext*, const grpc::health::v1::HealthCheckRequest* request,
                                      grpc::health::v1::HealthCheckResponse* response) {
  if (!request->service().empty() && request->service() != "lossd.v1.LossService") {
    return {grpc::StatusCode::NOT_FOUND, "unknown service"};
  }
  response->set_status(status);
  return grpc::Status::OK;
}

}  // namespace lossd
