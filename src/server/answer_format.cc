#include "server/answer_format.h"

#include <fmt/format.h>

#include <algorithm>
#include <boost/json.hpp>
#include <utility>

#include "tokenizer/utf8.h"

namespace sluice {

namespace json = boost::json;

namespace {

// JSON has no infinity: what OpenAI's API gives for a token of no probability.
constexpr double kLeastLogprob = -9999.0;

json::value Logprob(const std::optional<float>& logprob) {
  if (!logprob) return nullptr;
  return std::max(static_cast<double>(*logprob), kLeastLogprob);
}

json::value FinishName(const std::optional<FinishReason>& finish) {
  if (!finish) return nullptr;
  return FinishReasonName(*finish);
}

// A token's text as the completions API writes it: bytes that are no text by themselves are
// spelled "bytes:\xe2\x80".
std::string TokenName(const Tokenizer& tokenizer, TokenId token) {
  const std::string_view bytes = tokenizer.TokenText(token);
  std::string text = RepairUtf8(bytes);
  if (text == bytes) return text;
  text = "bytes:";
  for (const char byte : bytes) text += fmt::format("\\x{:02x}", static_cast<unsigned char>(byte));
  return text;
}

json::object UsageObject(const GenerationFigures& figures) {
  return {{"prompt_tokens", figures.prompt_tokens},
          {"completion_tokens", figures.completion_tokens},
          {"total_tokens", figures.prompt_tokens + figures.completion_tokens},
          {"prompt_tokens_details", json::object{{"cached_tokens", figures.cached_tokens}}}};
}

// The frame that the completions and chat APIs share; subclasses word the choices.
class OpenAiFormat : public AnswerFormat {
 public:
  OpenAiFormat(AnswerHead head, const Tokenizer& tokenizer)
      : head_(std::move(head)), tokenizer_(tokenizer) {}

  std::vector<std::string> Opening(int) override { return {}; }

  std::string Event(const ChoicePart& part) override {
    return StreamEvent({StreamChoice(part)}, nullptr);
  }

  std::optional<std::string> Closing(const GenerationFigures& figures) override {
    if (!head_.include_usage) return std::nullopt;
    return StreamEvent({}, UsageObject(figures));
  }

  std::string Whole(const std::vector<ChoicePart>& choices,
                    const GenerationFigures& figures) override {
    json::array list;
    for (const ChoicePart& choice : choices) list.push_back(WholeChoice(choice));
    json::object answer = Frame(whole_object_);
    answer["choices"] = std::move(list);
    answer["usage"] = UsageObject(figures);
    return json::serialize(answer);
  }

 protected:
  virtual json::object StreamChoice(const ChoicePart& part) = 0;
  virtual json::object WholeChoice(const ChoicePart& choice) = 0;

  std::string StreamEvent(json::array choices, json::value usage) const {
    json::object event = Frame(stream_object_);
    event["choices"] = std::move(choices);
    if (head_.include_usage) event["usage"] = std::move(usage);
    return json::serialize(event);
  }

  const char* whole_object_ = "";
  const char* stream_object_ = "";
  const AnswerHead head_;
  const Tokenizer& tokenizer_;

 private:
  json::object Frame(const char* object) const {
    return {
        {"id", head_.id}, {"object", object}, {"created", head_.created}, {"model", head_.model}};
  }
};

class CompletionFormat : public OpenAiFormat {
 public:
  CompletionFormat(AnswerHead head, const Tokenizer& tokenizer)
      : OpenAiFormat(std::move(head), tokenizer) {
    whole_object_ = stream_object_ = "text_completion";
  }

 protected:
  json::object StreamChoice(const ChoicePart& part) override { return WholeChoice(part); }

  json::object WholeChoice(const ChoicePart& choice) override {
    return {{"index", choice.index},
            {"text", choice.text},
            {"logprobs", head_.wants_logprobs ? Logprobs(choice.tokens) : json::value(nullptr)},
            {"finish_reason", FinishName(choice.finish)}};
  }

 private:
  json::value Alternatives(const ScoredToken& token) const {
    if (!token.logprob) return nullptr;
    json::object out;
    for (const TokenLogprob& other : token.top) {
      // Two ids may share a text; the likelier comes first and stays.
      out.emplace(TokenName(tokenizer_, other.token), Logprob(other.logprob));
    }
    out.emplace(TokenName(tokenizer_, token.token), Logprob(token.logprob));
    return out;
  }

  json::value Logprobs(const std::vector<ScoredToken>& tokens) const {
    json::array names, logprobs, top, offsets;
    for (const ScoredToken& token : tokens) {
      names.emplace_back(TokenName(tokenizer_, token.token));
      logprobs.push_back(Logprob(token.logprob));
      top.push_back(Alternatives(token));
      offsets.emplace_back(token.text_offset);
    }
    return json::object{{"tokens", std::move(names)},
                        {"token_logprobs", std::move(logprobs)},
                        {"top_logprobs", std::move(top)},
                        {"text_offset", std::move(offsets)}};
  }
};

class ChatFormat : public OpenAiFormat {
 public:
  ChatFormat(AnswerHead head, const Tokenizer& tokenizer)
      : OpenAiFormat(std::move(head), tokenizer) {
    whole_object_ = "chat.completion";
    stream_object_ = "chat.completion.chunk";
  }

  std::vector<std::string> Opening(int choices) override {
    std::vector<std::string> events;
    for (int index = 0; index < choices; ++index) {
      events.push_back(
          StreamEvent({json::object{{"index", index},
                                    {"delta", {{"role", "assistant"}, {"content", ""}}},
                                    {"logprobs", nullptr},
                                    {"finish_reason", nullptr}}},
                      nullptr));
    }
    return events;
  }

 protected:
  json::object StreamChoice(const ChoicePart& part) override {
    json::object delta;
    // There are clients that add up `content` without asking whether it is there.
    if (!part.text.empty() || !part.finish) delta["content"] = part.text;
    return {{"index", part.index},
            {"delta", std::move(delta)},
            {"logprobs", Logprobs(part.tokens)},
            {"finish_reason", FinishName(part.finish)}};
  }

  json::object WholeChoice(const ChoicePart& choice) override {
    return {{"index", choice.index},
            {"message", {{"role", "assistant"}, {"content", choice.text}, {"refusal", nullptr}}},
            {"logprobs", Logprobs(choice.tokens)},
            {"finish_reason", FinishName(choice.finish)}};
  }

 private:
  json::object Entry(TokenId token, const std::optional<float>& logprob) const {
    const std::string_view text = tokenizer_.TokenText(token);
    json::array bytes;
    for (const char byte : text) bytes.emplace_back(static_cast<unsigned char>(byte));
    return {
        {"token", RepairUtf8(text)}, {"logprob", Logprob(logprob)}, {"bytes", std::move(bytes)}};
  }

  json::value Logprobs(const std::vector<ScoredToken>& tokens) const {
    if (!head_.wants_logprobs) return nullptr;
    json::array content;
    for (const ScoredToken& token : tokens) {
      json::array top;
      for (const TokenLogprob& other : token.top) top.push_back(Entry(other.token, other.logprob));
      json::object entry = Entry(token.token, token.logprob);
      entry["top_logprobs"] = std::move(top);
      content.push_back(std::move(entry));
    }
    return json::object{{"content", std::move(content)}, {"refusal", nullptr}};
  }
};

class GenerateFormat : public AnswerFormat {
 public:
  GenerateFormat(AnswerHead head, std::function<MemoryFigures()> memory)
      : head_(std::move(head)), memory_(std::move(memory)) {}

  std::vector<std::string> Opening(int) override { return {}; }

  std::string Event(const ChoicePart& part) override {
    if (part.finish) finish_ = part.finish;
    return json::serialize(
        json::object{{"text", part.text}, {"finish_reason", FinishName(part.finish)}});
  }

  std::optional<std::string> Closing(const GenerationFigures& figures) override {
    return Answer("", finish_, figures);
  }

  std::string Whole(const std::vector<ChoicePart>& choices,
                    const GenerationFigures& figures) override {
    return Answer(choices.at(0).text, choices.at(0).finish, figures);
  }

 private:
  std::string Answer(const std::string& text, const std::optional<FinishReason>& finish,
                     const GenerationFigures& figures) const {
    const MemoryFigures memory = memory_();
    return json::serialize(
        json::object{{"model", head_.model},
                     {"text", text},
                     {"finish_reason", FinishName(finish)},
                     {"latency_ms", figures.latency_ms},
                     {"ttft_ms", figures.ttft_ms},
                     {"tokens",
                      {{"prompt", figures.prompt_tokens},
                       {"completion", figures.completion_tokens},
                       {"total", figures.prompt_tokens + figures.completion_tokens}}},
                     {"memory",
                      {{"resident_bytes", memory.resident_bytes},
                       {"kv_pages_used", memory.kv_pages_used},
                       {"kv_pages_total", memory.kv_pages_total}}}});
  }

  const AnswerHead head_;
  const std::function<MemoryFigures()> memory_;
  std::optional<FinishReason> finish_;
};

}  // namespace

std::unique_ptr<AnswerFormat> MakeCompletionFormat(AnswerHead head, const Tokenizer& tokenizer) {
  return std::make_unique<CompletionFormat>(std::move(head), tokenizer);
}

std::unique_ptr<AnswerFormat> MakeChatFormat(AnswerHead head, const Tokenizer& tokenizer) {
  return std::make_unique<ChatFormat>(std::move(head), tokenizer);
}

std::unique_ptr<AnswerFormat> MakeGenerateFormat(AnswerHead head,
                                                 std::function<MemoryFigures()> memory) {
  return std::make_unique<GenerateFormat>(std::move(head), std::move(memory));
}

}  // namespace sluice
