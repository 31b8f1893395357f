#include <fmt/format.h>
#include <unistd.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cstdio>
#include <iostream>
#include <memory>
#include <string>

#include "cli/commands.h"
#include "cli/text_engine.h"

namespace sluice {
namespace {

struct ChatFlags {
  ModelFlags model;
  EngineFlags engine;
  SamplingFlags sampling;
  std::string system;
};

// The prompt of a conversation. Forgets its oldest exchanges while it fills more than half of the
// context: the other half is for the answer.
std::vector<TokenId> FitPrompt(const TextEngine& engine, std::vector<ChatMessage>& messages) {
  while (true) {
    std::vector<TokenId> prompt = engine.model().tokenizer->Encode(
        engine.model().chat_template->Render(messages, {.add_generation_prompt = true}));
    const auto oldest = std::find_if(messages.begin(), messages.end(),
                                     [](const ChatMessage& m) { return m.role != "system"; });
    const bool can_forget = std::distance(oldest, messages.end()) > 2;
    if (static_cast<int>(prompt.size()) <= engine.max_model_len() / 2 || !can_forget) return prompt;
    messages.erase(oldest, oldest + 2);
  }
}

int Chat(const ChatFlags& flags) {
  TextEngine engine(flags.model, flags.engine);
  const OpenedModel& model = engine.model();
  if (!model.chat_template.has_value()) {
    throw Error(ErrorCode::kUnsupported, "'" + model.name + "' has no chat template: use 'run'");
  }
  const SamplingParams params = ResolveSampling(model, flags.model, flags.sampling);
  std::vector<ChatMessage> messages;
  if (!flags.system.empty()) messages.push_back({.role = "system", .content = flags.system});
  const bool terminal = isatty(STDIN_FILENO) != 0;
  if (terminal) fmt::print("{}: an empty line or Ctrl-D ends the chat\n", model.name);

  std::string line;
  while (true) {
    if (terminal) {
      fmt::print("> ");
      std::fflush(stdout);
    }
    if (!std::getline(std::cin, line) || line.empty()) break;
    messages.push_back({.role = "user", .content = line});
    const TextEngine::Answer answer =
        engine.Generate(FitPrompt(engine, messages), params, [](std::string_view text) {
          fmt::print("{}", text);
          std::fflush(stdout);
        });
    fmt::print("\n");
    messages.push_back({.role = "assistant", .content = answer.text});
  }
  return 0;
}

}  // namespace

Command AddChat(CLI::App& app) {
  auto flags = std::make_shared<ChatFlags>();
  CLI::App* command =
      app.add_subcommand("chat", "Talk to a model in the terminal, or line by line from a pipe");
  AddModelFlags(*command, flags->model);
  AddEngineFlags(*command, flags->engine);
  AddSamplingFlags(*command, flags->sampling);
  command->add_option("--system", flags->system, "System message to begin with");
  return [flags] { return Chat(*flags); };
}

}  // namespace sluice
