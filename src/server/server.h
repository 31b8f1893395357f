#pragma once

#include <chrono>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "base/metrics.h"
#include "chat/chat_template.h"
#include "device/timeline.h"
#include "sampling/sampling_params.h"
#include "sched/generator.h"
#include "server/http_server.h"
#include "server/request_log.h"
#include "tokenizer/tokenizer.h"

namespace sluice {

struct ServerOptions {
  HttpServerOptions http;
  std::vector<std::string> api_keys;  // not empty: /v1/ needs "Authorization: Bearer KEY"
  std::string version = "unknown";    // for GET /version
  bool log_prompts = false;           // in the line that is logged for each request
};

// The one model behind the door. What it refers to must outlive the server.
struct ServedModel {
  std::vector<std::string> names;  // at least one; answers carry the name the request used
  const Tokenizer& tokenizer;
  const ChatTemplate* chat_template = nullptr;  // null: chat is refused
  Generator& generator;
  Metrics& metrics;
  int max_model_len = 0;  // prompt and output together, in tokens
  // From the checkpoint's generation_config: temperature, top_p, top_k, min_p and
  // repetition_penalty for requests that leave them out. Its other fields are not used.
  SamplingParams default_sampling;
  std::function<uint64_t()> resident_bytes;  // for /v1/generate; called from any thread
  Timeline* timeline = nullptr;              // that streaming is recorded on; may be null
};

class Routes;

// The OpenAI-compatible HTTP door. See HttpServer for threads and connections. Calls are to come in
// the order in which they stand here.
class Server {
 public:
  explicit Server(ServerOptions options);
  ~Server();  // stops and waits
  Server(const Server&) = delete;
  Server& operator=(const Server&) = delete;

  // From here on every request is answered 503, with the reason that the model is loading. Throws
  // Error when the address cannot be had: "address 127.0.0.1:8000 is in use: ...".
  void Start();
  int port() const;  // valid after Start

  // From here on requests are served.
  void Open(ServedModel model);

  // From here on /health is 503, and so is every request for text; what was taken goes on.
  void Drain();
  // Requests that were read and whose answers have not been written yet.
  int answering() const;

  // Accepts no more, cancels what runs and closes every connection. Thread-safe.
  void Stop();
  // Returns when stopped.
  void Wait();

 private:
  class Door;

  ServerOptions options_;
  const RequestLog log_;
  std::unique_ptr<Routes> routes_;  // null until opened
  std::unique_ptr<Door> door_;
  std::unique_ptr<HttpServer> http_;
};

}  // namespace sluice
