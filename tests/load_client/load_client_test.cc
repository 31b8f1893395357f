#include "bench/load_client.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <atomic>
#include <boost/asio.hpp>
#include <memory>
#include <numeric>
#include <thread>

#include "base/error.h"
#include "server/fake_generator.h"
#include "server/server.h"

namespace sluice {
namespace {

namespace asio = boost::asio;
using ::testing::HasSubstr;

std::vector<LoadRequest> SomeRequests(int count, int output_tokens = 12) {
  std::vector<TokenId> vocabulary(3000);
  std::iota(vocabulary.begin(), vocabulary.end(), 300);
  return RandomRequests({.input_tokens = 20, .output_tokens = output_tokens, .range_ratio = 0.3},
                        vocabulary, count, 1);
}

std::vector<double> AtOnce(size_t count) {
  return std::vector<double>(count, 0.0);
}

class ServerLoadTest : public ::testing::Test {
 protected:
  void StartServer(std::chrono::microseconds round = {}, std::vector<std::string> keys = {}) {
    generator_ = std::make_unique<FakeGenerator>(FakeGenerator::HashScript, round);
    HttpServerOptions http;
    http.port = 0;
    server_ = std::make_unique<Server>(ServerOptions{.http = http, .api_keys = std::move(keys)});
    server_->Start();
    server_->Open({.names = {"storyteller"},
                   .tokenizer = *tokenizer_,
                   .chat_template = &*chat_template_,
                   .generator = *generator_,
                   .metrics = metrics_,
                   .max_model_len = 4096});
    target_.base_url = "http://127.0.0.1:" + std::to_string(server_->port()) + "/";
    target_.model = "storyteller";
    target_.ignore_eos = true;
  }
  void TearDown() override {
    if (server_) server_->Stop();
    server_.reset();
  }

  const std::unique_ptr<Tokenizer> tokenizer_ =
      Tokenizer::Load(SLUICE_SOURCE_DIR "/models/storyteller/tokenizer.json");
  const std::optional<ChatTemplate> chat_template_ =
      ChatTemplate::Parse("<{{ messages[0].content }}>");
  Metrics metrics_;
  std::unique_ptr<FakeGenerator> generator_;
  std::unique_ptr<Server> server_;
  LoadTarget target_;
};

TEST_F(ServerLoadTest, EveryRequestIsAnsweredWithNoMoreAtOnceThanAllowed) {
  StartServer(std::chrono::microseconds(200));
  const std::vector<LoadRequest> requests = SomeRequests(40);
  const std::vector<RequestOutcome> outcomes =
      SendLoad(target_, requests, {.at_s = AtOnce(requests.size()), .max_concurrency = 8});
  ASSERT_EQ(outcomes.size(), requests.size());
  for (size_t i = 0; i < outcomes.size(); ++i) {
    const RequestOutcome& outcome = outcomes[i];
    EXPECT_EQ(outcome.error, "");
    EXPECT_EQ(outcome.prompt_tokens, requests[i].prompt_tokens);
    EXPECT_EQ(outcome.output_tokens, requests[i].output_tokens);
    ASSERT_FALSE(outcome.chunks_s.empty());
    EXPECT_LE(outcome.sent_s, outcome.chunks_s.front());
    EXPECT_TRUE(std::is_sorted(outcome.chunks_s.begin(), outcome.chunks_s.end()));
    EXPECT_LE(outcome.chunks_s.back(), outcome.ended_s);
  }
  EXPECT_EQ(SummarizeServing(outcomes, {}).peak_concurrent, 8);

  std::vector<std::vector<TokenId>> asked, came;
  for (const LoadRequest& request : requests) {
    asked.push_back(std::get<std::vector<TokenId>>(request.prompt));
  }
  for (const Request& request : generator_->submitted()) {
    came.push_back(request.prompt);
    EXPECT_EQ(request.sampling.temperature, 0.0f);
    EXPECT_TRUE(request.sampling.ignore_eos);
  }
  EXPECT_THAT(came, ::testing::UnorderedElementsAreArray(asked));
}

TEST_F(ServerLoadTest, ThreadsShareRequestsAndPlaces) {
  StartServer(std::chrono::milliseconds(1));
  const std::vector<LoadRequest> requests = SomeRequests(101);
  for (const int places : {2, 8}) {
    const auto outcomes =
        SendLoad(target_, requests,
                 {.at_s = AtOnce(requests.size()), .max_concurrency = places, .num_threads = 3});
    for (size_t i = 0; i < requests.size(); ++i) {
      EXPECT_EQ(outcomes[i].error, "");
      EXPECT_EQ(outcomes[i].output_tokens, requests[i].output_tokens);
    }
    EXPECT_EQ(SummarizeServing(outcomes, {}).peak_concurrent, places);
  }
  EXPECT_EQ(generator_->submitted().size(), 2 * requests.size());
}

// 40 requests that are due at once and take a millisecond or more each, in two places: who waits
// for a place is not late.
TEST_F(ServerLoadTest, WaitingForAPlaceIsNotBeingLate) {
  StartServer(std::chrono::milliseconds(1));
  const std::vector<LoadRequest> requests = SomeRequests(40);
  const auto outcomes =
      SendLoad(target_, requests, {.at_s = AtOnce(requests.size()), .max_concurrency = 2});
  const ServingFigures figures = SummarizeServing(outcomes, {});
  EXPECT_GT(outcomes.back().sent_s, 0.1);
  EXPECT_LT(figures.lateness.median, 20.0);
  for (const RequestOutcome& outcome : outcomes) EXPECT_GE(outcome.late_s, 0.0);
}

TEST_F(ServerLoadTest, HundredsOfStreamsAreReadAtOnce) {
  StartServer(std::chrono::milliseconds(2));
  const std::vector<LoadRequest> requests = SomeRequests(300, 200);
  const auto outcomes = SendLoad(target_, requests, {.at_s = AtOnce(requests.size())});
  const ServingFigures figures = SummarizeServing(outcomes, {});
  EXPECT_EQ(figures.completed, 300u);
  EXPECT_GT(figures.peak_concurrent, 200);
}

TEST_F(ServerLoadTest, NothingIsSentBeforeItsTime) {
  StartServer();
  const std::vector<LoadRequest> requests = SomeRequests(4);
  const std::vector<double> at_s = {0.0, 0.05, 0.05, 0.2};
  const auto outcomes = SendLoad(target_, requests, {.at_s = at_s});
  for (size_t i = 0; i < at_s.size(); ++i) {
    EXPECT_EQ(outcomes[i].error, "");
    EXPECT_GE(outcomes[i].sent_s, at_s[i]);
  }
}

TEST_F(ServerLoadTest, ChatsAreOfText) {
  StartServer();
  target_.endpoint = "/v1/chat/completions";
  const std::vector<LoadRequest> requests = {{.prompt = "the cat", .output_tokens = 5}};
  const auto outcomes = SendLoad(target_, requests, {.at_s = AtOnce(1)});
  EXPECT_EQ(outcomes[0].error, "");
  EXPECT_EQ(outcomes[0].output_tokens, 5);
  const std::vector<TokenId> prompt = tokenizer_->Encode("<the cat>");
  EXPECT_EQ(outcomes[0].prompt_tokens, std::ssize(prompt));
  ASSERT_EQ(generator_->submitted().size(), 1u);
  EXPECT_EQ(generator_->submitted()[0].prompt, prompt);
}

TEST_F(ServerLoadTest, TheServersFirstModelIsFoundWithItsKey) {
  StartServer({}, {"secret"});
  EXPECT_THROW(FirstServedModel(target_), Error);
  target_.api_key = "secret";
  EXPECT_EQ(FirstServedModel(target_), "storyteller");
  const std::vector<LoadRequest> requests = SomeRequests(1);
  EXPECT_EQ(SendLoad(target_, requests, {.at_s = AtOnce(1), .max_concurrency = 1})[0].error, "");
  target_.api_key = "other";
  EXPECT_THAT(SendLoad(target_, requests, {.at_s = AtOnce(1), .max_concurrency = 1})[0].error,
              HasSubstr("HTTP 401"));
}

TEST_F(ServerLoadTest, FailuresAreNamedAndTheRestGoesOn) {
  StartServer();
  std::vector<LoadRequest> requests = SomeRequests(3);
  requests[1].output_tokens = 100'000;
  const auto outcomes = SendLoad(target_, requests, {.at_s = AtOnce(3), .max_concurrency = 1});
  EXPECT_EQ(outcomes[0].error, "");
  EXPECT_THAT(outcomes[1].error, HasSubstr("HTTP 400: This model's maximum context length"));
  EXPECT_EQ(outcomes[2].error, "");
}

// What a server says to one request.
struct Reply {
  std::string bytes;
  bool closes = false;  // the connection, after it
};

// Says what it is told to, to one connection at a time.
class ScriptedServer {
 public:
  explicit ScriptedServer(std::vector<Reply> replies)
      : replies_(std::move(replies)),
        acceptor_(context_, {asio::ip::address_v4::loopback(), 0}),
        thread_([this] { Serve(); }) {}
  ~ScriptedServer() { thread_.join(); }

  std::string url() const {
    return "http://127.0.0.1:" + std::to_string(acceptor_.local_endpoint().port());
  }
  int connections() const { return connections_; }

 private:
  // Until everything has been said; then the last client hears no more.
  void Serve() {
    size_t said = 0;
    while (said < replies_.size()) {
      asio::ip::tcp::socket socket(context_);
      acceptor_.accept(socket);
      ++connections_;
      while (said < replies_.size() && ReadRequest(socket)) {
        const Reply& reply = replies_[said++];
        boost::system::error_code ignored;
        asio::write(socket, asio::buffer(reply.bytes), ignored);
        if (reply.closes) break;
        if (said == replies_.size()) ReadRequest(socket);
      }
    }
  }

  static bool ReadRequest(asio::ip::tcp::socket& socket) {
    boost::system::error_code error;
    std::string input;
    const size_t head = asio::read_until(socket, asio::dynamic_buffer(input), "\r\n\r\n", error);
    if (error) return false;
    const size_t field = input.find("Content-Length: ");
    const size_t size = std::stoul(input.substr(field + 16)) + head;
    if (input.size() < size) {
      asio::read(socket, asio::dynamic_buffer(input), asio::transfer_exactly(size - input.size()),
                 error);
    }
    return !error;
  }

  const std::vector<Reply> replies_;
  asio::io_context context_;
  asio::ip::tcp::acceptor acceptor_;
  std::atomic<int> connections_{0};
  std::thread thread_;
};

std::string Streamed(const std::string& body, bool ended = true) {
  std::ostringstream size;
  size << std::hex << body.size();
  return "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: "
         "chunked\r\n\r\n" +
         size.str() + "\r\n" + body + "\r\n" + (ended ? "0\r\n\r\n" : "");
}

const char* const kAnswer =
    "data: {\"choices\":[{\"text\":\"yes\",\"finish_reason\":\"stop\"}]}\n\ndata: [DONE]\n\n";

std::vector<RequestOutcome> SendTo(const ScriptedServer& server, int count) {
  const LoadTarget target{
      .base_url = server.url(), .model = "m", .timeout = std::chrono::milliseconds(2000)};
  return SendLoad(target, SomeRequests(count), {.at_s = AtOnce(count), .max_concurrency = 1});
}

TEST(LoadClient, KeepsConnections) {
  const ScriptedServer server({{Streamed(kAnswer)}, {Streamed(kAnswer)}, {Streamed(kAnswer)}});
  for (const RequestOutcome& outcome : SendTo(server, 3)) EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(server.connections(), 1);
}

TEST(LoadClient, AConnectionThatWasClosedMeanwhileIsNoFailure) {
  const ScriptedServer server({{Streamed(kAnswer), true}, {Streamed(kAnswer)}});
  for (const RequestOutcome& outcome : SendTo(server, 2)) EXPECT_EQ(outcome.error, "");
  EXPECT_EQ(server.connections(), 2);
}

TEST(LoadClient, NamesWhatAServerDoesWrong) {
  const ScriptedServer server(
      {{"HTTP/1.1 429 Too Many Requests\r\nContent-Length: "
        "28\r\n\r\n{\"error\":{\"message\":\"full\"}}"},
       {Streamed("data: {\"choices\":[{\"text\":\"yes\"}]}\n\n", false), true},
       {"", true},
       {"HTTP/1.1 2000 OK\r\n\r\n", true},
       {Streamed("data: {\"choices\":[{\"text\":\"yes\"}]}\n\n")},
       {Streamed("data: {\"choices\":[{\"text\":\"yes\"}]}\n\n", false)}});
  const std::vector<RequestOutcome> outcomes = SendTo(server, 6);
  EXPECT_EQ(outcomes[0].error, "HTTP 429: full");
  EXPECT_EQ(outcomes[1].error, "the answer broke off: the connection ended early");
  EXPECT_EQ(outcomes[2].error, "no answer: the connection ended early");
  EXPECT_THAT(outcomes[3].error, HasSubstr("no answer: bad status"));
  EXPECT_EQ(outcomes[4].error, "the stream ended before its answer was whole");
  EXPECT_EQ(outcomes[5].error, "the answer broke off: no byte came in time");
  EXPECT_GE(outcomes[5].ended_s - outcomes[5].sent_s, 2.0);
}

TEST(LoadClient, NamesAServerThatIsNotThere) {
  asio::io_context context;
  asio::ip::tcp::acceptor closed(context, {asio::ip::address_v4::loopback(), 0});
  LoadTarget target{.base_url =
                        "http://127.0.0.1:" + std::to_string(closed.local_endpoint().port())};
  closed.close();
  const auto outcomes = SendLoad(target, SomeRequests(1), {.at_s = AtOnce(1)});
  EXPECT_THAT(outcomes[0].error, HasSubstr("no connection: Connection refused"));
  target.base_url = "localhost:8000";
  EXPECT_THROW(SendLoad(target, SomeRequests(1), {.at_s = AtOnce(1)}), Error);
}

}  // namespace
}  // namespace sluice
