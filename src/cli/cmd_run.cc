#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <cstdio>
#include <iostream>
#include <iterator>
#include <memory>

#include "cli/commands.h"
#include "cli/text_engine.h"

namespace sluice {
namespace {

struct RunFlags {
  ModelFlags model;
  EngineFlags engine;
  SamplingFlags sampling;
  std::optional<std::string> prompt;
  bool json = false;
};

int Run(const RunFlags& flags) {
  TextEngine engine(flags.model, flags.engine);
  const std::string prompt = flags.prompt.has_value()
                                 ? *flags.prompt
                                 : std::string(std::istreambuf_iterator<char>(std::cin), {});
  const Tokenizer& tokenizer = *engine.model().tokenizer;
  const std::vector<TokenId> tokens = tokenizer.WrapInSpecial(tokenizer.Encode(prompt));
  const SamplingParams params = ResolveSampling(engine.model(), flags.model, flags.sampling);
  const TextEngine::Answer answer = engine.Generate(tokens, params, [&](std::string_view text) {
    if (flags.json) return;
    fmt::print("{}", text);
    std::fflush(stdout);
  });
  if (flags.json) {
    const boost::json::object report{{"model", engine.model().name},
                                     {"text", answer.text},
                                     {"finish_reason", FinishReasonName(answer.finish)},
                                     {"prompt_tokens", answer.prompt_tokens},
                                     {"completion_tokens", answer.completion_tokens},
                                     {"ttft_ms", answer.ttft_ms},
                                     {"latency_ms", answer.latency_ms}};
    fmt::print("{}\n", boost::json::serialize(report));
  } else {
    fmt::print("\n");
  }
  return 0;
}

}  // namespace

Command AddRun(CLI::App& app) {
  auto flags = std::make_shared<RunFlags>();
  CLI::App* command = app.add_subcommand("run", "Continue one prompt and print the text");
  AddModelFlags(*command, flags->model);
  AddEngineFlags(*command, flags->engine);
  AddSamplingFlags(*command, flags->sampling);
  command->add_option("-p,--prompt", flags->prompt, "The prompt; none = read standard input");
  command->add_flag("--json", flags->json, "Print text, counts and times as JSON at the end");
  return [flags] { return Run(*flags); };
}

}  // namespace sluice
