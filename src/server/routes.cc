#include "server/routes.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/json.hpp>
#include <chrono>
#include <functional>
#include <random>
#include <utility>

#include "base/check.h"
#include "server/api_error.h"
#include "server/metrics_text.h"
#include "server/trace_context.h"
#include "tokenizer/utf8.h"

namespace sluice {

namespace json = boost::json;

namespace {

// OpenAI's default for /v1/completions.
constexpr int kDefaultCompletionTokens = 16;
// For requests that come while the engine's worker is started again: about what loading takes.
constexpr std::string_view kRetryAfterSeconds = "5";
// For those that find the queue full: it moves with every step.
constexpr std::string_view kRetryFullAfterSeconds = "1";

int64_t UnixTime() {
  return std::chrono::duration_cast<std::chrono::seconds>(
             std::chrono::system_clock::now().time_since_epoch())
      .count();
}

std::string RandomPrefix() {
  std::random_device device;
  return fmt::format("{:08x}{:08x}", device(), device());
}

bool PathMatches(std::string_view pattern, std::string_view path) {
  if (!pattern.ends_with('/')) return pattern == path;
  return path.size() > pattern.size() && path.starts_with(pattern);
}

json::object ModelObject(const std::string& name, int64_t created, int max_model_len) {
  return {{"id", name},
          {"object", "model"},
          {"created", created},
          {"owned_by", "sluice"},
          {"max_model_len", max_model_len}};
}

json::object StepObject(const StepTiming& step) {
  const auto us = [&](StepPhase phase) {
    return static_cast<double>(step.phase(phase).count()) / 1e3;
  };
  const auto planned = step.planned.time_since_epoch();
  return {{"step", step.step},
          {"planned_unix_s", std::chrono::duration<double>(planned).count()},
          {"sequences", step.sequences},
          {"rows", step.prefill_rows + step.decode_rows},
          {"prefill_rows", step.prefill_rows},
          {"decode_rows", step.decode_rows},
          {"failed", step.failed},
          {"plan_us", us(StepPhase::kPlan)},
          {"submit_us", us(StepPhase::kSubmit)},
          {"collect_us", us(StepPhase::kCollect)},
          {"commit_us", us(StepPhase::kCommit)},
          {"report_us", us(StepPhase::kReport)}};
}

prometheus::Counter& RefusalCounter(Metrics& metrics, const std::string& reason) {
  return metrics.Counter("sluice:requests_refused_total",
                         "Requests for text that were refused because as many wait as may (full), "
                         "or because the server cannot run any now (unavailable).",
                         {{"reason", reason}});
}

void SendJson(const json::value& value, ResponseWriter& writer) {
  writer.Send({.body = json::serialize(value)});
}

}  // namespace

Routes::Routes(ServedModel model, const std::vector<std::string>& api_keys, std::string version,
               const RequestLog& log)
    : model_(std::move(model)),
      keys_(api_keys),
      version_(std::move(version)),
      started_(UnixTime()),
      id_prefix_(RandomPrefix()),
      log_(log),
      refused_as_full_(RefusalCounter(model_.metrics, "full")),
      refused_as_unavailable_(RefusalCounter(model_.metrics, "unavailable")) {
  SLUICE_CHECK(!model_.names.empty());
  for (const Route& route : Table()) {
    requests_[route.path] =
        &model_.metrics.Counter("sluice:http_requests_total", "HTTP requests, by endpoint",
                                {{"handler", std::string(route.path)}});
  }
}

std::span<const Routes::Route> Routes::Table() {
  static constexpr Route kRoutes[] = {
      {"POST", "/v1/completions", &Routes::Completions, /*generates=*/true},
      {"POST", "/v1/chat/completions", &Routes::Chat, /*generates=*/true},
      {"POST", "/v1/generate", &Routes::Generate, /*generates=*/true},
      {"POST", "/v1/generate_stream", &Routes::GenerateStream, /*generates=*/true},
      {"POST", "/tokenize", &Routes::Tokenize},
      {"POST", "/detokenize", &Routes::Detokenize},
      {"GET", "/v1/models", &Routes::Models},
      {"GET", "/v1/models/", &Routes::Model},
      {"GET", "/health", &Routes::Health},
      {"GET", "/metrics", &Routes::MetricsPage},
      {"GET", "/debug/steps", &Routes::Steps},
      {"GET", "/version", &Routes::Version},
  };
  return kRoutes;
}

std::shared_ptr<Exchange> Routes::Handle(HttpRequest request, ResponseWriter& writer) {
  if (!IsRequestId(request.request_id)) {
    request.request_id = fmt::format("{}{:08x}", id_prefix_, next_id_++);
  }
  writer.AddField("X-Request-Id", request.request_id);
  try {
    return Dispatch(request, writer);
  } catch (const ApiError& error) {
    Refuse(error, {}, request, writer);
  } catch (const Error& error) {
    Refuse(ApiError::From(error), RetryHeaders(error), request, writer);
  } catch (const std::exception& error) {
    spdlog::error("{} {} failed: {}", request.method, request.path, error.what());
    Refuse(ApiError(500, "internal error", std::nullopt, "internal"), {}, request, writer);
  }
  return nullptr;
}

void Routes::Refuse(const ApiError& error, HttpFields headers, const HttpRequest& request,
                    ResponseWriter& writer) const {
  writer.Send({.status = error.status(),
               .body = error.Body(),
               .headers = std::move(headers),
               .close = draining_});
  const Route* route = Find(request.path);
  if (route == nullptr || !route->generates) return;
  if (error.status() == 429) refused_as_full_.Increment();
  if (error.status() == 503) refused_as_unavailable_.Increment();
  RequestRecord record = RecordOf(request);
  record.status = error.status();
  record.error = error.what();
  record.latency_ms =
      std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - record.arrival)
          .count();
  log_.Write(record);
}

RequestRecord Routes::RecordOf(const HttpRequest& request) const {
  return {.request_id = request.request_id,
          .trace_id = TraceIdOf(request.traceparent),
          .path = request.path,
          .arrival = request.arrival};
}

std::optional<Error> Routes::Draining() const {
  if (!draining_) return std::nullopt;
  return Error(ErrorCode::kUnavailable, "the server is draining: it is to stop");
}

// What tells clients, which wait and try again by themselves, that a refusal will pass.
HttpFields Routes::RetryHeaders(const Error& error) const {
  if (error.code() == ErrorCode::kResourceExhausted) {
    return {{"Retry-After", std::string(kRetryFullAfterSeconds)}};
  }
  if (error.code() != ErrorCode::kUnavailable || !model_.generator.Stats().restarting) return {};
  return {{"Retry-After", std::string(kRetryAfterSeconds)}};
}

const Routes::Route* Routes::Find(std::string_view path) {
  const Route* found = nullptr;
  for (const Route& route : Table()) {
    if (PathMatches(route.path, path)) found = &route;
  }
  return found;
}

std::shared_ptr<Exchange> Routes::Dispatch(const HttpRequest& request, ResponseWriter& writer) {
  if (request.path == "*" && request.method == "OPTIONS") {  // of the server as a whole
    writer.Send({.status = 204, .headers = {{"Allow", "GET, HEAD, POST, OPTIONS"}}});
    return nullptr;
  }
  const Route* found = Find(request.path);
  if (found == nullptr) {
    throw ApiError(404,
                   fmt::format("there is no {} here: see /v1/models, /v1/completions and "
                               "/v1/chat/completions",
                               RepairUtf8(request.path)),
                   std::nullopt, "not_found");
  }
  requests_.at(found->path)->Increment();
  const bool gets = found->method == "GET";
  const std::string allowed = gets ? "GET, HEAD, OPTIONS" : "POST, OPTIONS";
  if (request.method == "OPTIONS") {
    writer.Send({.status = 204, .headers = {{"Allow", allowed}}});
    return nullptr;
  }
  if (request.method != found->method && !(gets && request.method == "HEAD")) {
    const ApiError error(405,
                         fmt::format("{} takes {}, got {}", RepairUtf8(request.path), allowed,
                                     RepairUtf8(request.method)),
                         std::nullopt, "method_not_allowed");
    Refuse(error, {{"Allow", allowed}}, request, writer);
    return nullptr;
  }
  if (request.path.starts_with("/v1/") && !keys_.Allow(request.authorization)) {
    const ApiError error(401, "this server needs its API key as 'Authorization: Bearer KEY'",
                         std::nullopt, "invalid_api_key");
    Refuse(error, {{"WWW-Authenticate", "Bearer"}}, request, writer);
    return nullptr;
  }
  if (found->generates) {
    // Before the body is parsed, and nothing is thrown: under overload a refusal must cost next to
    // nothing.
    std::optional<Error> refusal = Draining();
    if (!refusal) refusal = model_.generator.Refusal();
    if (refusal) {
      Refuse(ApiError::From(*refusal), RetryHeaders(*refusal), request, writer);
      return nullptr;
    }
  }
  return (this->*found->endpoint)(request, writer);
}

std::string Routes::ModelName(const std::string& asked) const {
  if (asked.empty()) return model_.names[0];
  if (std::find(model_.names.begin(), model_.names.end(), asked) == model_.names.end()) {
    throw ApiError(
        404,
        fmt::format("the model '{}' does not exist: this server has '{}'", asked, model_.names[0]),
        "model", "model_not_found");
  }
  return asked;
}

SchemaContext Routes::schema() const {
  return {.vocab_size = model_.tokenizer.vocab_size(), .defaults = model_.default_sampling};
}

AnswerHead Routes::Head(std::string_view kind, const GenerationFields& fields) {
  return {.id = fmt::format("{}-{}{:08x}", kind, id_prefix_, next_id_++),
          .model = ModelName(fields.model),
          .created = UnixTime(),
          .include_usage = fields.include_usage,
          .wants_logprobs = fields.sampling.logprobs.has_value()};
}

MemoryFigures Routes::Memory() const {
  const EngineStats stats = model_.generator.Stats();
  return {.resident_bytes = model_.resident_bytes ? model_.resident_bytes() : 0,
          .kv_pages_used = stats.pages_used,
          .kv_pages_total = stats.pages_total};
}

std::vector<TokenId> Routes::Tokens(const PromptInput& prompt, bool add_special) const {
  if (const auto* ids = std::get_if<std::vector<TokenId>>(&prompt)) return *ids;
  return Encode(std::get<std::string>(prompt), add_special);
}

std::vector<TokenId> Routes::Encode(std::string_view text, bool add_special) const {
  std::vector<TokenId> ids = model_.tokenizer.Encode(text);
  return add_special ? model_.tokenizer.WrapInSpecial(std::move(ids)) : ids;
}

std::string Routes::RenderChat(const std::vector<ChatMessage>& messages,
                               const RenderOptions& options) const {
  if (model_.chat_template == nullptr) {
    throw ApiError(400, "this model has no chat template: use /v1/completions", std::nullopt,
                   "no_chat_template");
  }
  return model_.chat_template->Render(messages, options);
}

GenerationJob::Prompt Routes::FitPrompt(std::vector<TokenId> tokens, const GenerationFields& fields,
                                        std::optional<int> default_max_tokens,
                                        std::string_view what) const {
  const int64_t limit = model_.max_model_len;
  const auto length = static_cast<int64_t>(tokens.size());
  if (length == 0) {
    throw ApiError(400, fmt::format("the {} must hold at least one token", what), std::string(what),
                   "invalid_value");
  }
  if (length >= limit || length + fields.max_tokens.value_or(0) > limit) {
    const int64_t asked = fields.max_tokens.value_or(1);
    throw ApiError(400,
                   fmt::format("This model's maximum context length is {} tokens. However, you "
                               "requested {} tokens ({} in the {}, {} in the completion). Please "
                               "reduce the length of the {} or completion.",
                               limit, length + asked, length, what, asked, what),
                   std::string(what), "context_length_exceeded");
  }
  const auto room = static_cast<int>(limit - length);
  const int most = fields.max_tokens.value_or(std::min(default_max_tokens.value_or(room), room));
  return {.tokens = std::move(tokens), .max_tokens = most};
}

// Whom the engine is shared among: the holders of keys; where there are none, those that requests
// say they are from.
std::string Routes::ClientOf(const HttpRequest& request, const GenerationFields& fields) const {
  if (keys_.empty()) return fields.user;
  const size_t scheme = request.authorization.find(' ') + 1;
  const size_t hash = std::hash<std::string>()(request.authorization.substr(scheme));
  return fmt::format("{:016x}", hash);  // the key goes no further
}

GenerationJob Routes::JobFor(const HttpRequest& request, const GenerationFields& fields) const {
  return {.sampling = fields.sampling,
          .stream = fields.stream,
          .skip_special = fields.skip_special_tokens,
          .client = ClientOf(request, fields),
          .priority = fields.priority,
          .timeout = fields.timeout,
          .cache_salt = fields.cache_salt};
}

std::shared_ptr<Exchange> Routes::Run(const HttpRequest& request, GenerationJob job,
                                      std::unique_ptr<AnswerFormat> format,
                                      ResponseWriter& writer) {
  auto generation = std::make_shared<Generation>(std::move(job), std::move(format),
                                                 model_.generator, model_.tokenizer, writer,
                                                 model_.timeline, RecordOf(request), log_);
  generation->Start();
  return generation;
}

std::shared_ptr<Exchange> Routes::Completions(const HttpRequest& request, ResponseWriter& writer) {
  CompletionRequest asked = ParseCompletionRequest(request.body, schema());
  AnswerHead head = Head("cmpl", asked.fields);
  GenerationJob job = JobFor(request, asked.fields);
  job.echo = asked.echo;
  job.only_echo = asked.fields.max_tokens == 0;
  for (const PromptInput& input : asked.prompts) {
    GenerationJob::Prompt prompt = FitPrompt(Tokens(input, asked.fields.add_special_tokens),
                                             asked.fields, kDefaultCompletionTokens, "prompt");
    // The engine makes at least one token, which scores the whole prompt on its way.
    if (job.only_echo) prompt.max_tokens = 1;
    if (asked.echo) {
      const auto* text = std::get_if<std::string>(&input);
      prompt.echo = text ? *text : model_.tokenizer.Decode(prompt.tokens, /*skip_special=*/false);
    }
    job.prompts.push_back(std::move(prompt));
  }
  return Run(request, std::move(job), MakeCompletionFormat(std::move(head), model_.tokenizer),
             writer);
}

std::shared_ptr<Exchange> Routes::Chat(const HttpRequest& request, ResponseWriter& writer) {
  ChatRequest asked = ParseChatRequest(request.body, schema());
  AnswerHead head = Head("chatcmpl", asked.fields);
  GenerationJob job = JobFor(request, asked.fields);
  const std::string text =
      RenderChat(asked.messages, {.add_generation_prompt = asked.add_generation_prompt,
                                  .extra_json = asked.template_variables});
  job.prompts.push_back(FitPrompt(Encode(text, asked.fields.add_special_tokens), asked.fields,
                                  std::nullopt, "messages"));
  return Run(request, std::move(job), MakeChatFormat(std::move(head), model_.tokenizer), writer);
}

std::shared_ptr<Exchange> Routes::Generate(const HttpRequest& request, ResponseWriter& writer) {
  return GenerateAs(request, /*stream=*/false, writer);
}

std::shared_ptr<Exchange> Routes::GenerateStream(const HttpRequest& request,
                                                 ResponseWriter& writer) {
  return GenerateAs(request, /*stream=*/true, writer);
}

std::shared_ptr<Exchange> Routes::GenerateAs(const HttpRequest& request, bool stream,
                                             ResponseWriter& writer) {
  GenerateRequest asked = ParseGenerateRequest(request.body, schema());
  AnswerHead head = Head("gen", asked.fields);
  GenerationJob job = JobFor(request, asked.fields);
  job.stream |= stream;
  job.prompts.push_back(FitPrompt(Tokens(asked.prompt, asked.fields.add_special_tokens),
                                  asked.fields, kDefaultCompletionTokens, "prompt"));
  return Run(request, std::move(job),
             MakeGenerateFormat(std::move(head), [this] { return Memory(); }), writer);
}

std::shared_ptr<Exchange> Routes::Tokenize(const HttpRequest& request, ResponseWriter& writer) {
  const TokenizeRequest asked = ParseTokenizeRequest(request.body, schema());
  ModelName(asked.model);
  const auto* prompt = std::get_if<std::string>(&asked.input);
  const std::string text = prompt != nullptr
                               ? *prompt
                               : RenderChat(std::get<std::vector<ChatMessage>>(asked.input),
                                            {.add_generation_prompt = asked.add_generation_prompt,
                                             .extra_json = asked.template_variables});
  const std::vector<TokenId> tokens = Encode(text, asked.add_special_tokens);
  json::object answer{{"count", tokens.size()},
                      {"max_model_len", model_.max_model_len},
                      {"tokens", json::array(tokens.begin(), tokens.end())},
                      {"token_strs", nullptr}};
  if (asked.return_token_strings) {
    json::array strings;
    for (const TokenId token : tokens) {
      strings.emplace_back(RepairUtf8(model_.tokenizer.TokenText(token)));
    }
    answer["token_strs"] = std::move(strings);
  }
  SendJson(answer, writer);
  return nullptr;
}

std::shared_ptr<Exchange> Routes::Detokenize(const HttpRequest& request, ResponseWriter& writer) {
  const DetokenizeRequest asked = ParseDetokenizeRequest(request.body, schema());
  ModelName(asked.model);
  SendJson({{"prompt", model_.tokenizer.Decode(asked.tokens, asked.skip_special_tokens)}}, writer);
  return nullptr;
}

std::shared_ptr<Exchange> Routes::Models(const HttpRequest&, ResponseWriter& writer) {
  json::array list;
  for (const std::string& name : model_.names)
    list.push_back(ModelObject(name, started_, model_.max_model_len));
  SendJson({{"object", "list"}, {"data", std::move(list)}}, writer);
  return nullptr;
}

std::shared_ptr<Exchange> Routes::Model(const HttpRequest& request, ResponseWriter& writer) {
  static constexpr std::string_view kPath = "/v1/models/";
  const std::string name = ModelName(RepairUtf8(request.path.substr(kPath.size())));
  SendJson(ModelObject(name, started_, model_.max_model_len), writer);
  return nullptr;
}

std::shared_ptr<Exchange> Routes::Health(const HttpRequest&, ResponseWriter& writer) {
  if (const std::optional<Error> draining = Draining()) throw *draining;
  const std::string failure = model_.generator.Stats().failure;
  if (!failure.empty()) throw Error(ErrorCode::kUnavailable, failure);
  SendJson({{"status", "ok"}}, writer);
  return nullptr;
}

std::shared_ptr<Exchange> Routes::MetricsPage(const HttpRequest&, ResponseWriter& writer) {
  writer.Send(
      {.content_type = std::string(kMetricsContentType), .body = MetricsText(model_.metrics)});
  return nullptr;
}

std::shared_ptr<Exchange> Routes::Steps(const HttpRequest&, ResponseWriter& writer) {
  json::array steps;
  for (const StepTiming& step : model_.generator.RecentSteps()) steps.push_back(StepObject(step));
  SendJson({{"steps", std::move(steps)}}, writer);
  return nullptr;
}

std::shared_ptr<Exchange> Routes::Version(const HttpRequest&, ResponseWriter& writer) {
  SendJson({{"version", version_}}, writer);
  return nullptr;
}

}  // namespace sluice
