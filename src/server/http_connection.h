#pragma once

#include <atomic>
#include <boost/asio/awaitable.hpp>
#include <boost/asio/io_context.hpp>
#include <boost/asio/ip/tcp.hpp>
#include <memory>
#include <mutex>
#include <unordered_set>

#include "server/http_server.h"
#include "server/http_types.h"

namespace sluice {

// The door through which other threads reach an I/O thread. Closed before its io_context dies, so
// that holders may outlive it.
class IoGate : public Executor {
 public:
  explicit IoGate(boost::asio::io_context& context) : context_(&context) {}
  void Post(std::function<void()> function) override;
  void Close();

 private:
  std::mutex mutex_;
  boost::asio::io_context* context_;  // null once closed
};

class HttpConnection;

// What the connections of one I/O thread share; touched by that thread only.
struct IoThreadState {
  boost::asio::io_context& context;
  std::shared_ptr<IoGate> gate;
  const HttpServerOptions& options;
  HttpHandler& handler;
  std::atomic<int>& answering;  // requests of all threads whose answers are not written yet
  std::unordered_set<HttpConnection*> connections;
  bool stopping = false;
};

// Serves one connection until it ends.
boost::asio::awaitable<void> ServeConnection(boost::asio::ip::tcp::socket socket,
                                             IoThreadState& thread);

// Tells a client that it is one too many, where that needs no TLS, and ends its connection.
boost::asio::awaitable<void> TurnAway(boost::asio::ip::tcp::socket socket, IoThreadState& thread);

// Closes a connection at once; its coroutine then ends by itself.
void CloseConnection(HttpConnection& connection);

}  // namespace sluice
