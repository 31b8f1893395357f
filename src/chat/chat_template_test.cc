#include "chat/chat_template.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <fstream>
#include <functional>
#include <sstream>

#include "base/error.h"
#include "tokenizer/tokenizer.h"

namespace sluice {
namespace {

const std::string kSource = SLUICE_SOURCE_DIR;

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(file.good()) << path;
  return text.str();
}

std::optional<std::string> TextField(const boost::json::object& object, const char* name) {
  const auto* value = object.if_contains(name);
  if (value == nullptr) return std::nullopt;
  return std::string(value->as_string());
}

std::optional<std::string> JsonField(const boost::json::object& object, const char* name) {
  const auto* value = object.if_contains(name);
  if (value == nullptr) return std::nullopt;
  return boost::json::serialize(*value);
}

std::vector<ChatMessage> MessagesOf(const boost::json::value& json) {
  std::vector<ChatMessage> messages;
  for (const auto& item : json.as_array()) {
    const auto& object = item.as_object();
    const bool is_text = object.at("content").is_string();
    messages.push_back({.role = *TextField(object, "role"),
                        .content = is_text ? *TextField(object, "content") : "",
                        .name = TextField(object, "name"),
                        .tool_call_id = TextField(object, "tool_call_id"),
                        .tool_calls_json = JsonField(object, "tool_calls"),
                        .content_json = is_text ? std::nullopt : JsonField(object, "content")});
  }
  return messages;
}

RenderOptions OptionsOf(const boost::json::object& given) {
  const auto* prompt = given.if_contains("add_generation_prompt");
  return {.add_generation_prompt = prompt != nullptr && prompt->as_bool(),
          .bos_token = TextField(given, "bos_token"),
          .eos_token = TextField(given, "eos_token"),
          .tools_json = JsonField(given, "tools"),
          .extra_json = JsonField(given, "extra")};
}

std::string RenderPlain(std::string_view jinja) {
  return ChatTemplate::Parse(jinja).Render({}, {.add_generation_prompt = false});
}

ErrorCode CodeOf(const std::function<void()>& action, std::string* message = nullptr) {
  try {
    action();
  } catch (const Error& error) {
    if (message != nullptr) *message = error.what();
    return error.code();
  }
  ADD_FAILURE() << "no error";
  return ErrorCode::kInternal;
}

TEST(ChatTemplateTest, EqualsJinja2) {
  const auto references =
      boost::json::parse(ReadFile(kSource + "/tests/data/chat/references.json"));
  ASSERT_GT(references.at("templates").as_object().size(), 60u);
  for (const auto& item : references.at("cases").as_array()) {
    const auto& name = item.at("template").as_string();
    const auto& given = references.at("conversations").at(item.at("conversation").as_string());
    SCOPED_TRACE(boost::json::serialize(item));
    const std::string source(references.at("templates").at(name).as_string());
    const ChatTemplate chat = ChatTemplate::Parse(source);
    const auto render = [&] {
      RenderOptions options = OptionsOf(given.as_object());
      options.now.emplace(std::chrono::seconds(references.at("now").as_int64()));
      return chat.Render(MessagesOf(given.at("messages")), options);
    };
    if (item.as_object().contains("error")) {
      std::string message;
      EXPECT_EQ(CodeOf(render, &message), ErrorCode::kInvalidArgument);
      // What the template itself says comes through as it stands.
      if (item.at("raised").as_bool()) {
        EXPECT_THAT(message, testing::EndsWith(": " + std::string(item.at("error").as_string())));
      }
      continue;
    }
    try {
      EXPECT_EQ(render(), item.at("rendered").as_string());
    } catch (const Error& error) {
      ADD_FAILURE() << error.what();
    }
  }
}

TEST(ChatTemplateTest, RefusesWhatJinja2Refuses) {
  const auto references =
      boost::json::parse(ReadFile(kSource + "/tests/data/chat/references.json"));
  for (const auto& source : references.at("broken").as_array()) {
    SCOPED_TRACE(boost::json::serialize(source));
    std::string message;
    EXPECT_EQ(CodeOf([&] { ChatTemplate::Parse(std::string(source.as_string())); }, &message),
              ErrorCode::kDataLoss);
    EXPECT_THAT(message, testing::HasSubstr("line 1, column "));
  }
}

TEST(ChatTemplateTest, UnsupportedConstructsAreNamedAtParseTime) {
  for (const auto& [source, what] : std::vector<std::pair<std::string, std::string>>{
           {"\n {% include 'x' %}", "line 2, column 5: {% include %}"},
           {"{% extends 'x' %}", "{% extends %}"},
           {"{% import 'x' as y %}", "{% import %}"},
           {"{% from 'x' import y %}", "{% from %}"},
           {"{% block x %}{% endblock %}", "{% block %}"},
           {"{% if false %}{{ 1 | xmlattr }}{% endif %}", "the filter xmlattr"},
           {"{{ 1 | random }}", "line 1, column 8: the filter random"},
           {"{{ 1 is nonsense }}", "the test nonsense"},
           {"{{ 'a'.encode() }}", "the method encode()"},
           {"{{ cycler(1) }}", "cycler()"},
           {"{{ 99999999999999999999 }}", "64 bits"}}) {
    std::string message;
    EXPECT_EQ(CodeOf([&] { ChatTemplate::Parse(source); }, &message), ErrorCode::kUnsupported);
    EXPECT_THAT(message, testing::HasSubstr(what));
  }
}

TEST(ChatTemplateTest, ErrorsCarryTheirPlaceAndTheTemplatesWords) {
  std::string message;
  EXPECT_EQ(CodeOf([] { RenderPlain("a\n{{ raise_exception('no ' ~ 'good') }}"); }, &message),
            ErrorCode::kInvalidArgument);
  EXPECT_THAT(message, testing::HasSubstr("line 2"));
  EXPECT_THAT(message, testing::HasSubstr("no good"));
}

TEST(ChatTemplateTest, HostileTemplatesEnd) {
  const std::string brackets =
      "{{ " + std::string(100'000, '(') + "1" + std::string(100'000, ')') + " }}";
  std::string sum = "{{ 1";
  for (int i = 0; i < 10'000; ++i) sum += " + 1";
  std::string blocks;
  for (int i = 0; i < 10'000; ++i) blocks += "{% if 1 %}";
  EXPECT_EQ(CodeOf([&] { ChatTemplate::Parse(brackets); }), ErrorCode::kUnsupported);
  EXPECT_EQ(CodeOf([&] { ChatTemplate::Parse(sum + " }}"); }), ErrorCode::kUnsupported);
  EXPECT_EQ(CodeOf([&] { ChatTemplate::Parse(blocks); }), ErrorCode::kUnsupported);
  EXPECT_EQ(CodeOf([] {
              RenderPlain(
                  "{% for a in range(99999) %}{% for b in range(99999) %}{% endfor %}"
                  "{% endfor %}");
            }),
            ErrorCode::kResourceExhausted);
  EXPECT_EQ(CodeOf([] { RenderPlain("{{ 'a' * 9223372036854775807 }}"); }),
            ErrorCode::kResourceExhausted);
  EXPECT_EQ(CodeOf([] {
              RenderPlain(
                  "{% set n = namespace(x='aaaaaaaa') %}{% for i in range(99) %}"
                  "{% set n.x = n.x ~ n.x %}{% endfor %}");
            }),
            ErrorCode::kResourceExhausted);
  EXPECT_EQ(CodeOf([] { RenderPlain("{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}"); }),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(CodeOf([] {
              RenderPlain(
                  "{% set n = namespace(x=[]) %}{% for i in range(99999) %}"
                  "{% set n.x = [n.x] %}{% endfor %}");
            }),
            ErrorCode::kInvalidArgument);
  EXPECT_EQ(CodeOf([] { RenderPlain("{% set n = namespace() %}{% set n.x = n %}"); }),
            ErrorCode::kUnsupported);
  EXPECT_EQ(CodeOf([] { RenderPlain("{{ 9223372036854775807 + 1 }}"); }), ErrorCode::kUnsupported);
}

TEST(ChatTemplateTest, ReadsTokenizerConfigs) {
  const std::vector<ChatMessage> messages = {{.role = "user", .content = "hi"}};
  EXPECT_EQ(ChatTemplate::Parse(kChatMlTemplate).Render(messages),
            "<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n");
  EXPECT_FALSE(ChatTemplate::FromTokenizerConfig("{}").has_value());
  EXPECT_FALSE(ChatTemplate::FromTokenizerConfig(R"({"chat_template": null})").has_value());
  const std::string config =
      R"({"bos_token": {"content": "<s>"}, "eos_token": "</s>", "pad_token": null, "chat_template":
          [{"name": "rag", "template": "no"}, {"name": "default", "template":
            "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}{{ pad_token is defined }}"}]})";
  const ChatTemplate chat = ChatTemplate::FromTokenizerConfig(config).value();
  EXPECT_EQ(chat.Render(messages), "<s>hi</s>False");
  EXPECT_EQ(chat.Render(messages, {.bos_token = "<b>"}), "<b>hi</s>False");
  EXPECT_EQ(ChatTemplate::FromTokenizerConfig(config, "jinja wins\n").value().Render(messages),
            "jinja wins");
  for (const char* broken : {"[]", "{", R"({"chat_template": 1})"}) {
    EXPECT_EQ(CodeOf([&] { ChatTemplate::FromTokenizerConfig(broken); }), ErrorCode::kDataLoss);
  }
  EXPECT_EQ(CodeOf([] { ChatTemplate::FromTokenizerConfig(R"({"chat_template": []})"); }),
            ErrorCode::kUnsupported);
  EXPECT_EQ(CodeOf([&] { chat.Render(messages, {.tools_json = "{}"}); }),
            ErrorCode::kInvalidArgument);
}

TEST(ChatTemplateTest, PartsGoToTemplatesThatReadThem) {
  const std::vector<ChatMessage> messages = {
      {.role = "user",
       .content = "a\nb",
       .content_json = R"([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}])"}};
  EXPECT_EQ(ChatTemplate::Parse("{{ messages[0].content }} text").Render(messages), "a\nb text");
  EXPECT_EQ(ChatTemplate::Parse("{% for m in messages %}{% if m.content is string %}"
                                "{{ m.content }}{% else %}{% for p in m.content %}"
                                "{{ p.text }},{% endfor %}{% endif %}{% endfor %}")
                .Render(messages),
            "a\nb");
  EXPECT_EQ(ChatTemplate::Parse("{% for m in messages %}{% if m.content is string %}"
                                "{{ m.content }}{% else %}{% for p in m.content %}"
                                "{{ p.text }}{% endfor %}{% endif %}{% endfor %}")
                .Render(messages),
            "ab");
}

TEST(ChatTemplateTest, InvalidBytesBecomeReplacementCharacters) {
  const ChatTemplate chat = ChatTemplate::Parse("{{ messages[0].content }}");
  EXPECT_EQ(chat.Render({{.role = "user", .content = "a\xFFz"}}), "a\uFFFDz");
}

TEST(ChatTemplateTest, StorytellerChatsGiveTheReferenceIds) {
  const std::string model = kSource + "/models/storyteller/";
  const auto tokenizer = Tokenizer::Load(model + "tokenizer.json");
  const ChatTemplate chat =
      ChatTemplate::FromTokenizerConfig(ReadFile(model + "tokenizer_config.json")).value();
  const auto references =
      boost::json::parse(ReadFile(kSource + "/tests/data/storyteller_greedy.json"));
  ASSERT_FALSE(references.at("chats").as_array().empty());
  for (const auto& item : references.at("chats").as_array()) {
    const std::string rendered = chat.Render(MessagesOf(item.at("messages")));
    EXPECT_EQ(rendered, item.at("rendered").as_string());
    EXPECT_EQ(tokenizer->Encode(rendered),
              boost::json::value_to<std::vector<TokenId>>(item.at("prompt_ids")));
  }
  for (const auto& item : references.at("prompts").as_array()) {
    EXPECT_EQ(tokenizer->Encode(std::string(item.at("prompt").as_string())),
              boost::json::value_to<std::vector<TokenId>>(item.at("prompt_ids")));
    EXPECT_EQ(tokenizer->Decode(boost::json::value_to<std::vector<TokenId>>(item.at("ids")), true),
              item.at("text").as_string());
  }
}

}  // namespace
}  // namespace sluice
