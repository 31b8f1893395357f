#include "bench/load_client.h"

#include <openssl/ssl.h>

#include <algorithm>
#include <array>
#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <boost/json.hpp>
#include <exception>
#include <future>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <type_traits>
#include <unordered_set>
#include <utility>

#include "base/check.h"
#include "base/error.h"
#include "base/open_files.h"
#include "bench/stream_answer.h"
#include "bench/timing.h"
#include "hub/http_client.h"
#include "hub/http_target.h"

namespace sluice {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace json = boost::json;
namespace ssl = boost::asio::ssl;
using asio::redirect_error;
using asio::use_awaitable;
using boost::system::error_code;

namespace {

using PlainStream = asio::ip::tcp::socket;
using TlsStream = ssl::stream<asio::ip::tcp::socket>;
using Parser = http::response_parser<http::buffer_body>;

constexpr size_t kChunkBytes = 16 << 10;
constexpr size_t kMostRefusalBytes = 64 << 10;  // that are kept of an answer that is no stream
constexpr const char* kUserAgent = "sluice-bench";

std::string WithoutSlash(std::string url) {
  while (url.ends_with('/')) url.pop_back();
  return url;
}

std::string RequestBody(const LoadTarget& target, const LoadRequest& request) {
  json::object body{{"model", target.model}};
  const auto* text = std::get_if<std::string>(&request.prompt);
  if (target.endpoint.ends_with("/chat/completions")) {
    SLUICE_CHECK(text != nullptr);  // a chat has no other prompts
    json::array messages;
    messages.push_back(json::object{{"role", "user"}, {"content", *text}});
    body["messages"] = std::move(messages);
  } else if (text != nullptr) {
    body["prompt"] = *text;
  } else {
    const auto& tokens = std::get<std::vector<TokenId>>(request.prompt);
    body["prompt"] = json::array(tokens.begin(), tokens.end());
  }
  body["max_tokens"] = request.output_tokens;
  body["temperature"] = target.temperature;
  body["stream"] = true;
  body["stream_options"] = json::object{{"include_usage", true}};
  if (target.ignore_eos) body["ignore_eos"] = true;
  return json::serialize(body);
}

std::string Named(const std::string& what, const error_code& error) {
  if (error == asio::error::timed_out) return what + ": no byte came in time";
  if (error == http::error::partial_message || error == http::error::end_of_stream ||
      error == ssl::error::stream_truncated) {
    return what + ": the connection ended early";
  }
  return what + ": " + error.message();
}

// A connection and what was read from it beyond the answer before.
template <class Stream>
struct Connection {
  using All = std::unordered_set<Connection*>;

  // Is among `all` as long as it lives.
  template <class... Args>
  explicit Connection(All& all_of_load, Args&&... args)
      : stream(std::forward<Args>(args)...), all(all_of_load) {
    all.insert(this);
  }
  ~Connection() { all.erase(this); }
  Connection(const Connection&) = delete;
  Connection& operator=(const Connection&) = delete;

  asio::ip::tcp::socket& socket() {
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      return stream.next_layer();
    } else {
      return stream;
    }
  }

  Stream stream;
  beast::flat_buffer input;
  std::array<char, kChunkBytes> chunk;
  // Since when it has waited for a byte, or for the server to take some; none between requests.
  std::optional<BenchClock::time_point> waits_since;
  bool timed_out = false;
  All& all;
};

// A request, when it may be sent, and where to say what happened to it.
struct Due {
  const LoadRequest& request;
  double at_s;
  RequestOutcome& outcome;
};

// One thread's share of a load on its way. A coroutine sends the requests in turn, each has one of
// its own for its answer, one looks after connections that wait too long, and all are run by the
// thread that calls Run. What a request costs here is taken from a server on the same machine: it
// is one string, made before the clock runs, and no timer is set for it.
template <class Stream>
class LoadRun {
 public:
  LoadRun(const LoadTarget& target, std::vector<Due> share, int max_in_flight)
      : target_(target),
        address_(ParseHttpTarget(WithoutSlash(target.base_url) + target.endpoint)),
        share_(std::move(share)),
        max_in_flight_(max_in_flight),
        timer_(context_),
        watch_(context_) {
    tls_.set_default_verify_paths();
    tls_.set_verify_mode(ssl::verify_peer);
    Resolve();
    head_ = "POST " + address_.path + " HTTP/1.1\r\nHost: " + address_.authority +
            "\r\nUser-Agent: " + kUserAgent +
            "\r\nContent-Type: application/json\r\nAccept-Encoding: identity\r\n";
    if (!target_.api_key.empty()) head_ += "Authorization: Bearer " + target_.api_key + "\r\n";
    messages_.reserve(share_.size());
    for (const Due& due : share_) messages_.push_back(MessageOf(due.request));
  }

  void Run(BenchClock::time_point begin) {
    begin_ = begin;
    asio::co_spawn(context_, SendAll(), OnEnd);
    asio::co_spawn(context_, Watch(), OnEnd);
    context_.run();
  }

 private:
  using Link = Connection<Stream>;

  static void OnEnd(const std::exception_ptr& failure) {
    if (failure) std::rethrow_exception(failure);
  }

  void Resolve() {
    error_code error;
    asio::ip::tcp::resolver resolver(context_);
    endpoints_ = resolver.resolve(address_.host, address_.port, error);
    if (error) {
      throw Error(ErrorCode::kUnavailable, address_.authority + ": " + error.message());
    }
  }

  double Now() const { return SecondsSince(begin_); }

  std::string MessageOf(const LoadRequest& request) const {
    const std::string body = RequestBody(target_, request);
    return head_ + "Content-Length: " + std::to_string(body.size()) + "\r\n\r\n" + body;
  }

  asio::awaitable<void> SendAll() {
    for (size_t i = 0; i < share_.size(); ++i) {
      const Due& due = share_[i];
      due.outcome.prompt_tokens = due.request.prompt_tokens;
      co_await WaitUntil(due.at_s);
      co_await WaitForPlace();
      ++in_flight_;
      due.outcome.late_s = Now() - std::max(due.at_s, place_since_s_);
      asio::co_spawn(context_, Send(due.outcome, std::move(messages_[i])), OnEnd);
      // Answers on their way are not to wait until all requests have been sent.
      co_await asio::post(context_, use_awaitable);
    }
    all_sent_ = true;
    EndWatch();
  }

  bool over() const { return all_sent_ && in_flight_ == 0; }
  void EndWatch() {
    if (over()) watch_.cancel();
  }

  // Ends connections that have waited for too long, an eighth of that too late at most.
  asio::awaitable<void> Watch() {
    while (!over()) {
      watch_.expires_after(target_.timeout / 8 + std::chrono::milliseconds(1));
      error_code cancelled;
      co_await watch_.async_wait(redirect_error(use_awaitable, cancelled));
      for (Link* link : links_) {
        if (!link->waits_since || BenchClock::now() - *link->waits_since < target_.timeout)
          continue;
        link->timed_out = true;
        error_code ignored;
        link->socket().close(ignored);
      }
    }
  }

  // After each wait.
  static void Came(Link& link, error_code& error) {
    link.waits_since = BenchClock::now();
    if (link.timed_out) error = asio::error::timed_out;
  }

  asio::awaitable<void> WaitUntil(double at_s) {
    if (Now() >= at_s) co_return;
    timer_.expires_at(begin_ + std::chrono::duration_cast<BenchClock::duration>(
                                   std::chrono::duration<double>(at_s)));
    error_code ended;
    co_await timer_.async_wait(redirect_error(use_awaitable, ended));
  }

  asio::awaitable<void> WaitForPlace() {
    waits_for_place_ = true;
    while (in_flight_ >= max_in_flight_) {
      timer_.expires_at(BenchClock::time_point::max());
      error_code cancelled;  // by an answer's end
      co_await timer_.async_wait(redirect_error(use_awaitable, cancelled));
    }
    waits_for_place_ = false;
  }

  asio::awaitable<void> Send(RequestOutcome& outcome, std::string message) {
    outcome.sent_s = Now();
    try {
      co_await Exchange(outcome, message);
    } catch (const Error& error) {
      outcome.error = error.what();
    }
    if (!outcome.error.empty()) outcome.ended_s = Now();
    --in_flight_;
    if (waits_for_place_ && in_flight_ == max_in_flight_ - 1) {
      place_since_s_ = Now();
      timer_.cancel();
    }
    EndWatch();
  }

  asio::awaitable<void> Exchange(RequestOutcome& outcome, const std::string& message) {
    std::unique_ptr<Link> link = TakeIdle();
    const bool reused = link != nullptr;
    if (!reused) link = co_await Connect();
    std::optional<Parser> parser(std::in_place);
    error_code error = co_await Ask(*link, message, *parser);
    // A server may end a connection that has been idle at the moment it is used.
    if (error && error != asio::error::timed_out && reused && !parser->got_some()) {
      link = co_await Connect();
      parser.emplace();
      error = co_await Ask(*link, message, *parser);
    }
    if (error) throw Error(ErrorCode::kUnavailable, Named("no answer", error));
    if (parser->get().result() == http::status::ok) {
      StreamAnswer answer(outcome);
      error = co_await ReadBody(*link, *parser,
                                [&](std::string_view bytes) { answer.Feed(bytes, Now()); });
      if (error) throw Error(ErrorCode::kUnavailable, Named("the answer broke off", error));
      answer.Finish();
    } else {
      std::string body;
      error = co_await ReadBody(*link, *parser, [&](std::string_view bytes) {
        body += bytes.substr(0, kMostRefusalBytes - body.size());
      });
      outcome.error = RefusalText(static_cast<int>(parser->get().result_int()), body);
    }
    link->waits_since.reset();
    if (!error && parser->keep_alive()) idle_.push_back(std::move(link));
  }

  std::unique_ptr<Link> TakeIdle() {
    if (idle_.empty()) return nullptr;
    std::unique_ptr<Link> link = std::move(idle_.back());
    idle_.pop_back();
    return link;
  }

  std::unique_ptr<Link> MakeLink() {
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      auto link = std::make_unique<Link>(links_, context_, tls_);
      SSL_set_tlsext_host_name(link->stream.native_handle(), address_.host.c_str());
      link->stream.set_verify_callback(ssl::host_name_verification(address_.host));
      return link;
    } else {
      return std::make_unique<Link>(links_, context_);
    }
  }

  asio::awaitable<std::unique_ptr<Link>> Connect() {
    std::unique_ptr<Link> link = MakeLink();
    error_code error;
    link->waits_since = BenchClock::now();
    co_await asio::async_connect(link->socket(), endpoints_, redirect_error(use_awaitable, error));
    Came(*link, error);
    if (!error) link->socket().set_option(asio::ip::tcp::no_delay(true), error);
    if constexpr (std::is_same_v<Stream, TlsStream>) {
      if (!error) {
        co_await link->stream.async_handshake(ssl::stream_base::client,
                                              redirect_error(use_awaitable, error));
        Came(*link, error);
      }
    }
    if (error) throw Error(ErrorCode::kUnavailable, Named("no connection", error));
    co_return link;
  }

  // Sends the request and reads the head of its answer.
  asio::awaitable<error_code> Ask(Link& link, const std::string& message, Parser& parser) {
    parser.body_limit(boost::none);
    error_code error;
    link.waits_since = BenchClock::now();
    co_await asio::async_write(link.stream, asio::buffer(message),
                               redirect_error(use_awaitable, error));
    Came(link, error);
    if (error) co_return error;
    co_await http::async_read_header(link.stream, link.input, parser,
                                     redirect_error(use_awaitable, error));
    Came(link, error);
    co_return error;
  }

  template <class OnBytes>
  asio::awaitable<error_code> ReadBody(Link& link, Parser& parser, OnBytes on_bytes) {
    error_code error;
    while (!parser.is_done()) {
      auto& body = parser.get().body();
      body.data = link.chunk.data();
      body.size = link.chunk.size();
      co_await http::async_read_some(link.stream, link.input, parser,
                                     redirect_error(use_awaitable, error));
      Came(link, error);
      if (error == http::error::need_buffer) error = {};
      const size_t count = link.chunk.size() - body.size;
      if (count > 0) on_bytes(std::string_view(link.chunk.data(), count));
      if (error) break;
    }
    co_return error;
  }

  const LoadTarget& target_;
  const HttpTarget address_;
  const std::vector<Due> share_;
  const int max_in_flight_;
  std::vector<std::string> messages_;

  asio::io_context context_{1};
  ssl::context tls_{ssl::context::tls_client};
  asio::ip::tcp::resolver::results_type endpoints_;
  asio::steady_timer timer_;  // that SendAll waits on; if for a place, an answer's end cancels it
  asio::steady_timer watch_;
  std::string head_;          // of every request, but for its body's length
  typename Link::All links_;  // outlives those
  std::vector<std::unique_ptr<Link>> idle_;
  BenchClock::time_point begin_;
  int in_flight_ = 0;
  bool waits_for_place_ = false;
  double place_since_s_ = 0.0;  // when one was free again that SendAll had waited for
  bool all_sent_ = false;
};

// Of N threads each has every Nth request.
template <class Stream>
std::vector<RequestOutcome> SendShares(const LoadTarget& target,
                                       std::span<const LoadRequest> requests,
                                       const LoadSchedule& schedule) {
  constexpr int kNoLimit = std::numeric_limits<int>::max();
  const int most = schedule.max_concurrency.value_or(kNoLimit);
  const int threads = std::min(schedule.num_threads, most);
  std::vector<RequestOutcome> outcomes(requests.size());
  std::vector<std::unique_ptr<LoadRun<Stream>>> runs;
  for (int thread = 0; thread < threads; ++thread) {
    std::vector<Due> share;
    for (size_t i = thread; i < requests.size(); i += threads) {
      share.push_back({requests[i], schedule.at_s[i], outcomes[i]});
    }
    const int places = most == kNoLimit ? kNoLimit : most / threads + (thread < most % threads);
    runs.push_back(std::make_unique<LoadRun<Stream>>(target, std::move(share), places));
  }
  const BenchClock::time_point begin = BenchClock::now();
  std::vector<std::future<void>> others;
  for (int thread = 1; thread < threads; ++thread) {
    others.push_back(
        std::async(std::launch::async, [run = runs[thread].get(), begin] { run->Run(begin); }));
  }
  runs[0]->Run(begin);
  for (std::future<void>& other : others) other.get();
  return outcomes;
}

}  // namespace

std::string FirstServedModel(const LoadTarget& target) {
  const HttpClient client(kUserAgent, target.timeout);
  FetchRequest request{.url = WithoutSlash(target.base_url) + "/v1/models"};
  if (!target.api_key.empty()) {
    request.headers.emplace_back("Authorization", "Bearer " + target.api_key);
  }
  std::string body;
  const HttpHead head = client.Send(
      request, [](const HttpHead&) { return true; },
      [&](std::string_view bytes) { body += bytes; });
  if (head.status != 200) {
    throw Error(ErrorCode::kUnavailable, request.url + ": " + RefusalText(head.status, body));
  }
  error_code error;
  const json::value answer = json::parse(body, error);
  const json::value* id = error ? nullptr : answer.find_pointer("/data/0/id", error);
  if (id == nullptr || !id->is_string()) {
    throw Error(ErrorCode::kUnavailable, request.url + " lists no model: name one with --model");
  }
  return std::string(id->get_string());
}

std::vector<RequestOutcome> SendLoad(const LoadTarget& target,
                                     std::span<const LoadRequest> requests,
                                     const LoadSchedule& schedule) {
  SLUICE_CHECK_EQ(requests.size(), schedule.at_s.size());
  SLUICE_CHECK_GE(schedule.max_concurrency.value_or(1), 1);
  SLUICE_CHECK_GE(schedule.num_threads, 1);
  RaiseOpenFileLimit();
  return ParseHttpTarget(target.base_url).tls ? SendShares<TlsStream>(target, requests, schedule)
                                              : SendShares<PlainStream>(target, requests, schedule);
}

}  // namespace sluice
