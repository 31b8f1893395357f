#include "chat/chat_template.h"

#include <array>
#include <boost/json.hpp>

#include "base/error.h"
#include "chat/jinja_ast.h"
#include "chat/jinja_evaluator.h"
#include "chat/jinja_json.h"
#include "chat/jinja_parser.h"
#include "tokenizer/utf8.h"

namespace sluice {

struct ChatTemplate::Parsed {
  jinja::Body body;
};

const std::string_view kChatMlTemplate =
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>' + '\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}";

namespace {

using jinja::Dict;
using jinja::Value;

Value Text(const std::string& text) {
  return Value::String(RepairUtf8(text));
}

Value ParseJson(const std::string& json, std::string_view what, boost::json::kind kind) {
  boost::system::error_code error;
  const boost::json::value value = boost::json::parse(json, error);
  if (error || value.kind() != kind) {
    throw Error(ErrorCode::kInvalidArgument, std::string(what) + " must be a JSON " +
                                                 std::string(boost::json::to_string(kind)) +
                                                 (error ? ": " + error.message() : std::string()));
  }
  return jinja::FromJson(value);
}

Value ContentValue(const ChatMessage& message, bool reads_parts) {
  if (!message.content_json) return Text(message.content);
  if (*message.content_json == "null") return Value();
  Value parts = ParseJson(*message.content_json, "content", boost::json::kind::array);
  return reads_parts ? std::move(parts) : Text(message.content);
}

Value MessageValue(const ChatMessage& message, bool reads_parts) {
  Dict dict;
  const auto set = [&](const char* name, Value value) {
    dict.entries.emplace_back(Value::String(name), std::move(value));
  };
  set("role", Text(message.role));
  set("content", ContentValue(message, reads_parts));
  if (message.name) set("name", Text(*message.name));
  if (message.reasoning_content) set("reasoning_content", Text(*message.reasoning_content));
  if (message.tool_call_id) set("tool_call_id", Text(*message.tool_call_id));
  if (message.tool_calls_json) {
    set("tool_calls", ParseJson(*message.tool_calls_json, "tool_calls", boost::json::kind::array));
  }
  return Value::Of(std::move(dict));
}

// The template of a config: a string, or a list of {"name", "template"}.
std::optional<std::string> TemplateOf(const boost::json::value& json) {
  if (const auto* text = json.if_string()) return std::string(*text);
  const auto* list = json.if_array();
  if (list == nullptr) {
    throw Error(ErrorCode::kDataLoss, "tokenizer_config.json: chat_template must be a string");
  }
  for (const auto& item : *list) {
    const auto* object = item.if_object();
    const auto* name = object ? object->if_contains("name") : nullptr;
    const auto* text = object ? object->if_contains("template") : nullptr;
    if (name && text && name->is_string() && text->is_string() && name->get_string() == "default") {
      return std::string(text->get_string());
    }
  }
  throw Error(ErrorCode::kUnsupported,
              "tokenizer_config.json: chat_template has no template called \"default\"");
}

// The text of a special token, which is a string or {"content": string}.
std::optional<std::string> SpecialTokenOf(const boost::json::object& config, const char* name) {
  const auto* value = config.if_contains(name);
  if (value != nullptr && value->is_object()) value = value->get_object().if_contains("content");
  if (value == nullptr || !value->is_string()) return std::nullopt;
  return std::string(value->get_string());
}

boost::json::object ParseConfig(std::string_view json) {
  boost::system::error_code error;
  boost::json::value value = boost::json::parse(json, error);
  if (error || !value.is_object()) {
    throw Error(ErrorCode::kDataLoss, "tokenizer_config.json is not a JSON object" +
                                          (error ? ": " + error.message() : std::string()));
  }
  return std::move(value.get_object());
}

ChatTemplate ParseOf(const std::string& file, const std::string& jinja) {
  try {
    return ChatTemplate::Parse(jinja);
  } catch (const Error& error) {
    throw Error(error.code(), file + ": " + error.what());
  }
}

}  // namespace

ChatTemplate ChatTemplate::Parse(std::string_view jinja) {
  auto parsed = std::make_shared<Parsed>();
  parsed->body = jinja::Parse(RepairUtf8(jinja));
  ChatTemplate result(std::move(parsed));
  // What never names a part's text need not be tried.
  if (jinja.find("text") != jinja.npos) result.reads_parts_ = result.ReadsParts();
  return result;
}

bool ChatTemplate::ReadsParts() const {
  ChatTemplate trial = *this;
  trial.reads_parts_ = true;
  ChatMessage message{.role = "user", .content = "one part"};
  try {
    const std::string plain = trial.Render({message});
    message.content_json = R"([{"type": "text", "text": "one part"}])";
    return trial.Render({message}) == plain;
  } catch (const Error&) {
    return false;
  }
}

std::optional<ChatTemplate> ChatTemplate::FromTokenizerConfig(
    std::string_view tokenizer_config_json, std::optional<std::string_view> chat_template_jinja) {
  const boost::json::object config = ParseConfig(tokenizer_config_json);
  std::string jinja;
  std::string file;
  if (chat_template_jinja) {
    jinja = *chat_template_jinja;
    file = "chat_template.jinja";
  } else if (const auto* json = config.if_contains("chat_template"); json && !json->is_null()) {
    jinja = *TemplateOf(*json);
    file = "tokenizer_config.json";
  } else {
    return std::nullopt;
  }
  ChatTemplate result = ParseOf(file, jinja);
  for (const char* name : {"bos_token", "eos_token", "unk_token", "sep_token", "pad_token",
                           "cls_token", "mask_token"}) {
    if (auto text = SpecialTokenOf(config, name)) result.special_tokens_.emplace_back(name, *text);
  }
  return result;
}

std::string ChatTemplate::Render(const std::vector<ChatMessage>& messages,
                                 const RenderOptions& options) const {
  std::vector<Value> list;
  for (const ChatMessage& message : messages) list.push_back(MessageValue(message, reads_parts_));
  Dict variables;
  const auto set = [&](std::string_view name, Value value) {
    variables.Set(Value::String(std::string(name)), std::move(value));
  };
  for (const auto& [name, text] : special_tokens_) set(name, Text(text));
  if (options.bos_token) set("bos_token", Text(*options.bos_token));
  if (options.eos_token) set("eos_token", Text(*options.eos_token));
  set("documents", options.documents_json
                       ? ParseJson(*options.documents_json, "documents", boost::json::kind::array)
                       : Value());
  set("tools", options.tools_json
                   ? ParseJson(*options.tools_json, "tools", boost::json::kind::array)
                   : Value());
  if (options.extra_json) {
    const Value extra =
        ParseJson(*options.extra_json, "chat_template_kwargs", boost::json::kind::object);
    for (const auto& [name, value] : extra.IfDict()->entries) set(name.Text(), value);
  }
  set("messages", Value::Of(std::move(list)));
  set("add_generation_prompt", Value::Bool(options.add_generation_prompt));
  return jinja::Render(parsed_->body, variables,
                       options.now.value_or(std::chrono::system_clock::now()));
}

}  // namespace sluice
