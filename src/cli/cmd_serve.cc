#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <chrono>
#include <cstdio>
#include <memory>
#include <thread>

#include "base/machine.h"
#include "base/metrics.h"
#include "cli/commands.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"
#include "sched/engine_loop.h"
#include "server/server.h"

namespace sluice {
namespace {

struct ServeFlags {
  ModelFlags model;
  std::string host = "127.0.0.1";
  int port = 8000;
  std::vector<std::string> served_names;
  std::vector<std::string> api_keys;
};

// Blocks SIGINT and SIGTERM for every thread made from here on, so that one thread can wait for
// them.
sigset_t BlockStopSignals() {
  sigset_t signals;
  sigemptyset(&signals);
  sigaddset(&signals, SIGINT);
  sigaddset(&signals, SIGTERM);
  pthread_sigmask(SIG_BLOCK, &signals, nullptr);
  return signals;
}

void PrintWelcome(const ServeFlags& flags, const OpenedModel& model, const std::string& name,
                  int port, double seconds) {
  const std::string address = fmt::format("http://{}:{}", flags.host, port);
  fmt::print("{} ready in {:.2f} s\n", name, seconds);
  fmt::print("listening on {}\n", address);
  fmt::print(
      "try: curl {}/v1/completions -H 'Content-Type: application/json' -d '{{\"model\": "
      "\"{}\", \"prompt\": \"Once upon a time\", \"max_tokens\": 60}}'\n",
      address, name);
  if (!model.chat_template.has_value()) fmt::print("no chat template: chat is refused\n");
  std::fflush(stdout);
}

int Serve(const ServeFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  const sigset_t signals = BlockStopSignals();
  const OpenedModel model = OpenModel(flags.model);
  if (model.tokenizer == nullptr) {
    throw Error(ErrorCode::kNotFound, "'" + model.origin +
                                          "' has no tokenizer.json: name a folder that has one "
                                          "with --tokenizer");
  }
  const std::unique_ptr<ModelRunner> runner =
      LoadRunner(model, flags.model, ResolveRunnerOptions(model.spec, flags.model));
  const TraceRecording recording(model, flags.model, *runner);
  Metrics metrics;
  InProcessWorker worker(*runner);
  EngineLoop loop(worker, MakeStrategy(flags.model), ResolveEngineOptions(model, flags.model),
                  &metrics);

  const std::vector<std::string> names =
      flags.served_names.empty() ? std::vector{model.name} : flags.served_names;
  ServerOptions options;
  options.api_keys = flags.api_keys;
  options.version = SLUICE_VERSION;
  options.http.host = flags.host;
  options.http.port = flags.port;
  Server server(options,
                {.names = names,
                 .tokenizer = *model.tokenizer,
                 .chat_template = model.chat_template.has_value() ? &*model.chat_template : nullptr,
                 .generator = loop,
                 .metrics = metrics,
                 .max_model_len = runner->options().max_model_len,
                 .default_sampling = DefaultSampling(model),
                 .resident_bytes = [] { return ResidentBytes(); }});
  server.Start();
  const std::chrono::duration<double> ready = std::chrono::steady_clock::now() - start;
  PrintWelcome(flags, model, names.front(), server.port(), ready.count());

  int received = 0;
  sigwait(&signals, &received);
  spdlog::info("received {}, stopping", received == SIGINT ? "SIGINT" : "SIGTERM");
  server.Stop();
  server.Wait();
  loop.Stop();
  return 0;
}

}  // namespace

Command AddServe(CLI::App& app) {
  auto flags = std::make_shared<ServeFlags>();
  CLI::App* command = app.add_subcommand("serve", "Serve a model over HTTP, as OpenAI's API");
  AddModelFlags(*command, flags->model);
  const char* group = "Server";
  command->add_option("--host", flags->host, "Address to listen on")->group(group);
  command->add_option("--port", flags->port, "Port to listen on; 0 = any that is free")
      ->check(Quiet(CLI::Range(0, 65535)))
      ->group(group);
  command
      ->add_option("--served-model-name", flags->served_names,
                   "Names that requests may use for the model; default: the folder's")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->default_str("")
      ->group(group);
  command
      ->add_option("--api-key", flags->api_keys,
                   "Require this key as 'Authorization: Bearer KEY'; may be given several times")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->default_str("")
      ->group(group);
  return [flags] { return Serve(*flags); };
}

}  // namespace sluice
