#include "server/http_connection.h"

#include <spdlog/spdlog.h>

#include <boost/asio.hpp>
#include <boost/beast/core/flat_buffer.hpp>
#include <boost/beast/http.hpp>
#include <boost/url.hpp>
#include <chrono>
#include <cstdio>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"
#include "server/api_error.h"

namespace sluice {

namespace asio = boost::asio;
namespace http = boost::beast::http;
using asio::redirect_error;
using asio::use_awaitable;
using boost::system::error_code;

namespace {

constexpr size_t kReadBytes = 16 << 10;
// How long a connection that we end waits for the client's own end, so that unread input does not
// reset it before the last answer has been read.
constexpr std::chrono::milliseconds kLinger{2'000};

// A one-shot alarm that can be set again. `on_fire` runs on the connection's thread.
class Deadline {
 public:
  explicit Deadline(asio::io_context& context) : timer_(context) {}

  template <class Function>
  void Set(std::chrono::milliseconds after, Function on_fire) {
    timer_.expires_after(after);
    timer_.async_wait([this, on_fire](error_code error) {
      // A wait that had fired before it was set anew is told by the clock.
      if (!error && std::chrono::steady_clock::now() >= timer_.expiry()) on_fire();
    });
  }
  void Clear() { timer_.expires_at(std::chrono::steady_clock::time_point::max()); }

 private:
  asio::steady_timer timer_;
};

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

std::optional<std::string> DecodePath(std::string_view target) {
  const boost::core::string_view text(target.data(), target.size());
  const auto origin = boost::urls::parse_origin_form(text);
  if (origin) return std::string(origin->path());
  const auto reference = boost::urls::parse_uri_reference(text);
  if (reference) return std::string(reference->path());
  return std::nullopt;
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
        socket_(std::move(socket)),
        read_deadline_(thread.context),
        write_deadline_(thread.context) {
    thread_.connections.insert(this);
  }
  ~HttpConnection() override { thread_.connections.erase(this); }

  asio::awaitable<void> Serve();
  void Close();

  void Send(HttpResponse response) override;
  void StartStream(std::string_view content_type) override;
  void Write(std::string_view data) override;
  void EndStream() override;
  Executor executor() override {
    return
        [gate = thread_.gate](std::function<void()> function) { gate->Post(std::move(function)); };
  }

 private:
  using Parser = http::request_parser<http::string_body>;

  // Reads the next request into `parser`. False when there is none: the client ended the
  // connection, or was answered that the request is malformed (then `answered_` or `answering_`).
  asio::awaitable<bool> ReadRequest(Parser& parser);
  asio::awaitable<bool> AwaitFirstByte();
  asio::awaitable<void> Answer(Parser& parser);
  asio::awaitable<void> WatchUntilAnswered();
  asio::awaitable<void> Linger();
  void Refuse(error_code error);
  void SetReadDeadline(std::chrono::milliseconds after);
  void Pump();
  void OnWritten(error_code error, size_t bytes);
  void Finish();

  IoThreadState& thread_;
  asio::ip::tcp::socket socket_;
  boost::beast::flat_buffer input_;
  Deadline read_deadline_;
  Deadline write_deadline_;
  std::shared_ptr<Exchange> exchange_;

  // The answer being made.
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
  bool dropped_ = false;  // too slow a reader: about to be closed
  bool closed_ = false;
};

asio::awaitable<void> HttpConnection::Serve() {
  const auto self = shared_from_this();
  while (!closed_) {
    Parser parser;
    const bool read = co_await ReadRequest(parser);
    if (read) co_await Answer(parser);
    if (!answered_) co_await WatchUntilAnswered();
    exchange_.reset();
    if (!read || !keep_alive_) break;
  }
  if (!closed_) co_await Linger();
  Close();
}

void HttpConnection::Close() {
  if (closed_) return;
  closed_ = true;
  error_code ignored;
  socket_.close(ignored);
  read_deadline_.Clear();
  write_deadline_.Clear();
  if (exchange_) exchange_->Cancel();
  exchange_.reset();
}

void HttpConnection::SetReadDeadline(std::chrono::milliseconds after) {
  timed_out_ = false;
  read_deadline_.Set(after, [self = shared_from_this()] {
    self->timed_out_ = true;
    error_code ignored;
    self->socket_.cancel(ignored);
  });
}

asio::awaitable<bool> HttpConnection::AwaitFirstByte() {
  if (input_.size() > 0) co_return true;
  error_code error;
  SetReadDeadline(thread_.options.idle_timeout);
  const size_t bytes = co_await socket_.async_read_some(input_.prepare(kReadBytes),
                                                        redirect_error(use_awaitable, error));
  input_.commit(bytes);
  co_return !error;
}

asio::awaitable<bool> HttpConnection::ReadRequest(Parser& parser) {
  const bool begun = co_await AwaitFirstByte();
  if (!begun) co_return false;

  parser.header_limit(static_cast<uint32_t>(thread_.options.max_header_bytes));
  parser.body_limit(thread_.options.max_body_bytes);
  error_code error;
  SetReadDeadline(thread_.options.header_timeout);
  co_await http::async_read_header(socket_, input_, parser, redirect_error(use_awaitable, error));
  if (!error) {
    SetReadDeadline(thread_.options.body_timeout);
    const auto expect = parser.get()[http::field::expect];
    if (boost::beast::iequals(expect, "100-continue") && !parser.is_done()) {
      static constexpr std::string_view kContinue = "HTTP/1.1 100 Continue\r\n\r\n";
      co_await asio::async_write(socket_, asio::buffer(kContinue),
                                 redirect_error(use_awaitable, error));
    }
  }
  if (!error && !parser.is_done()) {
    co_await http::async_read(socket_, input_, parser, redirect_error(use_awaitable, error));
  }
  read_deadline_.Clear();
  if (error) Refuse(error);
  co_return !error;
}

void HttpConnection::Refuse(error_code error) {
  if (closed_) return;
  const HttpServerOptions& options = thread_.options;
  std::optional<ApiError> refusal;
  if (timed_out_) {
    refusal.emplace(408, "the request did not arrive in time");
  } else if (error == http::error::header_limit) {
    refusal.emplace(431, "the request's head is larger than " +
                             std::to_string(options.max_header_bytes) + " bytes");
  } else if (error == http::error::body_limit) {
    refusal.emplace(413, "the request's body is larger than " +
                             std::to_string(options.max_body_bytes) + " bytes");
  } else if (error.category() == make_error_code(http::error::bad_method).category() &&
             error != http::error::end_of_stream && error != http::error::partial_message) {
    refusal.emplace(400, "malformed HTTP request: " + error.message());
  }
  if (!refusal) return;  // the client went away
  keep_alive_ = false;
  head_only_ = false;
  finished_ = answered_ = false;
  Send({.status = refusal->status(), .body = refusal->Body()});
}

asio::awaitable<void> HttpConnection::Answer(Parser& parser) {
  http::request<http::string_body>& message = parser.get();
  keep_alive_ = message.keep_alive();
  chunked_ = message.version() >= 11;
  head_only_ = message.method() == http::verb::head;
  finished_ = answered_ = false;

  HttpRequest request;
  request.method = std::string(message.method_string());
  request.authorization = std::string(message[http::field::authorization]);
  request.body = std::move(message.body());
  const auto target = message.target();
  std::optional<std::string> path = DecodePath({target.data(), target.size()});
  if (!path) {
    Send({.status = 400, .body = ApiError(400, "the request's target is not a URL").Body()});
    co_return;
  }
  request.path = std::move(*path);
  exchange_ = thread_.handler.Handle(std::move(request), *this);
}

asio::awaitable<void> HttpConnection::WatchUntilAnswered() {
  const size_t most = thread_.options.max_header_bytes + thread_.options.max_body_bytes;
  while (!answered_ && !closed_) {
    error_code error;
    const size_t bytes = co_await socket_.async_read_some(input_.prepare(kReadBytes),
                                                          redirect_error(use_awaitable, error));
    input_.commit(bytes);
    if (answered_) break;
    // A request that came early waits its turn; more than a whole one is not kept.
    if (error || input_.size() > most) Close();
  }
}

asio::awaitable<void> HttpConnection::Linger() {
  error_code error;
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, error);
  SetReadDeadline(kLinger);
  input_.clear();
  while (!error && !timed_out_) {
    co_await socket_.async_read_some(input_.prepare(kReadBytes),
                                     redirect_error(use_awaitable, error));
  }
}

void HttpConnection::Send(HttpResponse response) {
  if (closed_) return;
  SLUICE_CHECK(!finished_);
  std::string more;
  // RFC 9110, 8.6: no Content-Length where there can be no content.
  if (response.status != 204) {
    more = "Content-Length: " + std::to_string(response.body.size()) + "\r\n";
  }
  for (const auto& [name, value] : response.headers) more += name + ": " + value + "\r\n";
  const bool has_body = response.status != 204;
  queued_ +=
      ResponseHead(response.status, keep_alive_, has_body ? response.content_type : "", more);
  if (!head_only_ && has_body) queued_ += response.body;
  Finish();
}

void HttpConnection::StartStream(std::string_view content_type) {
  if (closed_) return;
  SLUICE_CHECK(!finished_);
  if (!chunked_) keep_alive_ = false;  // HTTP/1.0: the end of the connection ends the body
  std::string more = "Cache-Control: no-cache\r\nX-Accel-Buffering: no\r\n";
  if (chunked_) more += "Transfer-Encoding: chunked\r\n";
  queued_ += ResponseHead(200, keep_alive_, content_type, more);
  Pump();
}

void HttpConnection::Write(std::string_view data) {
  if (closed_ || dropped_ || data.empty()) return;
  SLUICE_CHECK(!finished_);
  // What already waits is the client's doing; how large the next piece is, is not.
  if (writing_ && queued_.size() > thread_.options.max_pending_bytes) {
    spdlog::warn("a client reads its stream too slowly ({} bytes wait): cut off", queued_.size());
    dropped_ = true;
    // Posted, since the Exchange that is writing must not be cancelled under its own feet.
    asio::post(thread_.context, [self = shared_from_this()] { self->Close(); });
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
  if (closed_ || dropped_) return;
  SLUICE_CHECK(!finished_);
  if (chunked_) queued_ += "0\r\n\r\n";
  Finish();
}

void HttpConnection::Finish() {
  finished_ = true;
  Pump();
}

void HttpConnection::Pump() {
  if (writing_ || closed_) return;
  if (sent_ == sending_.size()) {
    sending_.clear();
    sent_ = 0;
    sending_.swap(queued_);
  }
  if (sending_.empty()) {
    if (finished_ && !answered_) {
      answered_ = true;
      error_code ignored;
      socket_.cancel(ignored);  // ends the watch; nothing is being written
    }
    return;
  }
  writing_ = true;
  write_deadline_.Set(thread_.options.write_timeout,
                      [self = shared_from_this()] { self->Close(); });
  socket_.async_write_some(asio::buffer(sending_.data() + sent_, sending_.size() - sent_),
                           [self = shared_from_this()](error_code error, size_t bytes) {
                             self->OnWritten(error, bytes);
                           });
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

void CloseConnection(HttpConnection& connection) {
  connection.Close();
}

}  // namespace sluice
