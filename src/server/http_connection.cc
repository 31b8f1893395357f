#include "server/http_connection.h"

#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/asio.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/url.hpp>
#include <chrono>
#include <cstdio>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"
#include "server/api_error.h"
#include "server/client_stream.h"
#include "server/http_head.h"

namespace sluice {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using boost::system::error_code;

namespace {

using Message = http::request<http::string_body>;

constexpr size_t kReadBytes = 16 << 10;
// How long a connection that we end waits for the client's own end, so that unread input does not
// reset it before the last answer has been read.
constexpr std::chrono::milliseconds kLinger{2'000};

// A one-shot alarm that can be set again. Most are set and cleared long before their time, so the
// timer behind it is left as it is where it wakes early enough, and then set anew.
class Deadline {
 public:
  // `on_pass` runs on the connection's thread.
  Deadline(asio::io_context& context, std::function<void()> on_pass)
      : timer_(context), on_pass_(std::move(on_pass)) {}

  // `owner` keeps this object alive, until Stop at the latest.
  void Set(std::chrono::milliseconds after, std::shared_ptr<const void> owner) {
    passes_at_ = Clock::now() + after;
    if (passes_at_ < wakes_at_) WakeThen(std::move(owner));
  }
  void Clear() { passes_at_ = kNever; }
  // At the owner's end.
  void Stop() {
    Clear();
    wakes_at_ = kNever;
    timer_.cancel();
  }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr Clock::time_point kNever = Clock::time_point::max();

  void WakeThen(std::shared_ptr<const void> owner) {
    wakes_at_ = passes_at_;
    timer_.expires_at(wakes_at_);
    timer_.async_wait([this, owner = std::move(owner)](error_code error) mutable {
      // A wait that had ended before the timer was set anew is told by the clock.
      if (!error && Clock::now() >= wakes_at_) OnWake(std::move(owner));
    });
  }

  void OnWake(std::shared_ptr<const void> owner) {
    wakes_at_ = kNever;
    if (Clock::now() >= passes_at_) {
      Clear();
      on_pass_();
    } else if (passes_at_ != kNever) {
      WakeThen(std::move(owner));
    }
  }

  asio::steady_timer timer_;
  const std::function<void()> on_pass_;
  Clock::time_point passes_at_ = kNever;
  Clock::time_point wakes_at_ = kNever;  // at or before passes_at_
};

std::string FieldLines(const HttpFields& fields) {
  std::string lines;
  for (const auto& [name, value] : fields) lines += name + ": " + value + "\r\n";
  return lines;
}

std::string ResponseHead(int status, bool keep_alive, std::string_view content_type,
                         std::string_view more) {
  std::string head = "HTTP/1.1 " + std::to_string(status) + " ";
  head += http::obsolete_reason(static_cast<http::status>(status));
  head += "\r\nServer: sluice\r\n";
  if (!content_type.empty()) {
    head += "Content-Type: ";
    head += content_type;
    head += "\r\n";
  }
  head += keep_alive ? "Connection: keep-alive\r\n" : "Connection: close\r\n";
  head += more;
  head += "\r\n";
  return head;
}

std::string_view View(boost::beast::string_view text) {
  return {text.data(), text.size()};
}

std::string_view Field(const Message& message, std::string_view name) {
  return View(message[boost::beast::string_view(name.data(), name.size())]);
}

// The path of a target in origin form (/path?query), absolute form (http://host/path) or, where
// OPTIONS asks about the server as a whole, asterisk form. Throws ApiError for another.
std::string PathOf(const Message& message) {
  const std::string_view target = View(message.target());
  if (target == "*" && message.method() == http::verb::options) return "*";
  const boost::core::string_view text(target.data(), target.size());
  const auto origin = boost::urls::parse_origin_form(text);
  if (origin) return origin->path();
  const auto absolute = boost::urls::parse_absolute_uri(text);
  if (absolute && absolute->has_authority()) return absolute->path();
  throw ApiError(400, "the request's target is not a URL");
}

// How long the body is must be said once, in words that every reader understands alike.
void CheckFraming(const Message& message) {
  const auto lengths = message.count(http::field::content_length);
  const auto codings = message.count(http::field::transfer_encoding);
  const std::string_view length = Field(message, "Content-Length");
  if (lengths > 1 || length.find_first_not_of("0123456789") != std::string_view::npos) {
    throw ApiError(400, "malformed HTTP request: Content-Length must be one number");
  }
  if (codings == 0) return;
  if (lengths > 0 || codings > 1 || message.version() < 11) {
    throw ApiError(400,
                   "malformed HTTP request: Transfer-Encoding must stand once, without a "
                   "Content-Length, in HTTP/1.1");
  }
  if (!boost::beast::iequals(message[http::field::transfer_encoding], "chunked")) {
    throw ApiError(501, "Transfer-Encoding must be chunked: no other is known here");
  }
}

// Whether a Content-Type says no charset, or one whose texts are UTF-8.
bool InUtf8(std::string_view content_type) {
  static constexpr std::string_view kName = "charset=";
  const auto same = [](char a, char b) { return (a | 0x20) == (b | 0x20); };
  const auto* at =
      std::search(content_type.begin(), content_type.end(), kName.begin(), kName.end(), same);
  if (at == content_type.end()) return true;
  std::string_view charset(at + kName.size(), content_type.end());
  charset = charset.substr(0, charset.find(';'));
  std::string bare(charset);
  std::erase_if(bare, [](char c) { return c == '"' || c == ' '; });
  return boost::beast::iequals(bare, "utf-8") || boost::beast::iequals(bare, "utf8") ||
         boost::beast::iequals(bare, "us-ascii");
}

// What a well-formed head may still ask that is not done here. Throws ApiError.
void CheckHead(const Message& message) {
  CheckFraming(message);
  const auto hosts = message.count(http::field::host);
  if (hosts > 1 || (hosts == 0 && message.version() >= 11)) {
    throw ApiError(400, "malformed HTTP request: one Host is needed");
  }
  const std::string_view coding = Field(message, "Content-Encoding");
  if (!coding.empty() && !boost::beast::iequals(coding, "identity")) {
    throw ApiError(415, "a body must come without a Content-Encoding");
  }
  if (!InUtf8(Field(message, "Content-Type"))) {
    throw ApiError(415, "a body must be in UTF-8");
  }
  const std::string_view expected = Field(message, "Expect");
  if (!expected.empty() && !boost::beast::iequals(expected, "100-continue")) {
    throw ApiError(417, "Expect may be 100-continue only");
  }
}

}  // namespace

void IoGate::Post(std::function<void()> function) {
  const std::lock_guard lock(mutex_);
  if (context_ != nullptr) asio::post(*context_, std::move(function));
}

void IoGate::Close() {
  const std::lock_guard lock(mutex_);
  context_ = nullptr;
}

class HttpConnection : public ResponseWriter, public std::enable_shared_from_this<HttpConnection> {
 public:
  HttpConnection(asio::ip::tcp::socket socket, IoThreadState& thread)
      : thread_(thread),
        stream_(std::move(socket), thread.options.tls.get()),
        read_deadline_(thread.context,
                       [this] {
                         timed_out_ = true;
                         stream_.Cancel();
                       }),
        write_deadline_(thread.context, [this] { Close(); }) {
    thread_.connections.insert(this);
  }
  ~HttpConnection() override { thread_.connections.erase(this); }

  asio::awaitable<void> Serve();
  asio::awaitable<void> TurnAway();
  void Close();

  void AddField(std::string name, std::string value) override {
    fields_.emplace_back(std::move(name), std::move(value));
  }
  void Send(HttpResponse response) override;
  void StartStream(std::string_view content_type) override;
  void Write(std::string_view data) override;
  void EndStream() override;
  std::shared_ptr<Executor> executor() override { return thread_.gate; }

 private:
  using Parser = http::request_parser<http::string_body>;

  // Reads the next request. False when there is none: the client ended the connection, or was told
  // that its request is refused (`answered_` says whether that is still being written).
  asio::awaitable<bool> ReadRequest(HttpRequest& request);
  // The parts of ReadRequest. False when the client is gone; ApiError for what is refused.
  asio::awaitable<bool> AwaitFirstByte();
  asio::awaitable<bool> ReadHead(Parser& parser, HttpRequest& request);
  asio::awaitable<bool> ReadBody(Parser& parser);
  asio::awaitable<bool> ReadMore();
  void TakeHead(const Message& message, HttpRequest& request);
  void RequireNone(error_code error) const;
  std::string_view Input() const {
    return {static_cast<const char*>(input_.data().data()), input_.size()};
  }

  asio::awaitable<bool> Handshake();
  asio::awaitable<void> WatchUntilAnswered();
  asio::awaitable<void> Linger();
  void EndExchange();
  void Answer(HttpRequest request);
  void Refuse(const ApiError& refusal);
  void SetReadDeadline(std::chrono::milliseconds after);
  void CloseSoon();
  void Pump();
  void OnWritten(error_code error, size_t bytes);
  void Finish();

  IoThreadState& thread_;
  ClientStream stream_;
  boost::beast::flat_buffer input_;
  Deadline read_deadline_;
  Deadline write_deadline_;
  std::shared_ptr<Exchange> exchange_;

  // The answer being made.
  bool counted_ = false;                   // in IoThreadState::answering
  HttpFields fields_;                      // of its head, beside those that come with it
  std::optional<HttpResponse> preflight_;  // the answer already, where a browser asks first
  bool head_only_ = false;
  bool keep_alive_ = true;
  bool chunked_ = false;
  bool finished_ = false;  // its last byte is in queued_ or on its way
  bool answered_ = true;   // its last byte was handed to the kernel

  std::string queued_;   // waits while sending_ is written
  std::string sending_;  // being written from sent_ on
  size_t sent_ = 0;
  bool writing_ = false;
  bool timed_out_ = false;
  bool lost_ = false;  // about to be closed: nothing more is written
  bool closed_ = false;
};

asio::awaitable<void> HttpConnection::Serve() {
  const auto self = shared_from_this();
  const bool opened = co_await Handshake();
  if (!opened) Close();
  while (!closed_) {
    HttpRequest request;
    const bool read = co_await ReadRequest(request);
    if (read) Answer(std::move(request));
    if (!answered_) co_await WatchUntilAnswered();
    EndExchange();
    if (!read || !keep_alive_) break;
  }
  if (!closed_) co_await Linger();
  Close();
}

asio::awaitable<void> HttpConnection::TurnAway() {
  const auto self = shared_from_this();
  if (!stream_.encrypted()) {
    Refuse(ApiError(503, "the server has as many connections open as it takes: try again"));
    co_await WatchUntilAnswered();
    if (!closed_) co_await Linger();
  }
  Close();
}

void HttpConnection::Close() {
  if (closed_) return;
  closed_ = true;
  stream_.Close();
  read_deadline_.Stop();
  write_deadline_.Stop();
  if (exchange_) exchange_->Cancel();
  EndExchange();
}

// The answer is written, or nobody will have it.
void HttpConnection::EndExchange() {
  exchange_.reset();
  if (std::exchange(counted_, false)) --thread_.answering;
}

void HttpConnection::SetReadDeadline(std::chrono::milliseconds after) {
  timed_out_ = false;
  read_deadline_.Set(after, shared_from_this());
}

asio::awaitable<bool> HttpConnection::Handshake() {
  error_code error;
  SetReadDeadline(thread_.options.header_timeout);
  co_await stream_.Handshake(error);
  read_deadline_.Clear();
  co_return !error;
}

asio::awaitable<bool> HttpConnection::ReadMore() {
  error_code error;
  const size_t bytes = co_await stream_.Read(input_.prepare(kReadBytes), error);
  input_.commit(bytes);
  co_return !error;
}

asio::awaitable<bool> HttpConnection::AwaitFirstByte() {
  SetReadDeadline(thread_.options.idle_timeout);
  while (true) {
    // RFC 9112, 2.2: an empty line before a request is not part of it.
    const std::string_view come = Input();
    input_.consume(std::min(come.find_first_not_of("\r\n"), come.size()));
    if (input_.size() > 0) co_return true;
    const bool more = co_await ReadMore();
    if (!more) co_return false;
  }
}

asio::awaitable<bool> HttpConnection::ReadRequest(HttpRequest& request) {
  const bool begun = co_await AwaitFirstByte();
  if (!begun) co_return false;
  bool whole = false;
  try {
    Parser parser;
    whole = co_await ReadHead(parser, request) && co_await ReadBody(parser);
    if (!whole && timed_out_) throw ApiError(408, "the request did not arrive in time");
    request.body = std::move(parser.get().body());
  } catch (const ApiError& refusal) {
    Refuse(refusal);
  }
  read_deadline_.Clear();
  co_return whole;
}

asio::awaitable<bool> HttpConnection::ReadHead(Parser& parser, HttpRequest& request) {
  head_only_ = false;
  fields_.clear();
  preflight_.reset();
  SetReadDeadline(thread_.options.header_timeout);
  HeadScanner scanner(thread_.options.max_header_bytes);
  std::optional<size_t> bytes;
  while (!(bytes = scanner.Scan(Input()))) {
    const bool more = co_await ReadMore();
    if (!more) co_return false;
  }
  error_code error;
  parser.header_limit(static_cast<uint32_t>(*bytes + 1));
  parser.body_limit(thread_.options.max_body_bytes);
  parser.put(asio::buffer(Input().substr(0, *bytes)), error);
  input_.consume(*bytes);
  TakeHead(parser.get(), request);
  RequireNone(error);
  CheckHead(parser.get());
  request.path = PathOf(parser.get());
  co_return true;
}

// Keeps what is needed of the head: the parser adds a chunked body's trailers to it later, which
// nobody on the way has checked. Also of a head that is going to be refused.
void HttpConnection::TakeHead(const Message& message, HttpRequest& request) {
  keep_alive_ = message.keep_alive();
  chunked_ = message.version() >= 11;
  head_only_ = message.method() == http::verb::head;
  request.method = std::string(message.method_string());
  request.authorization = std::string(message[http::field::authorization]);
  request.request_id = std::string(Field(message, "X-Request-Id"));
  request.traceparent = std::string(Field(message, "traceparent"));
  if (const Cors* cors = thread_.options.cors.get()) {
    const std::string_view origin = Field(message, "Origin");
    fields_ = cors->Fields(origin);
    const bool asks_first = message.method() == http::verb::options && !origin.empty() &&
                            message.count("Access-Control-Request-Method") > 0;
    if (asks_first) {
      preflight_ = cors->Preflight(origin, Field(message, "Access-Control-Request-Headers"));
    }
  }
}

asio::awaitable<bool> HttpConnection::ReadBody(Parser& parser) {
  if (parser.is_done()) co_return true;
  if (boost::beast::iequals(parser.get()[http::field::expect], "100-continue")) {
    queued_ += "HTTP/1.1 100 Continue\r\n\r\n";
    Pump();
  }
  SetReadDeadline(thread_.options.body_timeout);
  bool starved = input_.size() == 0;
  while (!parser.is_done()) {
    if (starved) {
      const bool more = co_await ReadMore();
      if (!more) co_return false;
    }
    error_code error;
    input_.consume(parser.put(input_.data(), error));
    starved = error == http::error::need_more || input_.size() == 0;
    if (error == http::error::need_more) error = {};
    RequireNone(error);
    // Of a body's bytes none are left over: these are a chunk's size, or what follows the last.
    if (starved && input_.size() > thread_.options.max_header_bytes) {
      throw ApiError(400, "malformed HTTP request: a chunk's size or the trailers are too long");
    }
  }
  co_return true;
}

// Refuses what the parser could not read.
void HttpConnection::RequireNone(error_code error) const {
  if (!error) return;
  if (error == http::error::body_limit) {
    throw ApiError(413, "the request's body is larger than " +
                            std::to_string(thread_.options.max_body_bytes) + " bytes");
  }
  throw ApiError(400, "malformed HTTP request: " + error.message());
}

void HttpConnection::Refuse(const ApiError& refusal) {
  if (closed_) return;
  keep_alive_ = false;
  finished_ = answered_ = false;
  Send({.status = refusal.status(), .body = refusal.Body()});
}

void HttpConnection::Answer(HttpRequest request) {
  finished_ = answered_ = false;
  if (preflight_) {
    Send(std::move(*preflight_));
    return;
  }
  request.arrival = std::chrono::steady_clock::now();
  // Before the handler decides anything: while it drains, whoever counts sees every request that
  // may still be taken.
  counted_ = true;
  ++thread_.answering;
  exchange_ = thread_.handler.Handle(std::move(request), *this);
}

asio::awaitable<void> HttpConnection::WatchUntilAnswered() {
  const size_t most = thread_.options.max_header_bytes + thread_.options.max_body_bytes;
  while (!answered_ && !closed_) {
    const bool more = co_await ReadMore();
    if (answered_) break;
    // A request that came early waits its turn; more than a whole one is not kept.
    if (!more || input_.size() > most) Close();
  }
}

asio::awaitable<void> HttpConnection::Linger() {
  error_code error;
  SetReadDeadline(kLinger);
  input_.clear();
  co_await stream_.EndWriting(error);
  while (!error && !timed_out_) co_await stream_.Discard(error);
}

void HttpConnection::Send(HttpResponse response) {
  if (closed_ || lost_) return;
  SLUICE_CHECK(!finished_);
  std::string more;
  // RFC 9110, 8.6: no Content-Length where there can be no content.
  if (response.status != 204) {
    more = "Content-Length: " + std::to_string(response.body.size()) + "\r\n";
  }
  more += FieldLines(response.headers) + FieldLines(fields_);
  if (response.close) keep_alive_ = false;
  const bool has_body = response.status != 204;
  queued_ +=
      ResponseHead(response.status, keep_alive_, has_body ? response.content_type : "", more);
  if (!head_only_ && has_body) queued_ += response.body;
  Finish();
}

void HttpConnection::StartStream(std::string_view content_type) {
  if (closed_ || lost_) return;
  SLUICE_CHECK(!finished_);
  if (!chunked_) keep_alive_ = false;  // HTTP/1.0: the end of the connection ends the body
  std::string more = "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
  if (chunked_) more += "Transfer-Encoding: chunked\r\n";
  more += FieldLines(fields_);
  queued_ += ResponseHead(200, keep_alive_, content_type, more);
  Pump();
}

void HttpConnection::Write(std::string_view data) {
  if (closed_ || lost_ || data.empty()) return;
  SLUICE_CHECK(!finished_);
  // What already waits is the client's doing; how large the next piece is, is not.
  if (writing_ && queued_.size() > thread_.options.max_pending_bytes) {
    spdlog::warn("a client reads its stream too slowly ({} bytes wait): cut off", queued_.size());
    CloseSoon();
    return;
  }
  if (chunked_) {
    char size[20];
    const int length = std::snprintf(size, sizeof size, "%zx\r\n", data.size());
    queued_.append(size, static_cast<size_t>(length));
  }
  queued_ += data;
  if (chunked_) queued_ += "\r\n";
  Pump();
}

void HttpConnection::EndStream() {
  if (closed_ || lost_) return;
  SLUICE_CHECK(!finished_);
  if (chunked_) queued_ += "0\r\n\r\n";
  Finish();
}

void HttpConnection::Finish() {
  finished_ = true;
  Pump();
}

// Posted, since the Exchange that is writing must not be cancelled under its own feet.
void HttpConnection::CloseSoon() {
  lost_ = true;
  asio::post(thread_.context, [self = shared_from_this()] { self->Close(); });
}

// Hands the kernel what it takes, and waits where it has no room.
void HttpConnection::Pump() {
  if (writing_ || closed_ || lost_) return;
  error_code error;
  while (true) {
    if (sent_ == sending_.size()) {
      sending_.clear();
      sent_ = 0;
      sending_.swap(queued_);
    }
    if (sending_.empty()) break;
    const asio::const_buffer rest(sending_.data() + sent_, sending_.size() - sent_);
    sent_ += stream_.WriteNow(rest, error);
    if (!error) continue;
    if (error != asio::error::would_block) return CloseSoon();
    writing_ = true;
    write_deadline_.Set(thread_.options.write_timeout, shared_from_this());
    stream_.Write(rest, [self = shared_from_this()](error_code failure, size_t bytes) {
      self->OnWritten(failure, bytes);
    });
    return;
  }
  if (finished_ && !answered_) {
    answered_ = true;
    stream_.Cancel();  // ends the watch; nothing is being written
  }
}

void HttpConnection::OnWritten(error_code error, size_t bytes) {
  writing_ = false;
  write_deadline_.Clear();
  if (error) {
    Close();
    return;
  }
  sent_ += bytes;
  Pump();
}

asio::awaitable<void> ServeConnection(asio::ip::tcp::socket socket, IoThreadState& thread) {
  if (thread.stopping) co_return;
  error_code ignored;
  socket.set_option(asio::ip::tcp::no_delay(true), ignored);
  const auto connection = std::make_shared<HttpConnection>(std::move(socket), thread);
  co_await connection->Serve();
}

asio::awaitable<void> TurnAway(asio::ip::tcp::socket socket, IoThreadState& thread) {
  if (thread.stopping) co_return;
  const auto connection = std::make_shared<HttpConnection>(std::move(socket), thread);
  co_await connection->TurnAway();
}

void CloseConnection(HttpConnection& connection) {
  connection.Close();
}

}  // namespace sluice
