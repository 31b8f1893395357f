#include "server/http_server.h"

#include <arpa/inet.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <atomic>
#include <thread>

#include "base/error.h"
#include "server/fake_generator.h"
#include "server/server.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;
using ::testing::StartsWith;

// A plain TCP client on the loopback.
class Client {
 public:
  explicit Client(int port) : socket_(socket(AF_INET, SOCK_STREAM, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    connected_ = connect(socket_, reinterpret_cast<const sockaddr*>(&address), sizeof address) == 0;
  }
  ~Client() { Close(); }
  Client(const Client&) = delete;
  Client& operator=(const Client&) = delete;

  bool connected() const { return connected_; }
  void Close() {
    if (socket_ >= 0) close(socket_);
    socket_ = -1;
  }
  bool Send(std::string_view data) {
    while (!data.empty()) {
      const ssize_t sent = send(socket_, data.data(), data.size(), MSG_NOSIGNAL);
      if (sent <= 0) return false;
      data.remove_prefix(static_cast<size_t>(sent));
    }
    return true;
  }
  // Reads until what was read holds `mark` (then cuts it there), the other side closes, or ten
  // seconds pass.
  std::string ReadThrough(std::string_view mark) {
    while (true) {
      const size_t at = input_.find(mark);
      if (at != std::string::npos) return Take(at + mark.size());
      if (!ReadSome()) return Take(input_.size());
    }
  }
  // Reads until the other side closes; `closed` tells whether it did.
  std::string ReadAll(bool* closed = nullptr) {
    while (ReadSome()) {
    }
    if (closed != nullptr) *closed = ended_;
    return Take(input_.size());
  }
  // One answer with a Content-Length.
  std::string ReadAnswer() {
    std::string head = ReadThrough("\r\n\r\n");
    const size_t field = head.find("Content-Length: ");
    if (field == std::string::npos) return head;
    const size_t length = std::stoul(head.substr(field + 16));
    while (input_.size() < length && ReadSome()) {
    }
    return head + Take(length);
  }

 private:
  bool ReadSome() {
    pollfd waiting{.fd = socket_, .events = POLLIN, .revents = 0};
    if (poll(&waiting, 1, 10'000) <= 0) return false;
    char data[16384];
    const ssize_t got = recv(socket_, data, sizeof data, 0);
    if (got <= 0) {
      ended_ = true;
      return false;
    }
    input_.append(data, static_cast<size_t>(got));
    return true;
  }
  std::string Take(size_t size) {
    std::string out = input_.substr(0, size);
    input_.erase(0, size);
    return out;
  }

  int socket_;
  bool connected_ = false;
  bool ended_ = false;
  std::string input_;
};

// The body of a chunked answer.
std::string Unchunk(std::string_view data) {
  std::string body;
  while (true) {
    const size_t line = data.find("\r\n");
    if (line == std::string_view::npos) return "BROKEN";
    const size_t size = std::stoul(std::string(data.substr(0, line)), nullptr, 16);
    if (size == 0) return body;
    if (data.size() < line + size + 4) return "SHORT";
    body += data.substr(line + 2, size);
    data.remove_prefix(line + size + 4);
  }
}

std::string Post(const std::string& path, const std::string& body, const std::string& more = "") {
  return "POST " + path + " HTTP/1.1\r\nHost: x\r\n" + more +
         "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
}

class HttpServerTest : public ::testing::Test {
 protected:
  void StartServer(std::chrono::microseconds round = {}, HttpServerOptions http = {}) {
    generator_ = std::make_unique<FakeGenerator>(FakeGenerator::HashScript, round);
    http.port = 0;
    server_ = std::make_unique<Server>(ServerOptions{.http = http});
    server_->Start();
    server_->Open({.names = {"storyteller"},
                   .tokenizer = *tokenizer_,
                   .generator = *generator_,
                   .metrics = metrics_,
                   .max_model_len = 1'000'000});
  }
  void TearDown() override {
    if (server_) server_->Stop();
    server_.reset();
  }

  const std::unique_ptr<Tokenizer> tokenizer_ =
      Tokenizer::Load(SLUICE_SOURCE_DIR "/models/storyteller/tokenizer.json");
  Metrics metrics_;
  std::unique_ptr<FakeGenerator> generator_;
  std::unique_ptr<Server> server_;
};

TEST(HttpServerStart, TurnsEverythingAwayUntilTheModelIsThere) {
  HttpServerOptions http;
  http.port = 0;
  Server server({.http = http});
  server.Start();
  for (const char* path : {"/health", "/v1/models"}) {
    Client client(server.port());
    client.Send(std::string("GET ") + path + " HTTP/1.1\r\nHost: x\r\n\r\n");
    const std::string answer = client.ReadAnswer();
    EXPECT_THAT(answer, StartsWith("HTTP/1.1 503"));
    EXPECT_THAT(answer, HasSubstr("Retry-After: "));
    EXPECT_THAT(answer, HasSubstr("the server is starting"));
  }
  const auto tokenizer = Tokenizer::Load(SLUICE_SOURCE_DIR "/models/storyteller/tokenizer.json");
  FakeGenerator generator;
  Metrics metrics;
  server.Open({.names = {"m"},
               .tokenizer = *tokenizer,
               .generator = generator,
               .metrics = metrics,
               .max_model_len = 100});
  Client client(server.port());
  client.Send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadAnswer(), StartsWith("HTTP/1.1 200"));
  server.Stop();
  server.Wait();
}

constexpr char kEndless[] =
    R"({"prompt": "x", "max_tokens": 900000, "ignore_eos": true, "stream": true})";

TEST_F(HttpServerTest, CountsWhatItAnswersUntilItIsWritten) {
  StartServer(std::chrono::milliseconds(2));
  EXPECT_EQ(server_->answering(), 0);
  Client stays(server_->port());
  stays.Send(Post("/v1/completions",
                  R"({"prompt": "x", "max_tokens": 30, "ignore_eos": true, "stream": true})",
                  "X-Request-Id: mine\r\n"));
  EXPECT_THAT(stays.ReadThrough("\r\n\r\n"), HasSubstr("X-Request-Id: mine\r\n"));
  Client leaves(server_->port());
  leaves.Send(Post("/v1/completions", kEndless));
  leaves.ReadThrough("data: ");
  EXPECT_EQ(server_->answering(), 2);
  server_->Drain();
  Client refused(server_->port());
  refused.Send(Post("/v1/completions", kEndless));
  bool closed = false;
  const std::string refusal = refused.ReadAll(&closed);
  EXPECT_THAT(refusal, StartsWith("HTTP/1.1 503"));
  EXPECT_THAT(refusal, HasSubstr("Connection: close\r\n"));
  EXPECT_TRUE(closed);
  leaves.Close();
  EXPECT_THAT(stays.ReadThrough("0\r\n\r\n"), HasSubstr("[DONE]"));
  const auto until = std::chrono::steady_clock::now() + std::chrono::seconds(10);
  while (server_->answering() > 0 && std::chrono::steady_clock::now() < until) {
    std::this_thread::yield();
  }
  EXPECT_EQ(server_->answering(), 0);
}

TEST_F(HttpServerTest, KeepAliveAndPipelining) {
  StartServer();
  Client client(server_->port());
  ASSERT_TRUE(client.connected());
  client.Send(
      "GET /health HTTP/1.1\r\nHost: x\r\n\r\n" +
      Post("/v1/completions", R"({"prompt": "x", "max_tokens": 3})") +
      "HEAD /health HTTP/1.1\r\nHost: x\r\n\r\nOPTIONS /health HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadAnswer(), HasSubstr(R"({"status":"ok"})"));
  EXPECT_THAT(client.ReadAnswer(), HasSubstr(R"("finish_reason":"length")"));
  const std::string head = client.ReadThrough("\r\n\r\n");
  EXPECT_THAT(head, HasSubstr("Content-Length: 15\r\n"));
  EXPECT_THAT(client.ReadThrough("\r\n\r\n"), StartsWith("HTTP/1.1 204 No Content\r\n"));
  client.Send("GET /version HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
  bool closed = false;
  const std::string last = client.ReadAll(&closed);
  EXPECT_THAT(last, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_THAT(last, HasSubstr("Connection: close\r\n"));
  EXPECT_TRUE(closed);
}

TEST_F(HttpServerTest, OptionsOfTheServerAsAWhole) {
  StartServer();
  Client client(server_->port());
  client.Send("OPTIONS * HTTP/1.1\r\nHost: x\r\n\r\n");
  const std::string answer = client.ReadThrough("\r\n\r\n");
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 204 No Content\r\n"));
  EXPECT_THAT(answer, HasSubstr("Allow: GET, HEAD, POST, OPTIONS\r\n"));
  client.Send("GET * HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadAnswer(), StartsWith("HTTP/1.1 400 Bad Request\r\n"));
}

TEST_F(HttpServerTest, WhatTheKernelDoesNotTakeAtOnceFollows) {
  StartServer();
  Client client(server_->port());
  std::string prompt;
  for (int i = 0; i < 500'000; ++i) prompt += " x";
  client.Send(Post("/tokenize", R"({"return_token_strs": true, "prompt": ")" + prompt + "\"}"));
  std::this_thread::sleep_for(std::chrono::milliseconds(500));  // its buffers are full by then
  const std::string answer = client.ReadAnswer();
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200 OK\r\n"));
  EXPECT_GT(answer.size(), size_t{5} << 20);
  EXPECT_TRUE(answer.ends_with("]}")) << answer.substr(answer.size() - 100);
  client.Send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadAnswer(), HasSubstr(R"({"status":"ok"})"));
}

TEST_F(HttpServerTest, ChunkedRequestBodyAndContinue) {
  StartServer();
  Client client(server_->port());
  client.Send(
      "POST /tokenize HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\n"
      "Transfer-Encoding: chunked\r\n\r\n");
  EXPECT_EQ(client.ReadThrough("\r\n\r\n"), "HTTP/1.1 100 Continue\r\n\r\n");
  client.Send("8\r\n{\"prompt\r\n");
  client.Send("7\r\n\": \"x\"}\r\n0\r\n\r\n");
  EXPECT_THAT(client.ReadAnswer(), HasSubstr("\"count\":1"));
}

TEST_F(HttpServerTest, StreamsAreChunkedEvents) {
  StartServer();
  Client client(server_->port());
  client.Send(Post("/v1/completions", R"({"prompt": "x", "max_tokens": 20, "stream": true})"));
  const std::string head = client.ReadThrough("\r\n\r\n");
  EXPECT_THAT(head, HasSubstr("Transfer-Encoding: chunked\r\n"));
  EXPECT_THAT(head, HasSubstr("Content-Type: text/event-stream"));
  const std::string body = Unchunk(client.ReadThrough("\r\n0\r\n\r\n"));
  EXPECT_THAT(body, StartsWith("data: {"));
  EXPECT_TRUE(body.ends_with("\n\ndata: [DONE]\n\n")) << body;
  client.Send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");  // the connection lives on
  EXPECT_THAT(client.ReadAnswer(), StartsWith("HTTP/1.1 200 OK"));
}

TEST_F(HttpServerTest, OldClientsGetAStreamThatEndsWithTheConnection) {
  StartServer();
  Client client(server_->port());
  const std::string body = R"({"prompt": "x", "max_tokens": 5, "stream": true})";
  client.Send("POST /v1/completions HTTP/1.0\r\nContent-Length: " + std::to_string(body.size()) +
              "\r\n\r\n" + body);
  bool closed = false;
  const std::string answer = client.ReadAll(&closed);
  EXPECT_TRUE(closed);
  EXPECT_EQ(answer.find("chunked"), std::string::npos);
  EXPECT_TRUE(answer.ends_with("data: [DONE]\n\n"));
}

TEST_F(HttpServerTest, MalformedRequestsAreAnsweredAndTheServerLives) {
  HttpServerOptions options;
  options.max_body_bytes = 100'000;
  options.max_header_bytes = 2000;
  options.header_timeout = options.body_timeout = std::chrono::milliseconds(200);
  StartServer({}, options);
  const std::pair<std::string, const char*> cases[] = {
      {"NONSENSE\r\n\r\n", "HTTP/1.1 400"},
      {"GET /health HTTP/9.9\r\n\r\n", "HTTP/1.1 400"},
      {"GET /%zz HTTP/1.1\r\nHost: x\r\n\r\n", "HTTP/1.1 400"},
      {"GET / HTTP/1.1\r\nX: " + std::string(4000, 'y') + "\r\n\r\n", "HTTP/1.1 431"},
      {Post("/v1/completions", std::string(300'000, ' ')), "HTTP/1.1 413"},
      {"POST /tokenize HTTP/1.1\r\nContent-Length: -5\r\n\r\n", "HTTP/1.1 400"},
      {"POST /tokenize HTTP/1.1\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
       "HTTP/1.1 400"},
      {"POST /tokenize HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "HTTP/1.1 400"},
      {"GET /hea", "HTTP/1.1 408"},
      {"POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\n\r\nab", "HTTP/1.1 408"},
      {Post("/tokenize", "\xff\xfe"), "HTTP/1.1 400"},
  };
  for (const auto& [request, wanted] : cases) {
    Client client(server_->port());
    client.Send(request);
    const std::string answer = client.ReadAnswer();
    EXPECT_THAT(answer, StartsWith(wanted)) << request.substr(0, 80);
    EXPECT_THAT(answer, HasSubstr(R"({"error":{"message":)"));
  }
  Client client(server_->port());
  client.Send("GET /health HTTP/1.1\r\nHost: x\r\n\r\n");
  EXPECT_THAT(client.ReadAnswer(), StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, ARequestThatTricklesInIsNotWaitedFor) {
  HttpServerOptions options;
  options.header_timeout = options.body_timeout = std::chrono::milliseconds(300);
  StartServer({}, options);
  const std::string requests[] = {
      "GET /health HTTP/1.1\r\nHost: x\r\nX-Slow: " + std::string(1000, 'y'),
      "POST /tokenize HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n",
      "POST /tokenize HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3e8;" +
          std::string(1000, 'y'),
  };
  for (const std::string& request : requests) {
    Client client(server_->port());
    const auto start = std::chrono::steady_clock::now();
    std::atomic<bool> answered = false;
    std::thread trickle([&] {
      for (size_t i = 0; i < 1000 && !answered; ++i) {
        client.Send(i < request.size() ? request.substr(i, 1) : "z");
        std::this_thread::sleep_for(std::chrono::milliseconds(i < 60 ? 0 : 20));
      }
    });
    EXPECT_THAT(client.ReadAnswer(), StartsWith("HTTP/1.1 408"));
    EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(5));
    answered = true;
    trickle.join();
  }
}

TEST_F(HttpServerTest, OneConnectionTooManyIsToldSo) {
  HttpServerOptions options;
  options.max_connections = 2;
  StartServer({}, options);
  const std::string health = "GET /health HTTP/1.1\r\nHost: x\r\n\r\n";
  auto first = std::make_unique<Client>(server_->port());
  Client second(server_->port());
  for (Client* client : {first.get(), &second}) {
    client->Send(health);
    EXPECT_THAT(client->ReadAnswer(), StartsWith("HTTP/1.1 200"));
  }
  Client third(server_->port());
  third.Send(health);
  EXPECT_THAT(third.ReadAnswer(), StartsWith("HTTP/1.1 503"));
  bool closed = false;
  third.ReadAll(&closed);
  EXPECT_TRUE(closed);
  first.reset();
  std::string answer;
  for (int i = 0; i < 1000 && !answer.starts_with("HTTP/1.1 200"); ++i) {
    Client next(server_->port());
    next.Send(health);
    answer = next.ReadAnswer();
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  EXPECT_THAT(answer, StartsWith("HTTP/1.1 200"));
}

TEST_F(HttpServerTest, TrailersAreNotPartOfTheHead) {
  generator_ = std::make_unique<FakeGenerator>(FakeGenerator::HashScript);
  server_ = std::make_unique<Server>(ServerOptions{.http = {.port = 0}, .api_keys = {"secret"}});
  server_->Start();
  server_->Open(
      {.names = {"x"}, .tokenizer = *tokenizer_, .generator = *generator_, .metrics = metrics_});
  const std::string head =
      "POST /v1/completions HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n";
  Client trailing(server_->port());
  trailing.Send(head + "\r\n2\r\n{}\r\n0\r\nAuthorization: Bearer secret\r\n\r\n");
  const std::string refused = trailing.ReadAnswer();
  EXPECT_THAT(refused, StartsWith("HTTP/1.1 401"));
  EXPECT_THAT(refused, HasSubstr("WWW-Authenticate: Bearer\r\n"));
  Client leading(server_->port());
  leading.Send(head + "Authorization: Bearer secret\r\n\r\n2\r\n{}\r\n0\r\n\r\n");
  EXPECT_THAT(leading.ReadAnswer(), HasSubstr("prompt is missing"));
}

TEST_F(HttpServerTest, AClientThatHangsUpEndsItsStream) {
  StartServer(std::chrono::milliseconds(2));
  Client client(server_->port());
  client.Send(Post("/v1/completions", kEndless));
  client.ReadThrough("data: {");
  EXPECT_TRUE(generator_->AwaitLive(1));
  client.Close();
  EXPECT_TRUE(generator_->AwaitLive(0));
  EXPECT_EQ(generator_->aborted(), 1u);
}

TEST_F(HttpServerTest, AClientThatHangsUpEndsItsWholeAnswer) {
  StartServer(std::chrono::milliseconds(2));
  Client client(server_->port());
  client.Send(Post("/v1/completions",
                   R"({"prompt": ["x", "y"], "n": 2, "max_tokens": 900000, "ignore_eos": true})"));
  EXPECT_TRUE(generator_->AwaitLive(4));
  client.Close();
  EXPECT_TRUE(generator_->AwaitLive(0));
  EXPECT_EQ(generator_->aborted(), 2u);
}

TEST_F(HttpServerTest, AClientThatDoesNotReadIsCutOff) {
  HttpServerOptions options;
  options.max_pending_bytes = 64 << 10;
  StartServer({}, options);
  Client client(server_->port());
  client.Send(Post("/v1/completions", kEndless));
  EXPECT_TRUE(generator_->AwaitLive(1));
  EXPECT_TRUE(generator_->AwaitLive(0));
  EXPECT_EQ(generator_->aborted(), 1u);
}

TEST_F(HttpServerTest, StopEndsOpenStreams) {
  StartServer(std::chrono::milliseconds(2));
  Client client(server_->port());
  client.Send(Post("/v1/completions", kEndless));
  client.ReadThrough("data: {");
  server_->Stop();
  server_->Wait();
  bool closed = false;
  client.ReadAll(&closed);
  EXPECT_TRUE(closed);
  EXPECT_EQ(generator_->aborted(), 1u);
  EXPECT_FALSE(Client(server_->port()).connected());
}

TEST_F(HttpServerTest, APortInUseIsSaidSo) {
  StartServer();
  HttpServerOptions options;
  options.port = server_->port();
  Server second({.http = options});
  try {
    second.Start();
    ADD_FAILURE() << "two servers on one port";
  } catch (const Error& error) {
    EXPECT_EQ(error.what(), "address 127.0.0.1:" + std::to_string(options.port) +
                                " is in use: choose another with --port");
  }
}

TEST_F(HttpServerTest, TwoHundredStreamsEachGetTheirOwnText) {
  StartServer(std::chrono::microseconds(200));
  constexpr int kStreams = 200;
  const auto body = [](int i, bool stream) {
    return R"({"prompt": "x", "seed": )" + std::to_string(i) + R"(, "max_tokens": )" +
           std::to_string(5 + i % 60) + (stream ? R"(, "stream": true})" : "}");
  };
  // Raw JSON strings compare as well as decoded ones.
  const auto texts = [](const std::string& answer) {
    std::string all;
    for (size_t at = 0; (at = answer.find("\"text\":\"", at)) != std::string::npos;) {
      at += 8;
      const size_t end = answer.find("\",\"logprobs\"", at);
      all += answer.substr(at, end - at);
      at = end;
    }
    return all;
  };
  std::vector<std::unique_ptr<Client>> clients;
  for (int i = 0; i < kStreams; ++i) {
    clients.push_back(std::make_unique<Client>(server_->port()));
    ASSERT_TRUE(clients.back()->connected());
    ASSERT_TRUE(clients.back()->Send(Post("/v1/completions", body(i, true))));
  }
  Client alone(server_->port());
  for (int i = 0; i < kStreams; ++i) {
    clients[i]->ReadThrough("\r\n\r\n");
    const std::string streamed = Unchunk(clients[i]->ReadThrough("\r\n0\r\n\r\n"));
    alone.Send(Post("/v1/completions", body(i, false)));
    const std::string whole = texts(alone.ReadAnswer());
    EXPECT_FALSE(whole.empty());
    EXPECT_EQ(texts(streamed), whole) << "stream " << i;
  }
}

}  // namespace
}  // namespace sluice
