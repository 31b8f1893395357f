#include "hub/http_client.h"

#include <openssl/err.h>

#include <algorithm>
#include <array>
#include <boost/asio.hpp>
#include <boost/asio/ssl.hpp>
#include <boost/beast/core.hpp>
#include <boost/beast/http.hpp>
#include <cctype>
#include <exception>

#include "hub/http_target.h"
#include "hub/retry.h"

namespace sluice {

namespace asio = boost::asio;
namespace beast = boost::beast;
namespace http = boost::beast::http;
namespace ssl = boost::asio::ssl;
using asio::redirect_error;
using asio::use_awaitable;
using boost::system::error_code;

namespace {

constexpr size_t kChunkBytes = 256 << 10;
constexpr uint32_t kHeadLimit = 64 << 10;  // signed redirects carry addresses of several KB

// What a failed exchange means to the caller.
[[noreturn]] void Fail(const HttpTarget& target, const error_code& error) {
  const std::string where = target.authority + ": ";
  if (error == beast::error::timeout) {
    throw TransientError(where + "no answer in time");
  }
  if (error.category() == asio::error::get_ssl_category() &&
      ERR_GET_REASON(static_cast<unsigned long>(error.value())) ==
          SSL_R_CERTIFICATE_VERIFY_FAILED) {
    throw Error(ErrorCode::kUnsupported,
                where + "its certificate cannot be trusted (" + error.message() +
                    "); install ca-certificates, or name your own with SSL_CERT_FILE");
  }
  if (error == http::error::partial_message || error == http::error::end_of_stream ||
      error == ssl::error::stream_truncated) {
    throw TransientError(where + "the connection ended early");
  }
  throw TransientError(where + error.message());
}

// One request and its answer on a stream that is connected.
class Exchange {
 public:
  Exchange(const HttpTarget& target, std::chrono::milliseconds timeout)
      : target_(target), timeout_(timeout) {}

  template <class Stream>
  asio::awaitable<HttpHead> Run(Stream& stream, const http::request<http::empty_body>& request,
                                const HttpClient::OnHead& on_head,
                                const HttpClient::OnBody& on_body) const {
    error_code error;
    beast::get_lowest_layer(stream).expires_after(timeout_);
    co_await http::async_write(stream, request, redirect_error(use_awaitable, error));
    if (error) Fail(target_, error);
    beast::flat_buffer buffer;
    http::response_parser<http::buffer_body> parser;
    parser.header_limit(kHeadLimit);
    parser.body_limit(boost::none);
    parser.skip(request.method() == http::verb::head);
    beast::get_lowest_layer(stream).expires_after(timeout_);
    co_await http::async_read_header(stream, buffer, parser, redirect_error(use_awaitable, error));
    if (error) Fail(target_, error);
    const HttpHead head = HeadOf(parser.get());
    if (!on_head(head)) co_return head;
    std::vector<char> chunk(kChunkBytes);
    while (!parser.is_done()) {
      parser.get().body().data = chunk.data();
      parser.get().body().size = chunk.size();
      beast::get_lowest_layer(stream).expires_after(timeout_);
      co_await http::async_read_some(stream, buffer, parser, redirect_error(use_awaitable, error));
      if (error == http::error::need_buffer) error = {};
      const size_t count = chunk.size() - parser.get().body().size;
      if (count > 0) on_body({chunk.data(), count});
      if (error) Fail(target_, error);
    }
    co_return head;
  }

 private:
  static HttpHead HeadOf(const http::response<http::buffer_body>& response) {
    HttpHead head{.status = static_cast<int>(response.result_int())};
    for (const auto& field : response) {
      std::string name(field.name_string());
      std::transform(name.begin(), name.end(), name.begin(),
                     [](unsigned char c) { return static_cast<char>(std::tolower(c)); });
      head.fields.insert_or_assign(std::move(name), std::string(field.value()));
    }
    return head;
  }

  const HttpTarget& target_;
  std::chrono::milliseconds timeout_;
};

asio::awaitable<void> Connect(beast::tcp_stream& stream, const HttpTarget& target,
                              std::chrono::milliseconds timeout) {
  error_code error;
  asio::ip::tcp::resolver resolver(co_await asio::this_coro::executor);
  const auto addresses = co_await resolver.async_resolve(target.host, target.port,
                                                         redirect_error(use_awaitable, error));
  if (error) Fail(target, error);
  stream.expires_after(timeout);
  co_await stream.async_connect(addresses, redirect_error(use_awaitable, error));
  if (error) Fail(target, error);
}

}  // namespace

struct HttpClient::Tls {
  Tls() : context(ssl::context::tls_client) {
    context.set_default_verify_paths();
    context.set_verify_mode(ssl::verify_peer);
  }
  ssl::context context;
};

std::optional<std::string> HttpHead::Find(const std::string& lower_case_name) const {
  const auto found = fields.find(lower_case_name);
  if (found == fields.end()) return std::nullopt;
  return found->second;
}

HttpClient::HttpClient(std::string user_agent, std::chrono::milliseconds timeout)
    : user_agent_(std::move(user_agent)), timeout_(timeout), tls_(std::make_unique<Tls>()) {}
HttpClient::~HttpClient() = default;

HttpHead HttpClient::Send(const FetchRequest& request, const OnHead& on_head,
                          const OnBody& on_body) const {
  const HttpTarget target = ParseHttpTarget(request.url);
  http::request<http::empty_body> message(http::string_to_verb(request.method), target.path, 11);
  message.set(http::field::host, target.authority);
  message.set(http::field::user_agent, user_agent_);
  message.set(http::field::accept_encoding, "identity");
  message.set(http::field::connection, "close");
  for (const auto& [name, value] : request.headers) message.set(name, value);

  asio::io_context context(1);
  HttpHead head;
  std::exception_ptr failure;
  const auto run = [&]() -> asio::awaitable<HttpHead> {
    const Exchange exchange(target, timeout_);
    if (!target.tls) {
      beast::tcp_stream stream(context);
      co_await Connect(stream, target, timeout_);
      co_return co_await exchange.Run(stream, message, on_head, on_body);
    }
    ssl::stream<beast::tcp_stream> stream(context, tls_->context);
    SSL_set_tlsext_host_name(stream.native_handle(), target.host.c_str());
    stream.set_verify_callback(ssl::host_name_verification(target.host));
    co_await Connect(stream.next_layer(), target, timeout_);
    error_code error;
    co_await stream.async_handshake(ssl::stream_base::client, redirect_error(use_awaitable, error));
    if (error) Fail(target, error);
    co_return co_await exchange.Run(stream, message, on_head, on_body);
  };
  asio::co_spawn(context, run, [&](std::exception_ptr error, HttpHead answer) {
    failure = std::move(error);
    head = std::move(answer);
  });
  context.run();
  if (failure) std::rethrow_exception(failure);
  return head;
}

}  // namespace sluice
