#include "server/http.h"

#include <atomic>
#include <string>
#include <thread>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "raw_http.h"

namespace lossd {
namespace {

using ::testing::AllOf;
using ::testing::AnyOf;
using ::testing::HasSubstr;
using ::testing::Not;
using ::testing::StartsWith;

class HttpTest : public ::testing::Test {
 protected:
  void SetUp() override {
    absl::StatusOr<std::unique_ptr<HttpServer>> started = HttpServer::Start("127.0.0.1:0", TestPages());
    ASSERT_TRUE(started.ok()) << started.status();
    server_ = *std::move(started);
  }

  HttpServer::Pages TestPages() {
    return {
        {"/",
         [] {
           return HttpResponse{200, "text/html; charset=utf-8", "<p>home</p>"};
         }},
        {"/page",
         [this] {
           return HttpResponse{200, "text/plain; charset=utf-8", Count()};
         }},
        {"/busy",
         [] {
           return HttpResponse{503, "text/plain; charset=utf-8", "draining\n"};
         }},
        {"/large",
         [] {
           return HttpResponse{200, "text/plain; charset=utf-8", std::string(3000000, 'x')};
         }},
        {"/empty", [] { return HttpResponse(); }},
    };
  }

  std::string Count() {
    ++visits_;
    return "the page";
  }

  int port() const { return PortOf(server_->address()); }
  RawResponse Get(const std::string& path) const { return HttpRequest(port(), "GET", path); }
  void ExpectStillServes() const { EXPECT_EQ(Get("/page").body, "the page"); }

  std::atomic<int> visits_ = 0;
  std::unique_ptr<HttpServer> server_;
};

TEST_F(HttpTest, TheAddressHasARealPort) {
  EXPECT_THAT(server_->address(), StartsWith("127.0.0.1:"));
  EXPECT_GT(port(), 0);
}

TEST_F(HttpTest, Get) {
  struct Case {
    const char* path;
    int status;
    const char* body;
  };
  const Case cases[] = {
      {"/", 200, "<p>home</p>"},
      {"/page", 200, "the page"},
      {"/page?", 200, "the page"},
      {"/page?name[]=value", 200, "the page"},
      {"/busy", 503, "draining\n"},
      {"/empty", 200, ""},
      {"/missing", 404, "no such page; see /\n"},
      {"/page/", 404, "no such page; see /\n"},
      {"/page/below", 404, "no such page; see /\n"},
      {"/PAGE", 404, "no such page; see /\n"},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.path);
    const RawResponse response = Get(test.path);
    EXPECT_EQ(response.status, test.status);
    EXPECT_EQ(response.body, test.body);
  }
}

TEST_F(HttpTest, Headers) {
  const RawResponse response = Get("/");
  EXPECT_THAT(response.head, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(response.head, HasSubstr("\r\nContent-Type: text/html; charset=utf-8\r\n"));
  EXPECT_THAT(response.head, HasSubstr("\r\nContent-Length: 11\r\n"));
  EXPECT_THAT(response.head, HasSubstr("\r\nCache-Control: no-store\r\n"));
  EXPECT_THAT(response.head, HasSubstr("\r\nX-Content-Type-Options: nosniff\r\n"));
  EXPECT_THAT(Get("/busy").head, StartsWith("HTTP/1.1 503 Service Unavailable\r\n"));
  EXPECT_THAT(Get("/missing").head, StartsWith("HTTP/1.1 404 Not Found\r\n"));
}

TEST_F(HttpTest, HeadIsGetWithoutTheBody) {
  for (const char* path : {"/", "/page", "/busy", "/missing"}) {
    SCOPED_TRACE(path);
    const RawResponse get = Get(path);
    const RawResponse head = HttpRequest(port(), "HEAD", path);
    EXPECT_EQ(head.status, get.status);
    EXPECT_EQ(head.head, get.head);
    EXPECT_EQ(head.body, "");
  }
}

TEST_F(HttpTest, OtherMethodsAreRefusedOnEveryPath) {
  for (const char* method : {"POST", "PUT", "DELETE", "PATCH", "OPTIONS"}) {
    for (const char* path : {"/page", "/", "/missing"}) {
      SCOPED_TRACE(std::string(method) + " " + path);
      const RawResponse response = HttpRequest(port(), method, path);
      EXPECT_EQ(response.status, 405);
      EXPECT_THAT(response.head, HasSubstr("\r\nAllow: GET, HEAD\r\n"));
      EXPECT_THAT(response.head, StartsWith("HTTP/1.1 405 Method Not Allowed\r\n"));
    }
  }
  EXPECT_EQ(visits_, 0);
}

TEST_F(HttpTest, APostWithABodyIsRefused) {
  const std::string body(100000, 'x');
  const RawResponse response =
      SendRaw(port(), "POST /page HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\nContent-Length: " +
                          std::to_string(body.size()) + "\r\n\r\n" + body);
  EXPECT_THAT(response.status, AnyOf(405, 0));  // 0: closed before all was sent
  EXPECT_EQ(visits_, 0);
  ExpectStillServes();
}

TEST_F(HttpTest, MethodsThatAreNotOursNeverReachAPage) {
  for (const char* method : {"TRACE", "CONNECT", "PROPFIND", "MKCOL", "BREW", "get", ""}) {
    SCOPED_TRACE(method);
    const RawResponse response = HttpRequest(port(), method, "/page");
    EXPECT_TRUE(response.status == 0 || response.status >= 400) << response.status;
    EXPECT_THAT(response.body, Not(HasSubstr("the page")));
  }
  EXPECT_EQ(visits_, 0);
  ExpectStillServes();
}

TEST_F(HttpTest, NoPathLeadsToAFile) {
  const char* const paths[] = {
      "/../../../../etc/passwd",      "/..%2f..%2f..%2fetc/passwd",
      "/%2e%2e/%2e%2e/etc/passwd",    "//etc/passwd",
      "/./../../etc/passwd",          "/..\\..\\etc\\passwd",
      "/page/../../etc/passwd",       "/etc/passwd%00",
      "/%252e%252e/%252e/etc/passwd", "/etc/passwd",
      "/proc/self/environ",           "/CMakeLists.txt",
  };
  for (const char* path : paths) {
    SCOPED_TRACE(path);
    const RawResponse response = Get(path);
    EXPECT_THAT(response.status, AnyOf(404, 400));
    EXPECT_THAT(response.body, AllOf(Not(HasSubstr("root:")), Not(HasSubstr("Index of"))));
  }
  ExpectStillServes();
}

TEST_F(HttpTest, BrokenRequests) {
  struct Case {
    const char* name;
    std::string request;
  };
  const Case cases[] = {
      {"a request line of 1 MB", "GET /" + std::string(1 << 20, 'a') + " HTTP/1.1\r\nHost: localhost\r\n\r\n"},
      {"a header of 1 MB", "GET /page HTTP/1.1\r\nX-Long: " + std::string(1 << 20, 'a') + "\r\n\r\n"},
      {"no version", "GET /page\r\n\r\n"},
      {"another protocol", "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"},
      {"zeroes", std::string(20000, '\0')},
      {"one line end", "\r\n\r\n"},
      {"TLS", std::string("\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 11) + std::string(20000, 'q')},
  };
  for (const Case& test : cases) {
    SCOPED_TRACE(test.name);
    const RawResponse response = SendRaw(port(), test.request);
    EXPECT_TRUE(response.status == 0 || response.status >= 400) << response.status;
    ExpectStillServes();
  }
}

TEST_F(HttpTest, AClientThatLeavesInTheMiddleHarmsNobody) {
  for (const char* part : {"", "G", "GET /page", "GET /page HTTP/1.1\r\nHost", "GET /large HTTP/1.1\r\n\r\n"}) {
    RawConnection connection(port());
    ASSERT_TRUE(connection.connected());
    connection.Send(part);
  }
  ExpectStillServes();
}

TEST_F(HttpTest, ALargePageArrivesWhole) { EXPECT_EQ(Get("/large").body, std::string(3000000, 'x')); }

TEST_F(HttpTest, ManyClientsAtOnce) {
  constexpr int kClients = 16, kEach = 20;
  std::atomic<int> right = 0;
  std::vector<std::thread> clients;
  for (int c = 0; c < kClients; ++c) {
    clients.emplace_back([&] {
      for (int i = 0; i < kEach; ++i) right += Get("/page").body == "the page" ? 1 : 0;
    });
  }
  for (std::thread& client : clients) client.join();
  EXPECT_EQ(right, kClients * kEach);
  EXPECT_EQ(visits_, kClients * kEach);
}

TEST_F(HttpTest, ATakenPortIsNamed) {
  const absl::Status status = HttpServer::Start(server_->address(), TestPages()).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("--http_listen=" + server_->address()));
  ExpectStillServes();
}

TEST_F(HttpTest, AnAddressThatIsNotThisMachinesIsNamed) {
  const absl::Status status = HttpServer::Start("192.0.2.1:0", TestPages()).status();  // TEST-NET-1
  EXPECT_EQ(status.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(status.message()), HasSubstr("192.0.2.1:0"));
}

TEST_F(HttpTest, ThePortIsFreeAfterTheDestructor) {
  const std::string address = server_->address();
  server_.reset();
  EXPECT_FALSE(RawConnection(PortOf(address)).connected());
  EXPECT_TRUE(HttpServer::Start(address, TestPages()).ok());
}

TEST(HttpAddressTest, OfEachKind) {
  for (const char* address : {"0.0.0.0:0", "127.0.0.1:0", "localhost:0"}) {
    SCOPED_TRACE(address);
    const absl::StatusOr<std::unique_ptr<HttpServer>> server =
        HttpServer::Start(address, {{"/", [] {
                                       return HttpResponse{200, "text/plain", "x"};
                                     }}});
    ASSERT_TRUE(server.ok()) << server.status();
    const std::string host = std::string(address).substr(0, std::string(address).rfind(':') + 1);
    EXPECT_THAT((*server)->address(), StartsWith(host));
    EXPECT_GT(PortOf((*server)->address()), 0);
  }
}

}  // namespace
}  // namespace lossd
