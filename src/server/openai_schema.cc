#include "server/openai_schema.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <charconv>
#include <limits>
#include <utility>

#include "server/request_fields.h"

namespace sluice {

namespace json = boost::json;

namespace {

// Bounds on what one request may ask for, so that none can fill the queue alone. 128 is OpenAI's
// bound on n.
constexpr int kMaxN = 128;
constexpr size_t kMaxChoices = 1024;  // prompts times n
constexpr size_t kMaxStops = 16;
constexpr size_t kMaxStopBytes = 4096;
constexpr size_t kMaxStopTokens = 256;
constexpr size_t kMaxMessages = 4096;
constexpr size_t kMaxSaltBytes = 1024;
constexpr int64_t kMaxInt = std::numeric_limits<int>::max();
constexpr double kSmallestTopP = std::numeric_limits<float>::min();  // what is not 0 as a float

void ReadStops(const RequestFields& fields, SamplingParams* params) {
  const json::value* value = fields.Find("stop");
  if (value == nullptr) return;
  if (value->is_string()) {
    params->stop.emplace_back(value->get_string());
  } else if (value->is_array()) {
    for (const json::value& element : value->get_array()) {
      if (!element.is_string()) {
        fields.FailType("stop", "a string or an array of strings", element);
      }
      params->stop.emplace_back(element.get_string());
    }
  } else {
    fields.FailType("stop", "a string or an array of strings", *value);
  }
  if (params->stop.size() > kMaxStops) {
    fields.Fail("stop", fmt::format("stop takes at most {} strings, got {}", kMaxStops,
                                    params->stop.size()));
  }
  size_t bytes = 0;
  for (const std::string& stop : params->stop) {
    if (stop.empty()) fields.Fail("stop", "stop must not hold an empty string");
    bytes += stop.size();
  }
  // Every choice keeps a matcher of its own.
  if (bytes > kMaxStopBytes) {
    fields.Fail("stop", fmt::format("stop takes at most {} bytes of strings, got {}", kMaxStopBytes,
                                    bytes));
  }
}

void ReadLogitBias(const RequestFields& fields, int vocab_size, SamplingParams* params) {
  const json::value* value = fields.Find("logit_bias");
  if (value == nullptr) return;
  if (!value->is_object()) fields.FailType("logit_bias", "an object", *value);
  for (const auto& [key, bias] : value->get_object()) {
    TokenId token = 0;
    const auto parsed = std::from_chars(key.data(), key.data() + key.size(), token);
    const bool leading_zero = key.size() > 1 && key[0] == '0';  // a second spelling of a token
    if (parsed.ec != std::errc() || parsed.ptr != key.data() + key.size() || leading_zero ||
        token < 0 || token >= vocab_size) {
      fields.Fail("logit_bias",
                  fmt::format("logit_bias must map token ids from 0 to {} to numbers, got key '{}'",
                              vocab_size - 1, std::string_view(key.data(), key.size())));
    }
    if (!bias.is_number()) fields.FailType("logit_bias", "an object of numbers", bias);
    const double number = bias.to_number<double>();
    if (!(number >= -100 && number <= 100)) {
      fields.Fail("logit_bias",
                  fmt::format("logit_bias must lie between -100 and 100, got {}", number));
    }
    params->logit_bias.emplace_back(token, static_cast<float>(number));
  }
}

void ReadFloat(const RequestFields& fields, std::string_view name, Bounds<double> bounds,
               float* out) {
  if (const auto number = fields.Number(name, bounds)) *out = static_cast<float>(*number);
}

void ReadSampling(const RequestFields& fields, const SchemaContext& context,
                  SamplingParams* params) {
  params->temperature = context.defaults.temperature;
  params->top_p = context.defaults.top_p;
  params->top_k = context.defaults.top_k;
  params->min_p = context.defaults.min_p;
  params->repetition_penalty = context.defaults.repetition_penalty;
  ReadFloat(fields, "temperature", {0, 2}, &params->temperature);
  if (const auto top_p = fields.Number("top_p", {.high = 1})) {
    if (*top_p < kSmallestTopP) {
      fields.Fail("top_p", fmt::format("top_p must be above 0, got {}", *top_p));
    }
    params->top_p = static_cast<float>(*top_p);
  }
  ReadFloat(fields, "min_p", {0, 1}, &params->min_p);
  ReadFloat(fields, "repetition_penalty", {0.01, 100}, &params->repetition_penalty);
  ReadFloat(fields, "presence_penalty", {-2, 2}, &params->presence_penalty);
  ReadFloat(fields, "frequency_penalty", {-2, 2}, &params->frequency_penalty);
  // -1 is an older way to say 0.
  if (const auto top_k = fields.Integer("top_k", {-1, kMaxInt})) {
    params->top_k = *top_k == -1 ? 0 : static_cast<int>(*top_k);
  }
  if (const auto seed = fields.Integer("seed")) params->seed = static_cast<uint64_t>(*seed);
  if (const auto n = fields.Integer("n", {1, kMaxN})) params->n = static_cast<int>(*n);
  ReadStops(fields, params);
  ReadLogitBias(fields, context.vocab_size, params);
  if (auto ids = fields.TokenIds("stop_token_ids", context.vocab_size)) {
    if (ids->size() > kMaxStopTokens) {
      fields.Fail("stop_token_ids", fmt::format("stop_token_ids takes at most {} ids, got {}",
                                                kMaxStopTokens, ids->size()));
    }
    params->stop_token_ids = std::move(*ids);
  }
  params->ignore_eos = fields.Bool("ignore_eos").value_or(false);
  params->include_stop_str_in_output = fields.Bool("include_stop_str_in_output").value_or(false);
}

void ReadLengths(const RequestFields& fields, GenerationFields* out) {
  for (const std::string_view name : {"max_tokens", "max_completion_tokens"}) {
    const auto most = fields.Integer(name, {0, kMaxInt});
    if (!most) continue;
    if (out->max_tokens && *most != *out->max_tokens) {
      fields.Fail(name, fmt::format("{} is another name of max_tokens: got {} and {}", name, *most,
                                    *out->max_tokens));
    }
    out->max_tokens = static_cast<int>(*most);
  }
  if (const auto least = fields.Integer("min_tokens", {0, kMaxInt})) {
    if (out->max_tokens && *least > *out->max_tokens) {
      fields.Fail("min_tokens", fmt::format("min_tokens must not be above max_tokens ({}), got {}",
                                            *out->max_tokens, *least));
    }
    out->sampling.min_tokens = static_cast<int>(*least);
  }
}

void RequireTokens(const RequestFields& fields, const GenerationFields& generation) {
  if (generation.max_tokens == 0) fields.Fail("max_tokens", "max_tokens must be at least 1, got 0");
}

void ReadStreaming(const RequestFields& fields, GenerationFields* out) {
  out->stream = fields.Bool("stream").value_or(false);
  const json::value* options = fields.Find("stream_options");
  if (options == nullptr) return;
  if (!options->is_object()) fields.FailType("stream_options", "an object", *options);
  if (!out->stream) {
    fields.Fail("stream_options", "stream_options is only for requests with stream = true");
  }
  const RequestFields inner(options->get_object(), "stream_options.");
  out->include_usage = inner.Bool("include_usage").value_or(false);
  inner.RefuseUnread();
}

// Who asks, how urgently, and how long they wait.
void ReadScheduling(const RequestFields& fields, GenerationFields* out) {
  constexpr double kMaxSeconds = 1e6;
  out->user = fields.String("user").value_or("");
  if (const auto priority = fields.Integer("priority", {-kMaxInt, kMaxInt})) {
    out->priority = static_cast<int>(*priority);
  }
  if (const auto seconds = fields.Number("timeout", {0.001, kMaxSeconds})) {
    out->timeout = std::chrono::milliseconds(static_cast<int64_t>(*seconds * 1000));
  }
}

// vLLM's field: prefixes are shared among requests with the same one.
std::string ReadCacheSalt(const RequestFields& fields) {
  const std::optional<std::string> salt = fields.String("cache_salt");
  if (!salt) return "";
  if (salt->empty() || salt->size() > kMaxSaltBytes) {
    fields.Fail("cache_salt", fmt::format("cache_salt must have from 1 to {} bytes, got {}",
                                          kMaxSaltBytes, salt->size()));
  }
  return *salt;
}

void RequireTextFormat(const RequestFields& fields) {
  const json::value* format = fields.Find("response_format");
  if (format == nullptr) return;
  if (!format->is_object()) fields.FailType("response_format", "an object", *format);
  const RequestFields inner(format->get_object(), "response_format.");
  const std::string type = inner.String("type").value_or("");
  if (type != "text") {
    fields.Fail("response_format",
                fmt::format("response_format must have type 'text', got '{}'", type));
  }
  inner.RefuseUnread();
}

// `chat`: the template has written the special tokens already.
GenerationFields ReadGeneration(const RequestFields& fields, const SchemaContext& context,
                                bool chat) {
  GenerationFields out;
  out.model = fields.String("model").value_or("");
  ReadSampling(fields, context, &out.sampling);
  ReadLengths(fields, &out);
  ReadStreaming(fields, &out);
  ReadScheduling(fields, &out);
  out.cache_salt = ReadCacheSalt(fields);
  out.add_special_tokens = fields.Bool("add_special_tokens").value_or(!chat);
  out.skip_special_tokens = fields.Bool("skip_special_tokens").value_or(true);
  RequireTextFormat(fields);
  if (const auto best_of = fields.Integer("best_of"); best_of && *best_of != out.sampling.n) {
    fields.Fail("best_of",
                fmt::format("best_of must equal n ({}), got {}", out.sampling.n, *best_of));
  }
  return out;
}

std::vector<TokenId> TokensOf(const RequestFields& fields, const json::value& list,
                              int vocab_size) {
  const json::object wrapped{{"prompt", list}};
  std::vector<TokenId> ids = *RequestFields(wrapped).TokenIds("prompt", vocab_size);
  if (ids.empty()) fields.Fail("prompt", "prompt must hold at least one token");
  return ids;
}

// A string, a list of strings, a list of token ids, or a list of those.
std::vector<PromptInput> ReadPrompts(const RequestFields& fields, int vocab_size) {
  static constexpr std::string_view kExpected =
      "a string, an array of strings, an array of token ids or an array of arrays of token ids";
  const json::value* value = fields.Find("prompt");
  if (value == nullptr) {
    throw ApiError(400, "prompt is missing", "prompt", "missing_required_parameter");
  }
  if (value->is_string()) return {std::string(value->get_string())};
  if (!value->is_array()) fields.FailType("prompt", kExpected, *value);
  const json::array& list = value->get_array();
  if (list.empty()) fields.Fail("prompt", "prompt must not be an empty array");
  if (list[0].is_number()) return {TokensOf(fields, *value, vocab_size)};

  std::vector<PromptInput> prompts;
  const json::kind kind = list[0].kind();
  for (const json::value& element : list) {
    if (element.kind() != kind) fields.FailType("prompt", kExpected, element);
    if (element.is_string()) {
      prompts.emplace_back(std::string(element.get_string()));
    } else if (element.is_array()) {
      prompts.emplace_back(TokensOf(fields, element, vocab_size));
    } else {
      fields.FailType("prompt", kExpected, element);
    }
  }
  return prompts;
}

// `prefix` is the message's, "messages[0].".
std::string ReadContent(const RequestFields& message, const json::value* content,
                        const std::string& prefix) {
  if (content == nullptr) message.Fail("content", "every message needs content: a string");
  if (content->is_string()) return std::string(content->get_string());
  if (!content->is_array()) message.FailType("content", "a string or an array of parts", *content);
  std::string text;
  const json::array& parts = content->get_array();
  for (size_t i = 0; i < parts.size(); ++i) {
    if (!parts[i].is_object()) message.FailType("content", "an array of part objects", parts[i]);
    const RequestFields part(parts[i].get_object(), fmt::format("{}content[{}].", prefix, i));
    const std::string type = part.String("type").value_or("");
    const std::optional<std::string> piece = part.String("text");
    if (type != "text" || !piece) {
      message.Fail("content", fmt::format("this model reads text only: each part must be "
                                          "{{\"type\": \"text\", \"text\": ...}}, got type '{}'",
                                          type));
    }
    part.RefuseUnread();
    if (!text.empty()) text += "\n";
    text += *piece;
  }
  return text;
}

// "auto" and "none" leave an answer of text to the model, which is what comes here.
void RefuseToolChoice(const RequestFields& fields) {
  const json::value* choice = fields.Find("tool_choice");
  if (choice == nullptr) return;
  const bool leaves_text =
      choice->is_string() && (choice->get_string() == "auto" || choice->get_string() == "none");
  if (leaves_text) return;
  if (!choice->is_string() && !choice->is_object()) {
    fields.FailType("tool_choice", "a string or an object", *choice);
  }
  const std::string got =
      choice->is_string() ? "'" + std::string(choice->get_string()) + "'" : "an object";
  throw ApiError(400,
                 fmt::format("tool_choice must be 'auto' or 'none', got {}: calls of tools cannot "
                             "be forced here",
                             got),
                 "tool_choice", "unsupported_parameter");
}

// Answers are text.
void RefuseModalities(const RequestFields& fields) {
  const json::value* modalities = fields.Find("modalities");
  if (modalities == nullptr) return;
  if (!modalities->is_array()) {
    fields.FailType("modalities", "an array of strings", *modalities);
  }
  for (const json::value& modality : modalities->get_array()) {
    if (!modality.is_string()) fields.FailType("modalities", "an array of strings", modality);
    if (modality.get_string() == "text") continue;
    throw ApiError(400,
                   fmt::format("modalities may hold 'text' only, got '{}'",
                               std::string_view(modality.get_string())),
                   "modalities", "unsupported_parameter");
  }
}

ChatMessage ReadMessage(const json::object& object, size_t index) {
  static constexpr std::array<std::string_view, 5> kRoles = {"system", "developer", "user",
                                                             "assistant", "tool"};
  const std::string prefix = fmt::format("messages[{}].", index);
  const RequestFields message(object, prefix);
  const std::string role = message.String("role").value_or("");
  if (std::find(kRoles.begin(), kRoles.end(), role) == kRoles.end()) {
    message.Fail("role", fmt::format("{}role must be system, developer, user, assistant or tool, "
                                     "got '{}'",
                                     prefix, role));
  }
  // Newer name of the same role; no template knows it.
  ChatMessage read{.role = role == "developer" ? "system" : role,
                   .name = message.String("name"),
                   .reasoning_content = message.String("reasoning_content"),
                   .tool_call_id = message.String("tool_call_id")};
  const json::value* content = message.Find("content");
  message.RefuseUnread();  // before the content, which a message with tool_calls need not have
  read.content = ReadContent(message, content, prefix);
  if (content->is_array()) read.content_json = json::serialize(*content);
  return read;
}

std::vector<ChatMessage> ReadMessages(const RequestFields& fields) {
  const json::value* value = fields.Find("messages");
  if (value == nullptr) {
    throw ApiError(400, "messages is missing", "messages", "missing_required_parameter");
  }
  if (!value->is_array()) fields.FailType("messages", "an array", *value);
  const json::array& list = value->get_array();
  if (list.empty() || list.size() > kMaxMessages) {
    fields.Fail("messages", fmt::format("messages must hold from 1 to {} messages, got {}",
                                        kMaxMessages, list.size()));
  }
  std::vector<ChatMessage> messages;
  for (size_t i = 0; i < list.size(); ++i) {
    if (!list[i].is_object()) fields.FailType("messages", "an array of objects", list[i]);
    messages.push_back(ReadMessage(list[i].get_object(), i));
  }
  return messages;
}

// chat_template_kwargs: variables for the template beside those that the request's fields make.
std::optional<std::string> ReadTemplateVariables(const RequestFields& fields) {
  static constexpr std::array<std::string_view, 7> kReserved = {
      "messages", "conversation",           "tools",        "add_generation_prompt",
      "tokenize", "continue_final_message", "chat_template"};
  const json::value* value = fields.Find("chat_template_kwargs");
  if (value == nullptr) return std::nullopt;
  if (!value->is_object()) fields.FailType("chat_template_kwargs", "an object", *value);
  const RequestFields variables(value->get_object(), "chat_template_kwargs.");
  for (const std::string_view name : kReserved) {
    if (!value->get_object().contains({name.data(), name.size()})) continue;
    variables.Fail(name, fmt::format("chat_template_kwargs must not hold {}: it is a field of the "
                                     "request, not a variable of the template",
                                     name));
  }
  return json::serialize(*value);
}

}  // namespace

CompletionRequest ParseCompletionRequest(std::string_view body, const SchemaContext& context) {
  const json::object object = ParseBody(body);
  const RequestFields fields(object);
  CompletionRequest request{.fields = ReadGeneration(fields, context, /*chat=*/false)};
  SamplingParams& sampling = request.fields.sampling;
  request.prompts = ReadPrompts(fields, context.vocab_size);
  if (request.prompts.size() * sampling.n > kMaxChoices) {
    fields.Fail("prompt", fmt::format("prompts times n must be at most {}, got {}", kMaxChoices,
                                      request.prompts.size() * sampling.n));
  }
  request.echo = fields.Bool("echo").value_or(false);
  if (const auto logprobs = fields.Integer("logprobs", {0, kMaxLogprobs})) {
    sampling.logprobs = static_cast<int>(*logprobs);
    if (request.echo) sampling.prompt_logprobs = sampling.logprobs;
  }
  // With echo, nothing may be asked for beyond the prompt: this is how prompts are scored.
  if (!request.echo) RequireTokens(fields, request.fields);
  fields.RefuseUnread();
  return request;
}

ChatRequest ParseChatRequest(std::string_view body, const SchemaContext& context) {
  const json::object object = ParseBody(body);
  const RequestFields fields(object);
  ChatRequest request{.fields = ReadGeneration(fields, context, /*chat=*/true)};
  RequireTokens(fields, request.fields);
  RefuseToolChoice(fields);
  RefuseModalities(fields);
  request.messages = ReadMessages(fields);
  request.add_generation_prompt = fields.Bool("add_generation_prompt").value_or(true);
  request.template_variables = ReadTemplateVariables(fields);
  const bool logprobs = fields.Bool("logprobs").value_or(false);
  const auto top = fields.Integer("top_logprobs", {0, kMaxLogprobs});
  if (top.value_or(0) > 0 && !logprobs) {
    fields.Fail("top_logprobs", "top_logprobs needs logprobs = true");
  }
  if (logprobs) request.fields.sampling.logprobs = static_cast<int>(top.value_or(0));
  fields.RefuseUnread();
  return request;
}

GenerateRequest ParseGenerateRequest(std::string_view body, const SchemaContext& context) {
  const json::object object = ParseBody(body);
  const RequestFields fields(object);
  GenerateRequest request{.fields = ReadGeneration(fields, context, /*chat=*/false)};
  RequireTokens(fields, request.fields);
  if (request.fields.sampling.n != 1) fields.Fail("n", "n must be 1 here: use /v1/completions");
  std::vector<PromptInput> prompts = ReadPrompts(fields, context.vocab_size);
  if (prompts.size() != 1) {
    fields.Fail("prompt", fmt::format("one prompt is expected, got {}", prompts.size()));
  }
  request.prompt = std::move(prompts[0]);
  fields.RefuseUnread();
  return request;
}

TokenizeRequest ParseTokenizeRequest(std::string_view body, const SchemaContext&) {
  const json::object object = ParseBody(body);
  const RequestFields fields(object);
  TokenizeRequest request{.model = fields.String("model").value_or("")};
  if (auto prompt = fields.String("prompt")) {
    request.input = std::move(*prompt);
    request.add_special_tokens = fields.Bool("add_special_tokens").value_or(true);
  } else if (fields.Find("messages") != nullptr) {
    request.input = ReadMessages(fields);
    request.add_generation_prompt = fields.Bool("add_generation_prompt").value_or(true);
    request.template_variables = ReadTemplateVariables(fields);
    request.add_special_tokens = fields.Bool("add_special_tokens").value_or(false);
  } else {
    throw ApiError(400, "prompt or messages is missing", "prompt", "missing_required_parameter");
  }
  request.return_token_strings = fields.Bool("return_token_strs").value_or(false);
  fields.RefuseUnread();
  return request;
}

DetokenizeRequest ParseDetokenizeRequest(std::string_view body, const SchemaContext& context) {
  const json::object object = ParseBody(body);
  const RequestFields fields(object);
  DetokenizeRequest request{.model = fields.String("model").value_or("")};
  auto tokens = fields.TokenIds("tokens", context.vocab_size);
  if (!tokens) throw ApiError(400, "tokens is missing", "tokens", "missing_required_parameter");
  request.tokens = std::move(*tokens);
  request.skip_special_tokens = fields.Bool("skip_special_tokens").value_or(false);
  fields.RefuseUnread();
  return request;
}

}  // namespace sluice
