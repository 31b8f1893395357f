#pragma once

#include <atomic>
#include <map>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/error.h"
#include "server/api_keys.h"
#include "server/generation.h"
#include "server/http_types.h"
#include "server/openai_schema.h"
#include "server/request_log.h"
#include "server/server.h"

namespace sluice {

// The endpoints: finds the one a request means, checks the request, answers it. Knows nothing of
// sockets. Thread-safe.
class Routes : public HttpHandler {
 public:
  Routes(ServedModel model, const std::vector<std::string>& api_keys, std::string version,
         const RequestLog& log);

  std::shared_ptr<Exchange> Handle(HttpRequest request, ResponseWriter& writer) override;

  // From here on no request for text is taken, and /health says so; what runs goes on.
  void Drain() { draining_ = true; }

 private:
  using Endpoint = std::shared_ptr<Exchange> (Routes::*)(const HttpRequest&, ResponseWriter&);
  struct Route {
    std::string_view method;
    std::string_view path;  // ends in '/' for every path below it
    Endpoint endpoint;
    bool generates = false;  // text, so that it needs a place in the engine
  };
  static std::span<const Route> Table();

  static const Route* Find(std::string_view path);
  std::shared_ptr<Exchange> Dispatch(const HttpRequest& request, ResponseWriter& writer);
  std::optional<Error> Draining() const;
  void Refuse(const ApiError& error, HttpFields headers, const HttpRequest& request,
              ResponseWriter& writer) const;
  RequestRecord RecordOf(const HttpRequest& request) const;
  HttpFields RetryHeaders(const Error& error) const;

  std::shared_ptr<Exchange> Completions(const HttpRequest& request, ResponseWriter& writer);
  std::shared_ptr<Exchange> Chat(const HttpRequest& request, ResponseWriter& writer);
  std::shared_ptr<Exchange> Generate(const HttpRequest& request, ResponseWriter& writer);
  std::shared_ptr<Exchange> GenerateStream(const HttpRequest& request, ResponseWriter& writer);
  std::shared_ptr<Exchange> Tokenize(const HttpRequest& request, ResponseWriter& writer);
  std::shared_ptr<Exchange> Detokenize(const HttpRequest& request, ResponseWriter& writer);
  std::shared_ptr<Exchange> Models(const HttpRequest& request, ResponseWriter& writer);
  std::shared_ptr<Exchange> Model(const HttpRequest& request, ResponseWriter& writer);
  std::shared_ptr<Exchange> Health(const HttpRequest& request, ResponseWriter& writer);
  std::shared_ptr<Exchange> MetricsPage(const HttpRequest& request, ResponseWriter& writer);
  std::shared_ptr<Exchange> Steps(const HttpRequest& request, ResponseWriter& writer);
  std::shared_ptr<Exchange> Version(const HttpRequest& request, ResponseWriter& writer);

  std::shared_ptr<Exchange> GenerateAs(const HttpRequest& request, bool stream,
                                       ResponseWriter& writer);
  // All that an endpoint's own fields do not say.
  GenerationJob JobFor(const HttpRequest& request, const GenerationFields& fields) const;
  std::string ClientOf(const HttpRequest& request, const GenerationFields& fields) const;
  std::shared_ptr<Exchange> Run(const HttpRequest& request, GenerationJob job,
                                std::unique_ptr<AnswerFormat> format, ResponseWriter& writer);

  // The name to answer with. Throws ApiError(404) for a model that is not served.
  std::string ModelName(const std::string& asked) const;
  std::vector<TokenId> Tokens(const PromptInput& prompt, bool add_special) const;
  std::vector<TokenId> Encode(std::string_view text, bool add_special) const;
  std::string RenderChat(const std::vector<ChatMessage>& messages,
                         const RenderOptions& options) const;
  GenerationJob::Prompt FitPrompt(std::vector<TokenId> tokens, const GenerationFields& fields,
                                  std::optional<int> default_max_tokens,
                                  std::string_view what) const;
  SchemaContext schema() const;
  AnswerHead Head(std::string_view kind, const GenerationFields& fields);
  MemoryFigures Memory() const;

  const ServedModel model_;
  const ApiKeys keys_;
  const std::string version_;
  const int64_t started_;        // Unix time
  const std::string id_prefix_;  // random, so that ids of two runs differ
  const RequestLog& log_;
  std::atomic<uint64_t> next_id_{1};
  std::atomic<bool> draining_{false};
  std::map<std::string_view, prometheus::Counter*> requests_;  // by the route's path
  prometheus::Counter& refused_as_full_;
  prometheus::Counter& refused_as_unavailable_;
};

}  // namespace sluice
