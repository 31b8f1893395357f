#include <fmt/format.h>
#include <signal.h>
#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <atomic>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <future>
#include <memory>
#include <thread>

#include "base/error.h"
#include "base/metrics.h"
#include "cli/commands.h"
#include "cli/http_flags.h"
#include "cli/loaded_model.h"
#include "cli/model_flags.h"
#include "cli/served_worker.h"
#include "model/model_weights.h"
#include "sched/engine_loop.h"
#include "server/expert_load_metrics.h"
#include "server/server.h"

namespace sluice {
namespace {

struct ServeFlags {
  ModelFlags model;
  EngineFlags engine;
  HttpFlags http;
  std::vector<std::string> served_names;
  std::string worker_process = "auto";
  bool expert_load = false;
  double request_timeout = 0;  // seconds; 0 = none
};

// SIGINT and SIGTERM, taken by a thread of their own so that they are heard at any time: while the
// model loads they end the process at once, later they end the server.
class StopSignals {
 public:
  // To be made before any other thread, which then have the signals blocked, as has a worker
  // process: it ends when this one does.
  StopSignals() {
    sigset_t signals;
    sigemptyset(&signals);
    sigaddset(&signals, SIGINT);
    sigaddset(&signals, SIGTERM);
    pthread_sigmask(SIG_BLOCK, &signals, nullptr);
    std::thread([signals, state = state_] {
      int received = 0;
      sigwait(&signals, &received);
      if (!state->serving) std::_Exit(128 + received);
      state->received.set_value(received);
    }).detach();
  }

  // From here on a signal waits for Wait.
  void Defer() { state_->serving = true; }

  // Blocks until a signal comes; to be called once, after Defer.
  int Wait() { return state_->received.get_future().get(); }

 private:
  struct State {
    std::atomic<bool> serving = false;
    std::promise<int> received;
  };
  std::shared_ptr<State> state_ = std::make_shared<State>();
};

void PrintWelcome(const ServerOptions& options, const OpenedModel& model, const std::string& name,
                  int port, double seconds) {
  const HttpServerOptions& http = options.http;
  const bool ipv6 = http.host.find(':') != std::string::npos;
  const std::string host = ipv6 ? "[" + http.host + "]" : http.host;
  const std::string address =
      fmt::format("{}://{}:{}", http.tls != nullptr ? "https" : "http", host, port);
  fmt::print("{} ready in {:.2f} s\n", name, seconds);
  fmt::print("listening on {}\n", address);
  fmt::print(
      "try: curl {}/v1/completions{} -H 'Content-Type: application/json' -d '{{\"model\": "
      "\"{}\", \"prompt\": \"Once upon a time\", \"max_tokens\": 60}}'\n",
      address, options.api_keys.empty() ? "" : " -H 'Authorization: Bearer KEY'", name);
  if (!model.chat_template.has_value()) fmt::print("no chat template: chat is refused\n");
  std::fflush(stdout);
}

// What --expert-load counts in; null without it.
std::shared_ptr<ExpertLoad> OpenExpertLoad(const ServeFlags& flags, const OpenedModel& model) {
  if (!flags.expert_load) return nullptr;
  if (model.spec.moe.num_experts == 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "--expert-load: '" + model.name + "' is a dense model, it has no experts");
  }
  if (!flags.engine.router_trace.empty()) {
    throw Error(ErrorCode::kInvalidArgument,
                "--expert-load counts what --router-trace records: leave one of them out");
  }
  return std::make_shared<ExpertLoad>(model.spec.num_layers, model.spec.moe.num_experts);
}

int Serve(const ServeFlags& flags) {
  const auto start = std::chrono::steady_clock::now();
  StopSignals signals;
  const ServerOptions options = ServerOptionsFrom(flags.http);
  const OpenedModel model = OpenModel(flags.model);
  if (model.tokenizer == nullptr) {
    throw Error(ErrorCode::kNotFound, "'" + model.origin +
                                          "' has no tokenizer.json: name a folder that has one "
                                          "with --tokenizer");
  }
  const std::unique_ptr<Timeline> timeline = OpenTimeline(flags.engine.timeline);
  const std::shared_ptr<ExpertLoad> expert_load = OpenExpertLoad(flags, model);
  const ServedWorker served = StartWorker(model, flags.model, flags.engine, flags.worker_process,
                                          expert_load.get(), timeline.get());
  Metrics metrics;
  if (expert_load != nullptr) {
    metrics.Add(
        std::make_shared<ExpertLoadMetrics>(expert_load, MoeLayers(model.spec), model.name));
  }
  EngineOptions engine = ResolveEngineOptions(model, flags.engine, timeline.get());
  engine.request_timeout =
      std::chrono::milliseconds(static_cast<int64_t>(flags.request_timeout * 1000));
  EngineLoop loop(*served.worker, MakeStrategy(flags.engine), engine, &metrics);

  const std::vector<std::string> names =
      flags.served_names.empty() ? std::vector{model.name} : flags.served_names;
  const WorkerInfo info = served.worker->Info();
  const int max_model_len = std::min(info.max_model_len, info.num_pages * info.page_size);
  if (max_model_len < info.max_model_len) {
    spdlog::warn(
        "the KV cache holds {} positions: that is the context, not {}; raise "
        "--kv-cache-memory for more",
        max_model_len, info.max_model_len);
  }
  Server server(options,
                {.names = names,
                 .tokenizer = *model.tokenizer,
                 .chat_template = model.chat_template.has_value() ? &*model.chat_template : nullptr,
                 .generator = loop,
                 .metrics = metrics,
                 .max_model_len = max_model_len,
                 .default_sampling = DefaultSampling(model),
                 .resident_bytes = served.resident_bytes,
                 .timeline = timeline.get()});
  signals.Defer();
  server.Start();
  const std::chrono::duration<double> ready = std::chrono::steady_clock::now() - start;
  PrintWelcome(options, model, names.front(), server.port(), ready.count());

  const int received = signals.Wait();
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
  AddEngineFlags(*command, flags->engine);
  const char* group = "Server";
  AddHttpFlags(*command, flags->http);
  command
      ->add_option("--served-model-name", flags->served_names,
                   "Names that requests may use for the model; default: the folder's")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->default_str("")
      ->group(group);
  command
      ->add_option("--worker-process", flags->worker_process,
                   "Run the model in a process of its own, which is started again when it is lost: "
                   "on, off, or auto: on a GPU, unless --router-trace or --timeline is given")
      ->check(Quiet(CLI::IsMember({"auto", "on", "off"})))
      ->group(group);
  command
      ->add_option("--request-timeout", flags->request_timeout,
                   "Seconds that a request may take from its arrival to its last token, whatever "
                   "its own 'timeout' says; it is then answered with 504; 0 = no bound")
      ->check(Quiet(CLI::Range(0.0, 1e6)))
      ->group(group);
  command
      ->add_flag("--expert-load", flags->expert_load,
                 "Count the tokens of each expert of each layer, for /metrics and `sluice study "
                 "load-balance --server`; on a GPU each step then copies its routing to the host")
      ->group(group);
  return [flags] { return Serve(*flags); };
}

}  // namespace sluice
