#include "server/http.h"

#include <CivetServer.h>
#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <chrono>
#include <cstdlib>
#include <thread>
#include <utility>
#include <vector>

#include "absl/strings/match.h"
#include "absl/strings/str_cat.h"

namespace lossd {
namespace {

const char* ReasonOf(int status) {
  switch (status) {
    case 200:
      return "OK";
    case 404:
      return "Not Found";
    case 405:
      return "Method Not Allowed";
    default:
      return "Service Unavailable";
  }
}

void Write(mg_connection* connection, const HttpResponse& response, bool with_body) {
  const std::string head = absl::StrCat(
      "HTTP/1.1 ", response.status, " ", ReasonOf(response.status), "\r\nContent-Type: ", response.content_type,
      "\r\nContent-Length: ", response.body.size(), "\r\nCache-Control: no-store\r\nX-Content-Type-Options: nosniff",
      response.status == 405 ? "\r\nAllow: GET, HEAD" : "", "\r\nConnection: close\r\n\r\n");
  mg_write(connection, head.data(), head.size());
  if (with_body) mg_write(connection, response.body.data(), response.body.size());
}

// Connects to host:port, if it is an IPv4 address, and hangs up.
void Knock(const std::string& address) {
  const size_t colon = address.rfind(':');
  sockaddr_in to{};
  to.sin_family = AF_INET;
  to.sin_port = htons(static_cast<uint16_t>(std::atoi(address.c_str() + colon + 1)));
  if (inet_pton(AF_INET, address.substr(0, colon).c_str(), &to.sin_addr) != 1) return;
  const int fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
  if (fd < 0) return;
  (void)connect(fd, reinterpret_cast<const sockaddr*>(&to), sizeof(to));
  close(fd);
}

}  // namespace

struct HttpServer::State : public CivetHandler {
  explicit State(Pages all) : pages(std::move(all)) {}

  HttpResponse Answer(const mg_request_info* request) const {
    const auto page = pages.find(request->local_uri != nullptr ? request->local_uri : "");
    if (page == pages.end()) return {404, "text/plain; charset=utf-8", "no such page; see /\n"};
    return page->second();
  }
  bool handleGet(CivetServer*, mg_connection* connection) override {
    Write(connection, Answer(mg_get_request_info(connection)), true);
    return true;
  }
  bool handleHead(CivetServer*, mg_connection* connection) override {
    Write(connection, Answer(mg_get_request_info(connection)), false);
    return true;
  }
  bool Refuse(mg_connection* connection) {
    Write(connection, {405, "text/plain; charset=utf-8", "only GET and HEAD\n"}, true);
    return true;
  }
  bool handlePost(CivetServer*, mg_connection* connection) override { return Refuse(connection); }
  bool handlePut(CivetServer*, mg_connection* connection) override { return Refuse(connection); }
  bool handleDelete(CivetServer*, mg_connection* connection) override { return Refuse(connection); }
  bool handleOptions(CivetServer*, mg_connection* connection) override { return Refuse(connection); }
  bool handlePatch(CivetServer*, mg_connection* connection) override { return Refuse(connection); }

  const Pages pages;
  std::unique_ptr<CivetServer> server;
};

HttpServer::HttpServer() = default;
HttpServer::~HttpServer() {
  if (state_ == nullptr || state_->server == nullptr) return;
  // civetweb looks every two seconds whether it is to stop; a connection makes it look.
  std::atomic<bool> stopped = false;
  std::thread knock([this, &stopped] {
    while (!stopped) {
      Knock(address_);
      std::this_thread::sleep_for(std::chrono::milliseconds(5));
    }
  });
  state_->server.reset();  // before the handler it calls
  stopped = true;
  knock.join();
}

absl::StatusOr<std::unique_ptr<HttpServer>> HttpServer::Start(const std::string& address, Pages pages) {
  const size_t colon = address.rfind(':');
  const std::string host = address.substr(0, colon);
  if (absl::StartsWith(host, "[") && !mg_check_feature(MG_FEATURES_IPV6)) {
    return absl::UnavailableError(absl::StrCat("cannot listen on --http_listen=", address,
                                               ": this build of the HTTP server has no IPv6; give an IPv4 address"));
  }
  const std::vector<std::string> options = {
      "listening_ports",       address, "num_threads",      "8",     "request_timeout_ms", "10000",
      "keep_alive_timeout_ms", "500",   "max_request_size", "16384",
  };
  auto server = std::unique_ptr<HttpServer>(new HttpServer);
  server->state_ = std::make_unique<State>(std::move(pages));
  try {
    server->state_->server = std::make_unique<CivetServer>(options);
  } catch (const CivetException&) {
    return absl::UnavailableError(absl::StrCat("cannot listen on --http_listen=", address,
                                               ": the port is taken, or the address is not this machine's"));
  }
  server->state_->server->addHandler("/", server->state_.get());
  const std::vector<int> ports = server->state_->server->getListeningPorts();
  server->address_ = absl::StrCat(host, ":", ports.empty() ? 0 : ports.front());
  return server;
}

}  // namespace lossd
