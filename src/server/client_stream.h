#pragma once

#include <boost/asio/awaitable.hpp>
#include <boost/asio/buffer.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <boost/asio/ssl/context.hpp>
#include <boost/asio/ssl/stream.hpp>
#include <functional>
#include <optional>

namespace sluice {

// The bytes between a client and us, plain or inside TLS: the one place that knows which. One read
// and one write may be under way at a time. For one thread.
class ClientStream {
 public:
  using ErrorCode = boost::system::error_code;

  // `tls` must outlive the stream; null = plain.
  ClientStream(boost::asio::ip::tcp::socket socket, boost::asio::ssl::context* tls);

  // TLS's own opening; nothing where there is none. To be awaited before anything is read.
  boost::asio::awaitable<void> Handshake(ErrorCode& error);
  // Some bytes, at least one; none at the client's end of the stream, which is an error.
  boost::asio::awaitable<size_t> Read(boost::asio::mutable_buffer into, ErrorCode& error);
  // Those of the bytes that the kernel takes at once: none where it has no room (would_block), or
  // where they go through TLS.
  size_t WriteNow(boost::asio::const_buffer from, ErrorCode& error);
  // Some of the bytes, which must stay where they are until `done` is called, with their number.
  void Write(boost::asio::const_buffer from, std::function<void(ErrorCode, size_t)> done);
  // Ends our side, as TLS and TCP each want it.
  boost::asio::awaitable<void> EndWriting(ErrorCode& error);
  // Takes and drops what the client still sends; to be used after EndWriting.
  boost::asio::awaitable<void> Discard(ErrorCode& error);

  // What is under way ends with an error; the stream stays usable once it has.
  void Cancel();
  void Close();
  bool encrypted() const { return tls_.has_value(); }

 private:
  boost::asio::ip::tcp::socket socket_;
  std::optional<boost::asio::ssl::stream<boost::asio::ip::tcp::socket&>> tls_;
};

}  // namespace sluice
