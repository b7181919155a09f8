// The HTTP side: a few read-only pages, for Prometheus, probes and people.
#ifndef LOSSD_SERVER_HTTP_H_
#define LOSSD_SERVER_HTTP_H_

#include <functional>
#include <map>
#include <memory>
#include <string>

#include "absl/status/statusor.h"

namespace lossd {

struct HttpResponse {
  int status = 200;
  std::string content_type = "text/plain; charset=utf-8";
  std::string body;
};

// Serves GET and HEAD of fixed paths; everything else is 404 or 405. Handlers are called from several threads.
class HttpServer {
 public:
  using Pages = std::map<std::string, std::function<HttpResponse()>>;  // by exact path

  // Starts serving. `address` is host:port; port 0 picks a free one.
  // Errors: kUnavailable, when the address is taken or not this machine's.
  static absl::StatusOr<std::unique_ptr<HttpServer>> Start(const std::string& address, Pages pages);
  // Stops serving; requests under way are finished.
  ~HttpServer();

  // host:port, with the real port.
  const std::string& address() const { return address_; }

 private:
  struct State;
  HttpServer();
  std::unique_ptr<State> state_;
  std::string address_;
};

}  // namespace lossd

#endif  // LOSSD_SERVER_HTTP_H_
