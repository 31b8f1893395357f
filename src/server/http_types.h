#pragma once

#include <chrono>
#include <memory>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/executor.h"

namespace sluice {

using HttpFields = std::vector<std::pair<std::string, std::string>>;  // name and value

struct HttpRequest {
  std::string method;  // "GET"
  std::string path;    // percent-decoded, without the query
  std::string authorization;
  std::string request_id;   // X-Request-Id
  std::string traceparent;  // W3C Trace Context
  std::string body;
  std::chrono::steady_clock::time_point arrival;  // when it was whole
};

struct HttpResponse {
  int status = 200;
  std::string content_type = "application/json";
  std::string body;
  HttpFields headers;  // beyond content type and length
  bool close = false;  // the connection, after it
};

// Where the answer to one request goes: either one Send, or StartStream, Writes and EndStream. Used
// on the connection's thread only. After the client has gone, calls do nothing.
class ResponseWriter {
 public:
  virtual ~ResponseWriter() = default;

  // A field that the head of the answer is to have, whichever it will be.
  virtual void AddField(std::string name, std::string value) = 0;
  virtual void Send(HttpResponse response) = 0;
  virtual void StartStream(std::string_view content_type) = 0;
  virtual void Write(std::string_view data) = 0;
  virtual void EndStream() = 0;
  // That of the connection's thread, shared with the thread's other connections. May outlive the
  // connection and the server.
  virtual std::shared_ptr<Executor> executor() = 0;
};

// A request whose answer is still being made after its handler returned. Owned by the connection,
// which drops it when the answer has been written or the client is gone.
class Exchange {
 public:
  virtual ~Exchange() = default;

  // The client is gone: gives up the work, and uses the writer no more.
  virtual void Cancel() = 0;
};

class HttpHandler {
 public:
  virtual ~HttpHandler() = default;

  // Answers through `writer`, at once (then returns null) or later through the Exchange. `writer`
  // lives as long as the Exchange. Called from several threads. Does not throw.
  virtual std::shared_ptr<Exchange> Handle(HttpRequest request, ResponseWriter& writer) = 0;
};

}  // namespace sluice
