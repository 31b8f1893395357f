#pragma once

#include <chrono>
#include <cstddef>
#include <cstdint>
#include <memory>
#include <string>

#include "server/cors.h"
#include "server/http_types.h"

namespace boost::asio::ssl {
class context;
}

namespace sluice {

struct HttpServerOptions {
  std::string host = "127.0.0.1";  // a name or an address of this machine
  int port = 8000;                 // 0 = any free one
  int io_threads = 2;
  // Connections wait for the next tick where they would interrupt a thread that computes, and with
  // it all of the step's. For a server that has no cores to itself; elsewhere clients would wait
  // those milliseconds for nothing.
  bool takes_turns = false;
  std::shared_ptr<boost::asio::ssl::context> tls;  // from LoadTls; null = plain HTTP
  std::shared_ptr<const Cors> cors;                // null = no page of another origin is let in
  int max_connections = 16384;                     // past it, 503 and the end
  size_t max_header_bytes = 32 << 10;
  size_t max_body_bytes = 8 << 20;
  // Bytes that may wait for one slow reader of a stream before it is cut off.
  size_t max_pending_bytes = 1 << 20;
  std::chrono::milliseconds idle_timeout{75'000};  // kept-alive, between requests
  // From a request's first byte to its body, and from a connection's start through TLS's opening.
  std::chrono::milliseconds header_timeout{10'000};
  std::chrono::milliseconds body_timeout{60'000};
  std::chrono::milliseconds write_timeout{30'000};  // without any byte taken by the client
};

// HTTP/1.1 over TCP, or over TLS on it: keep-alive, pipelining, Content-Length and chunked bodies
// both ways, 100 (Continue). Each connection lives on one of a few threads; a handler runs on its
// connection's thread. While an answer is being made the socket is watched, so that a client that
// hangs up cancels its Exchange.
class HttpServer {
 public:
  // `handler` must outlive the server.
  HttpServer(HttpServerOptions options, HttpHandler& handler);
  ~HttpServer();  // stops and waits
  HttpServer(const HttpServer&) = delete;
  HttpServer& operator=(const HttpServer&) = delete;

  // Binds, listens and starts the threads. Throws Error when the address cannot be had.
  void Start();

  int port() const;         // the one bound; valid after Start
  int connections() const;  // open
  int answering() const;    // requests that were read and whose answers are not written yet

  // Accepts no more and closes every connection. Thread-safe; may be called more than once.
  void Stop();

  // Returns when the server has been stopped and its threads have ended.
  void Wait();

 private:
  class Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace sluice
