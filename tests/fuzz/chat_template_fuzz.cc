// A Jinja template, rendered with conversations of every shape; or, from a `{"` on, the
// tokenizer_config.json that holds one. Variables of a request may follow after a NUL byte.
#include "chat/chat_template.h"
#include "fuzz_support.h"

namespace sluice {
namespace {

constexpr char kCalls[] =
    R"([{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"x\": [1, 2.5]}"}}])";
constexpr char kTools[] =
    R"([{"type":"function","function":{"name":"f","parameters":{"type":"object"}}}])";

void RenderAll(const ChatTemplate& chat, std::string_view variables) {
  RenderOptions options;
  options.bos_token = "<s>";
  if (!variables.empty()) options.extra_json = std::string(variables);
  const std::vector<ChatMessage> plain = {{.role = "system", .content = "Be brief."},
                                          {.role = "user", .content = " Hi\n"},
                                          {.role = "assistant", .content = "Hello!"},
                                          {.role = "user", .content = ""}};
  fuzz::Try([&] { chat.Render(plain, options); });
  const std::vector<ChatMessage> tools = {
      {.role = "user", .content = "Call f", .name = "Ann"},
      {.role = "assistant", .content = "", .reasoning_content = "Hm.", .tool_calls_json = kCalls},
      {.role = "tool", .content = "7", .tool_call_id = "c1"}};
  options.tools_json = kTools;
  options.add_generation_prompt = false;
  fuzz::Try([&] { chat.Render(tools, options); });
  fuzz::Try([&] { chat.Render({}, options); });
}

void Parse(std::string_view input) {
  const std::vector<std::string_view> parts = fuzz::Cut(input, 2);
  const bool config = parts[0].starts_with("{\"");
  const std::optional<ChatTemplate> chat =
      config ? ChatTemplate::FromTokenizerConfig(parts[0]) : ChatTemplate::Parse(parts[0]);
  if (chat.has_value()) RenderAll(*chat, parts[1]);
}

}  // namespace
}  // namespace sluice

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size) {
  sluice::fuzz::Try([&] { sluice::Parse(sluice::fuzz::AsText(data, size)); });
  return 0;
}
