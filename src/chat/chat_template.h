#pragma once

#include <chrono>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// One message of a conversation. JSON stands as text, checked when it is rendered.
struct ChatMessage {
  std::string role;
  std::string content;
  std::optional<std::string> name = {};
  std::optional<std::string> reasoning_content = {};
  std::optional<std::string> tool_call_id = {};
  // A JSON array of {"id", "type", "function": {"name", "arguments"}}.
  std::optional<std::string> tool_calls_json = {};
  // null or an array of parts {"type", ...}, which stands for `content`. A template that reads only
  // texts gets `content` instead of an array.
  std::optional<std::string> content_json = {};
};

struct RenderOptions {
  // Ends with the opening of the assistant's answer.
  bool add_generation_prompt = true;
  // Texts for the template's bos_token and eos_token instead of the checkpoint's.
  std::optional<std::string> bos_token = {};
  std::optional<std::string> eos_token = {};
  // A JSON array of function definitions.
  std::optional<std::string> tools_json = {};
  // A JSON object of further variables, a request's chat_template_kwargs.
  std::optional<std::string> extra_json = {};
  // A JSON array of texts to answer from.
  std::optional<std::string> documents_json = {};
  // What strftime_now() tells, in local time; the clock's time without.
  std::optional<std::chrono::system_clock::time_point> now = {};
};

// ChatML, for a checkpoint that brings no template but has its tokens, <|im_start|> and <|im_end|>.
extern const std::string_view kChatMlTemplate;

// A checkpoint's chat template: Jinja as Hugging Face's transformers runs it (trim_blocks,
// lstrip_blocks, tojson without HTML escapes, raise_exception, break and continue). Immutable;
// copies share the parsed template; safe to render from any thread.
class ChatTemplate {
 public:
  // Throws Error(kDataLoss) for what is not Jinja and Error(kUnsupported) for constructs that are
  // not written here, with line and column.
  static ChatTemplate Parse(std::string_view jinja);

  // Takes the texts of tokenizer_config.json ("{}" for none) and, where the checkpoint has one,
  // chat_template.jinja, which wins. Of several named templates "default" is taken; nothing where
  // there is none.
  static std::optional<ChatTemplate> FromTokenizerConfig(
      std::string_view tokenizer_config_json,
      std::optional<std::string_view> chat_template_jinja = {});

  // Throws Error(kInvalidArgument) when the template refuses the messages or they do not suit it,
  // and Error(kResourceExhausted) when rendering takes too long.
  std::string Render(const std::vector<ChatMessage>& messages,
                     const RenderOptions& options = {}) const;

 private:
  struct Parsed;
  explicit ChatTemplate(std::shared_ptr<const Parsed> parsed) : parsed_(std::move(parsed)) {}

  // Whether the template takes a message's content as an array of parts.
  bool ReadsParts() const;

  std::shared_ptr<const Parsed> parsed_;
  bool reads_parts_ = false;
  std::vector<std::pair<std::string, std::string>> special_tokens_;  // "bos_token" and the like
};

}  // namespace sluice
