// A server in this process, clients that call it, and batches of the whole family of losses to call it with.
#ifndef LOSSD_TESTS_SERVER_FIXTURE_H_
#define LOSSD_TESTS_SERVER_FIXTURE_H_

#include <grpcpp/grpcpp.h>
#include <gtest/gtest.h>

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "grpc/health/v1/health.grpc.pb.h"
#include "lossd/v1/loss.grpc.pb.h"
#include "server/server.h"
#include "tests/batch.h"

namespace lossd {

constexpr int64_t kMegabyte = 1 << 20;
constexpr absl::Duration kForever = absl::Minutes(1);  // for what happens as soon as it can
constexpr char kEvaluate[] = "grpc_method=\"Evaluate\",grpc_service=\"lossd.v1.LossService\",grpc_type=\"unary\"";

// ---- requests and what they are answered ----

struct NamedBatch {
  std::string name;
  testing::Batch batch;
};

// Every loss, kind of targets, reduction and output with logits of this type; from no element to several blocks.
std::vector<NamedBatch> EveryLoss(DataType type);

v1::EvaluateRequest RequestOf(const testing::Batch& batch);

// Float32 logits [4, 5], a loss and a few outputs: the call that must succeed after anything.
v1::EvaluateRequest SmallRequest();

// A request whose answer is `megabytes` long, far beyond what flow control lets the server send unread.
v1::EvaluateRequest LargeRequest(int64_t megabytes);

// Every tensor that was asked for is there and no other, and all values are as near to the truth as docs/numerics.md
// says.
void ExpectTruth(const testing::Batch& batch, const v1::EvaluateResponse& response);

// ---- servers and clients ----

Config SmallConfig();

// A connection of its own.
std::shared_ptr<grpc::Channel> ChannelTo(const std::string& address);

// With a deadline, so that a lost answer fails the test instead of hanging it.
std::unique_ptr<grpc::ClientContext> NewContext();

struct Reply {
  grpc::Status status;
  v1::EvaluateResponse response;
};

Reply Call(v1::LossService::Stub& stub, const v1::EvaluateRequest& request);

// A call whose answer is not read until Finish(): flow control keeps it in flight.
class HeldCall {
 public:
  HeldCall(v1::LossService::Stub& stub, const v1::EvaluateRequest& request);
  HeldCall(const HeldCall&) = delete;
  HeldCall& operator=(const HeldCall&) = delete;
  ~HeldCall();

  void Cancel() { context_->TryCancel(); }
  Reply Finish();

 private:
  std::unique_ptr<grpc::ClientContext> context_ = NewContext();
  grpc::CompletionQueue queue_;
  std::unique_ptr<grpc::ClientAsyncResponseReader<v1::EvaluateResponse>> reader_;
  bool finished_ = false;
};

grpc::health::v1::HealthCheckResponse::ServingStatus HealthOf(const std::shared_ptr<grpc::Channel>& channel,
                                                              const std::string& service);

class ServerTest : public ::testing::Test {
 protected:
  static void SetUpTestSuite();

  // Starts server_ in place of the one before, and connects stub_ to it.
  void Start(const Config& config = SmallConfig());

  // A value of /metrics; -1 where there is none.
  double Sample(const std::string& name) const;
  // Scrapes until it is so.
  void AwaitSample(const std::string& name, double want) const;
  // How many Evaluate calls ended with this code.
  double Handled(const std::string& code) const;
  // Nothing in flight, nothing held, and a well-formed request is answered.
  void ExpectServes();

  std::unique_ptr<Server> server_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::LossService::Stub> stub_;
};

}  // namespace lossd

#endif  // LOSSD_TESTS_SERVER_FIXTURE_H_
