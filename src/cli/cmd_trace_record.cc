#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <memory>
#include <sstream>
#include <string>
#include <vector>

#include "base/error.h"
#include "cli/commands.h"
#include "cli/text_engine.h"

namespace sluice {
namespace {

struct RecordFlags {
  ModelFlags model;
  EngineFlags engine;
  SamplingFlags sampling;
  std::vector<std::string> prompts;
  std::string text;
  int prompt_tokens = 256;
  int num_prompts = 16;
};

std::string ReadAll(std::istream& stream) {
  return {std::istreambuf_iterator<char>(stream), {}};
}

std::string ReadText(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::string text = ReadAll(file);
  if (!file.is_open() || text.empty()) {
    throw Error(ErrorCode::kNotFound, "cannot read the text '" + path + "'");
  }
  return text;
}

// Pieces of a text, one after the other, so many tokens each; the last may have fewer.
std::vector<std::vector<TokenId>> Cut(const std::vector<TokenId>& tokens, int piece, int most) {
  std::vector<std::vector<TokenId>> pieces;
  for (auto begin = tokens.begin(); begin != tokens.end() && std::ssize(pieces) < most;) {
    const auto end = begin + std::min<std::ptrdiff_t>(piece, tokens.end() - begin);
    pieces.emplace_back(begin, end);
    begin = end;
  }
  return pieces;
}

std::vector<std::vector<TokenId>> Prompts(const RecordFlags& flags, const Tokenizer& tokenizer) {
  if (!flags.text.empty()) {
    return Cut(tokenizer.Encode(ReadText(flags.text)), flags.prompt_tokens, flags.num_prompts);
  }
  std::vector<std::vector<TokenId>> prompts;
  for (const std::string& prompt : flags.prompts) prompts.push_back(tokenizer.Encode(prompt));
  if (prompts.empty()) prompts.push_back(tokenizer.Encode(ReadAll(std::cin)));
  return prompts;
}

int RunRecord(const RecordFlags& flags) {
  int64_t read = 0;
  int64_t made = 0;
  {
    TextEngine engine(flags.model, flags.engine);
    const Tokenizer& tokenizer = *engine.model().tokenizer;
    const SamplingParams params = ResolveSampling(engine.model(), flags.model, flags.sampling);
    for (std::vector<TokenId>& prompt : Prompts(flags, tokenizer)) {
      const TextEngine::Answer answer =
          engine.Generate(tokenizer.WrapInSpecial(std::move(prompt)), params, [](auto) {});
      read += answer.prompt_tokens;
      made += answer.completion_tokens;
    }
  }  // the trace is whole when the engine has gone
  fmt::print("{}: {} tokens read, {} made, {} bytes\n", flags.engine.router_trace, read, made,
             std::filesystem::file_size(flags.engine.router_trace));
  return 0;
}

}  // namespace

Command AddTraceRecord(CLI::App& app) {
  auto flags = std::make_shared<RecordFlags>();
  flags->sampling.max_tokens = 64;
  CLI::App* command =
      app.add_subcommand("record", "Run a model over prompts and record which experts it chose");
  AddModelFlags(*command, flags->model);
  AddBatchFlags(*command, flags->engine);
  AddSamplingFlags(*command, flags->sampling);
  const char* group = "Trace";
  command->add_option("-o,--out", flags->engine.router_trace, "The trace to write")
      ->required()
      ->group(group);
  auto* prompts = command
                      ->add_option("-p,--prompt", flags->prompts,
                                   "A prompt; may be given several times; none and no --text: read "
                                   "standard input")
                      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
                      ->default_str("")
                      ->group(group);
  command->add_option("--text", flags->text, "A file to cut prompts from")
      ->excludes(prompts)
      ->group(group);
  command->add_option("--prompt-tokens", flags->prompt_tokens, "Tokens of a prompt from --text")
      ->check(Quiet(CLI::Range(1, 1 << 20)))
      ->group(group);
  command->add_option("--num-prompts", flags->num_prompts, "Prompts to take from --text at most")
      ->check(Quiet(CLI::Range(1, 1 << 20)))
      ->group(group);
  return [flags] { return RunRecord(*flags); };
}

}  // namespace sluice
