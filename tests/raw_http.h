// A tiny HTTP client over a raw socket, for tests that have to send what no real client would.
#ifndef LOSSD_TESTS_RAW_HTTP_H_
#define LOSSD_TESTS_RAW_HTTP_H_

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstdlib>
#include <string>

namespace lossd {

// Port of "host:port".
inline int PortOf(const std::string& address) { return std::atoi(address.c_str() + address.rfind(':') + 1); }

// A connection to 127.0.0.1; closes when destroyed.
class RawConnection {
 public:
  explicit RawConnection(int port) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in to{};
    to.sin_family = AF_INET;
    to.sin_port = htons(static_cast<uint16_t>(port));
    to.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<const sockaddr*>(&to), sizeof(to)) == 0;
    const timeval patience{.tv_sec = 60, .tv_usec = 0};  // so that a lost answer fails the test instead of hanging it
    setsockopt(socket_, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  }
  RawConnection(const RawConnection&) = delete;
  RawConnection& operator=(const RawConnection&) = delete;
  ~RawConnection() { close(socket_); }

  bool connected() const { return connected_; }

  // Sends all it can: a server that has had enough closes early.
  void Send(const std::string& text) {
    for (size_t sent = 0; sent < text.size();) {
      const ssize_t count = send(socket_, text.data() + sent, text.size() - sent, MSG_NOSIGNAL);
      if (count <= 0) return;
      sent += static_cast<size_t>(count);
    }
  }

  // Everything until the server closes.
  std::string Receive() {
    std::string text;
    char chunk[4096];
    for (ssize_t count; (count = recv(socket_, chunk, sizeof(chunk), 0)) > 0;)
      text.append(chunk, static_cast<size_t>(count));
    return text;
  }

 private:
  const int socket_;
  bool connected_ = false;
};

struct RawResponse {
  int status = 0;  // 0: no answer
  std::string head;
  std::string body;
};

// The answer to whatever `request` is.
inline RawResponse SendRaw(int port, const std::string& request) {
  RawConnection connection(port);
  connection.Send(request);
  const std::string text = connection.Receive();
  RawResponse response;
  const size_t end = text.find("\r\n\r\n");
  if (end == std::string::npos || text.rfind("HTTP/1.1 ", 0) != 0) return response;
  response.status = std::atoi(text.c_str() + 9);
  response.head = text.substr(0, end + 2);
  response.body = text.substr(end + 4);
  return response;
}

inline RawResponse HttpRequest(int port, const std::string& method, const std::string& path) {
  return SendRaw(port, method + " " + path + " HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
}

inline RawResponse HttpGet(const std::string& address, const std::string& path) {
  return HttpRequest(PortOf(address), "GET", path);
}

}  // namespace lossd

#endif  // LOSSD_TESTS_RAW_HTTP_H_
