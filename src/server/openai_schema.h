#pragma once

#include <chrono>
#include <optional>
#include <string>
#include <string_view>
#include <variant>
#include <vector>

#include "chat/chat_template.h"
#include "sampling/sampling_params.h"
#include "tokenizer/token_id.h"

// The requests of the HTTP API as native types. Field names and meanings are those of OpenAI's API
// reference, with vLLM's additional sampling fields. Every Parse throws ApiError(400) that names
// the field at fault, which may be one that nothing here reads: none is ignored that asks for
// anything.
namespace sluice {

// What a request is checked against.
struct SchemaContext {
  int vocab_size = 0;
  SamplingParams defaults;  // for the fields a request leaves out
};

using PromptInput = std::variant<std::string, std::vector<TokenId>>;

// The fields that every generating endpoint shares.
struct GenerationFields {
  std::string model;  // empty = not named
  SamplingParams sampling;
  std::string cache_salt;         // as Request's
  std::optional<int> max_tokens;  // as asked for; sampling.max_tokens is settled with the prompt
  bool stream = false;
  bool include_usage = false;
  bool add_special_tokens = true;  // what the tokenizer puts around a text; a chat's default: false
  bool skip_special_tokens = true;
  std::string user;  // on whose behalf; empty = not said
  int priority = 0;  // a lower number goes first
  std::optional<std::chrono::milliseconds> timeout;
};

struct CompletionRequest {
  GenerationFields fields;
  std::vector<PromptInput> prompts;
  bool echo = false;
};

struct ChatRequest {
  GenerationFields fields;
  std::vector<ChatMessage> messages;
  bool add_generation_prompt = true;
  std::optional<std::string> template_variables;  // a JSON object
};

struct GenerateRequest {
  GenerationFields fields;
  PromptInput prompt;
};

struct TokenizeRequest {
  std::string model;
  std::variant<std::string, std::vector<ChatMessage>> input;
  bool add_generation_prompt = true;
  std::optional<std::string> template_variables;  // a JSON object
  bool add_special_tokens = true;
  bool return_token_strings = false;
};

struct DetokenizeRequest {
  std::string model;
  std::vector<TokenId> tokens;
  bool skip_special_tokens = false;
};

CompletionRequest ParseCompletionRequest(std::string_view body, const SchemaContext& context);
ChatRequest ParseChatRequest(std::string_view body, const SchemaContext& context);
GenerateRequest ParseGenerateRequest(std::string_view body, const SchemaContext& context);
TokenizeRequest ParseTokenizeRequest(std::string_view body, const SchemaContext& context);
DetokenizeRequest ParseDetokenizeRequest(std::string_view body, const SchemaContext& context);

}  // namespace sluice
