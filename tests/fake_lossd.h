// A lossd that answers what a test tells it to: the generated service in this process, on a port of its own.
#ifndef LOSSD_TESTS_FAKE_LOSSD_H_
#define LOSSD_TESTS_FAKE_LOSSD_H_

#include <atomic>
#include <cstdint>
#include <functional>
#include <initializer_list>
#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "grpc/health/v1/health.grpc.pb.h"
#include "grpcpp/grpcpp.h"
#include "lossd/v1/loss.grpc.pb.h"

namespace lossd {

class FakeLossd {
 public:
  using Evaluate = std::function<grpc::Status(const v1::EvaluateRequest&, v1::EvaluateResponse*)>;

  using Stream = grpc::ServerReaderWriter<v1::EvaluateStreamResponse, v1::EvaluateStreamRequest>;
  using EvaluateStream = std::function<grpc::Status(grpc::ServerContext*, Stream*)>;

  // Serves until destruction, which waits for calls in progress. `evaluate` runs on gRPC's threads.
  explicit FakeLossd(Evaluate evaluate);
  ~FakeLossd();

  const std::string& target() const { return target_; }
  // Evaluate calls that arrived, retries included.
  int num_calls() const { return service_.num_calls; }
  // What EvaluateStream does; until it is set, the method is UNIMPLEMENTED. Not to be changed while a call is in
  // progress.
  void set_stream(EvaluateStream stream) { service_.stream = std::move(stream); }
  // EvaluateStream calls that arrived.
  int num_streams() const { return service_.num_streams; }
  // What RESOURCE_EXHAUSTED comes with.
  void set_pushback(std::string milliseconds) { service_.pushback = std::move(milliseconds); }
  // The size of the request that the last Evaluate call declared in its headers.
  std::string declared_bytes() const { return service_.declared_bytes; }
  // What Check answers. Not to be changed while a call is in progress.
  void set_health(grpc::health::v1::HealthCheckResponse::ServingStatus health) { health_.status = health; }
  void set_info(const v1::GetServerInfoResponse& info) { service_.info = info; }

 private:
  struct Service final : v1::LossService::Service {
    grpc::Status Evaluate(grpc::ServerContext* context, const v1::EvaluateRequest* request,
                          v1::EvaluateResponse* response) override;
    grpc::Status EvaluateStream(grpc::ServerContext* context, Stream* stream) override;
    grpc::Status GetServerInfo(grpc::ServerContext*, const v1::GetServerInfoRequest*,
                               v1::GetServerInfoResponse* response) override;

    FakeLossd::Evaluate evaluate;
    FakeLossd::EvaluateStream stream;
    std::atomic<int> num_calls = 0, num_streams = 0;
    std::string pushback, declared_bytes;
    v1::GetServerInfoResponse info;
  };

  // Knows the services "" and "lossd.v1.LossService".
  struct Health final : grpc::health::v1::Health::Service {
    grpc::Status Check(grpc::ServerContext*, const grpc::health::v1::HealthCheckRequest* request,
                       grpc::health::v1::HealthCheckResponse* response) override;

    grpc::health::v1::HealthCheckResponse::ServingStatus status = grpc::health::v1::HealthCheckResponse::SERVING;
  };

  Service service_;
  Health health_;
  std::unique_ptr<grpc::Server> server_;
  std::string target_;
};

// Sets `tensor` to a raw one of `values`.
template <typename T>
void SetTensor(v1::DataType type, std::initializer_list<int64_t> shape, const std::vector<T>& values,
               v1::Tensor* tensor) {
  tensor->set_data_type(type);
  for (int64_t dim : shape) tensor->add_shape(dim);
  tensor->set_raw(values.data(), values.size() * sizeof(T));
}

}  // namespace lossd

#endif  // LOSSD_TESTS_FAKE_LOSSD_H_
