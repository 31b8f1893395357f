#include "server/client_stream.h"

#include <array>
#include <boost/asio/redirect_error.hpp>
#include <boost/asio/use_awaitable.hpp>
#include <utility>

namespace sluice {

namespace asio = boost::asio;
using asio::redirect_error;
using asio::use_awaitable;

ClientStream::ClientStream(asio::ip::tcp::socket socket, asio::ssl::context* tls)
    : socket_(std::move(socket)) {
  if (tls != nullptr) tls_.emplace(socket_, *tls);
  ErrorCode ignored;
  socket_.non_blocking(true, ignored);  // for WriteNow
}

asio::awaitable<void> ClientStream::Handshake(ErrorCode& error) {
  error = {};
  if (!tls_) co_return;
  co_await tls_->async_handshake(asio::ssl::stream_base::server,
                                 redirect_error(use_awaitable, error));
}

asio::awaitable<size_t> ClientStream::Read(asio::mutable_buffer into, ErrorCode& error) {
  error = {};
  if (tls_) co_return co_await tls_->async_read_some(into, redirect_error(use_awaitable, error));
  co_return co_await socket_.async_read_some(into, redirect_error(use_awaitable, error));
}

size_t ClientStream::WriteNow(asio::const_buffer from, ErrorCode& error) {
  if (!tls_) return socket_.write_some(from, error);
  error = asio::error::would_block;
  return 0;
}

void ClientStream::Write(asio::const_buffer from, std::function<void(ErrorCode, size_t)> done) {
  if (tls_) {
    tls_->async_write_some(from, std::move(done));
  } else {
    socket_.async_write_some(from, std::move(done));
  }
}

asio::awaitable<void> ClientStream::EndWriting(ErrorCode& error) {
  error = {};
  // Also waits for the client's own end, and fails where other bytes come first: Discard takes
  // those.
  if (tls_) co_await tls_->async_shutdown(redirect_error(use_awaitable, error));
  socket_.shutdown(asio::ip::tcp::socket::shutdown_send, error);
}

asio::awaitable<void> ClientStream::Discard(ErrorCode& error) {
  std::array<char, 4096> dropped;
  error = {};
  co_await socket_.async_read_some(asio::buffer(dropped), redirect_error(use_awaitable, error));
}

void ClientStream::Cancel() {
  ErrorCode ignored;
  socket_.cancel(ignored);
}

void ClientStream::Close() {
  ErrorCode ignored;
  socket_.close(ignored);
}

}  // namespace sluice
