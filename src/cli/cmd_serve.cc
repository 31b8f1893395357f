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
#include "cli/offload_choice.h"
#include "cli/served_worker.h"
#include "model/model_weights.h"
#include "sched/engine_loop.h"
#include "server/expert_imbalance.h"
#include "server/expert_load_metrics.h"
#include "server/offload_metrics.h"
#include "server/server.h"

namespace sluice {
namespace {

// How often a draining server is looked at.
constexpr std::chrono::milliseconds kDrainLook{5};
// For the step that runs when the time to end is over. One that hangs would take for ever.
constexpr std::chrono::milliseconds kLastStep{5000};
// For the ends of answers that were cut short to reach their clients.
constexpr std::chrono::milliseconds kFlush{2000};
// A twelfth of the window of the experts' imbalance.
constexpr std::chrono::milliseconds kImbalancePeriod{5000};

struct ServeFlags {
  ModelFlags model;
  EngineFlags engine;
  HttpFlags http;
  std::vector<std::string> served_names;
  std::string worker_process = "auto";
  FitFlags fit;
  bool expert_load = false;
  double queue_timeout_s = 0.0;    // 0 = none
  double request_timeout_s = 0.0;  // 0 = none
  // What may wait: two thousand clients that come at once, each with a prompt of two thousand
  // tokens. Their ids take 16 MB, and a machine that is kept busy gets to them within the minutes
  // that clients wait.
  QueueLimits queue{.max_requests = 2048, .max_tokens = 1 << 22};
  double shutdown_timeout_s = 30.0;
  // The step of a large model on a small machine takes tens of seconds; nothing that works takes
  // minutes.
  double step_timeout_s = 300.0;
  bool log_requests = false;
};

// SIGINT and SIGTERM, taken by a thread of their own so that they are heard at any time: while the
// model loads they end the process at once; later the first ends the server, and the next one the
// process, whatever the server still has to do.
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
      sigwait(&signals, &received);
      std::_Exit(128 + received);
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

// What experts' tokens are counted in; null where they are not: without --expert-load on a GPU,
// where that costs a copy a step, with a router trace, which takes the observer's place, and in
// models that have none.
std::shared_ptr<ExpertLoad> OpenExpertLoad(const ServeFlags& flags, const OpenedModel& model) {
  const bool costs_nothing = model.spec.moe.num_experts > 0 && flags.engine.router_trace.empty() &&
                             !ChooseCuda(flags.model).has_value();
  if (!flags.expert_load && !costs_nothing) return nullptr;
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

void AddExpertMetrics(const ServeFlags& flags, const OpenedModel& model,
                      const std::shared_ptr<ExpertLoad>& load, Metrics& metrics) {
  if (load == nullptr) return;
  const std::vector<int> layers = MoeLayers(model.spec);
  metrics.Add(std::make_shared<ExpertImbalance>(load, layers, model.name, kImbalancePeriod));
  if (!flags.expert_load) return;
  metrics.Add(std::make_shared<ExpertLoadMetrics>(load, layers, model.name));
}

// What offloading does, for /metrics; null where every expert is to have a slot.
std::shared_ptr<OffloadCounters> OpenOffloadCounters(const ServeFlags& flags,
                                                     const OpenedModel& model) {
  if (!flags.model.offload.InUse() || model.spec.NumMoeLayers() == 0) return nullptr;
  return std::make_shared<OffloadCounters>(model.spec.NumMoeLayers());
}

EngineOptions EngineOptionsFrom(const ServeFlags& flags, const OpenedModel& model,
                                Timeline* timeline) {
  EngineOptions options = ResolveEngineOptions(model, flags.engine, timeline);
  options.queue = flags.queue;
  options.queue_timeout = Milliseconds(flags.queue_timeout_s);
  options.request_timeout = Milliseconds(flags.request_timeout_s);
  options.step_timeout = Milliseconds(flags.step_timeout_s);
  return options;
}

// The positions that a request may have: the model's context, or what all KV pages hold.
int ContextOf(const WorkerInfo& info) {
  const int positions = info.num_pages * info.page_size;
  if (positions >= info.max_model_len) return info.max_model_len;
  spdlog::warn(
      "the KV cache holds {} positions: that is the context, not {}; raise --kv-cache-memory for "
      "more",
      positions, info.max_model_len);
  return positions;
}

// Ends a server when it goes, before what the server refers to does.
class ServerEnd {
 public:
  explicit ServerEnd(Server& server) : server_(server) {}
  ~ServerEnd() {
    server_.Stop();
    server_.Wait();
  }
  ServerEnd(const ServerEnd&) = delete;
  ServerEnd& operator=(const ServerEnd&) = delete;

 private:
  Server& server_;
};

// Waits until no request is being answered; false when the time is over before.
bool AwaitAnswered(const Server& server, std::chrono::milliseconds most) {
  const auto until = std::chrono::steady_clock::now() + most;
  while (server.answering() > 0) {
    if (std::chrono::steady_clock::now() >= until) return false;
    std::this_thread::sleep_for(kDrainLook);
  }
  return true;
}

// Lets what was taken come to its end, and ends with an error what takes too long.
void Drain(Server& server, EngineLoop& loop, std::chrono::milliseconds timeout) {
  server.Drain();
  spdlog::info("draining: {} requests on their way, {:.1f} s to end", server.answering(),
               std::chrono::duration<double>(timeout).count());
  if (!AwaitAnswered(server, timeout)) {
    spdlog::warn("the time to end is over: {} requests are cut short", server.answering());
  }
  if (!loop.StopWithin(kLastStep)) {
    spdlog::critical("a step does not end: the server ends without it");
    std::_Exit(EXIT_FAILURE);
  }
  AwaitAnswered(server, kFlush);
}

int Serve(ServeFlags flags) {
  const auto start = std::chrono::steady_clock::now();
  StopSignals signals;
  ServerOptions options = ServerOptionsFrom(flags.http);
  options.log_prompts = flags.log_requests;
  Server server(options);
  server.Start();
  spdlog::info("loading the model; port {} answers 503 until it is there", server.port());
  const OpenedModel model = OpenModel(flags.model);
  if (model.tokenizer == nullptr) {
    throw Error(ErrorCode::kNotFound, "'" + model.origin +
                                          "' has no tokenizer.json: name a folder that has one "
                                          "with --tokenizer");
  }
  FitToMachine(model, flags.fit, flags.model, flags.engine);
  const std::unique_ptr<Timeline> timeline = OpenTimeline(flags.engine.timeline);
  const std::shared_ptr<ExpertLoad> expert_load = OpenExpertLoad(flags, model);
  const std::shared_ptr<OffloadCounters> offload = OpenOffloadCounters(flags, model);
  const ServedWorker served = StartWorker(
      model, flags.model, flags.engine, flags.worker_process,
      {.expert_load = expert_load.get(), .offload = offload.get(), .timeline = timeline.get()});
  Metrics metrics;
  AddExpertMetrics(flags, model, expert_load, metrics);
  if (offload != nullptr) {
    metrics.Add(std::make_shared<OffloadMetrics>(offload, MoeLayers(model.spec), model.name));
  }
  EngineLoop loop(*served.worker, MakeStrategy(flags.engine),
                  EngineOptionsFrom(flags, model, timeline.get()), &metrics);

  const std::vector<std::string> names =
      flags.served_names.empty() ? std::vector{model.name} : flags.served_names;
  const ServerEnd end(server);
  signals.Defer();
  server.Open({.names = names,
               .tokenizer = *model.tokenizer,
               .chat_template = model.chat_template.has_value() ? &*model.chat_template : nullptr,
               .generator = loop,
               .metrics = metrics,
               .max_model_len = ContextOf(served.worker->Info()),
               .default_sampling = DefaultSampling(model),
               .resident_bytes = served.resident_bytes,
               .timeline = timeline.get()});
  const std::chrono::duration<double> ready = std::chrono::steady_clock::now() - start;
  PrintWelcome(options, model, names.front(), server.port(), ready.count());

  const int received = signals.Wait();
  spdlog::info("received {}, stopping", received == SIGINT ? "SIGINT" : "SIGTERM");
  Drain(server, loop, Milliseconds(flags.shutdown_timeout_s));
  return 0;
}

void AddQueueFlags(CLI::App& command, ServeFlags& flags) {
  const char* group = "Load";
  command
      .add_option("--max-num-queued-reqs", flags.queue.max_requests,
                  "Sequences that may wait for a place in the batch: further requests are refused "
                  "with 429 and Retry-After; 0 = no bound")
      ->check(Quiet(CLI::NonNegativeNumber))
      ->group(group);
  command
      .add_option("--max-num-queued-tokens", flags.queue.max_tokens,
                  "Tokens of prompts that may wait to be computed, likewise; about the time to the "
                  "first token that is borne, times the tokens prefilled a second")
      ->check(Quiet(CLI::NonNegativeNumber))
      ->group(group);
  const auto seconds = [&](const char* name, double& value, const char* description) {
    command.add_option(name, value, description)->check(Quiet(CLI::Range(0.0, 1e6)))->group(group);
  };
  seconds("--queue-timeout", flags.queue_timeout_s,
          "Seconds that a request may wait for its first step; it is then answered with 504; 0 = "
          "no bound");
  seconds("--request-timeout", flags.request_timeout_s,
          "Seconds that a request may take from its arrival to its last token, whatever its own "
          "'timeout' says; it is then answered with 504; 0 = no bound");
  seconds("--shutdown-timeout", flags.shutdown_timeout_s,
          "Seconds that requests have to end after SIGTERM or SIGINT, while new ones are refused; "
          "a second signal ends the process at once");
  seconds("--step-timeout", flags.step_timeout_s,
          "Seconds after which a step counts as stuck: /health is 503, until it returns; 0 = "
          "never");
  command.add_flag("--enable-log-requests", flags.log_requests, "Log the prompts of requests too")
      ->group(group);
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
      ->add_flag("--expert-load", flags->expert_load,
                 "Show the tokens of each expert of each layer in /metrics, for `sluice study "
                 "load-balance --server`, and on a GPU the layers' imbalance too: each step there "
                 "then copies its routing to the host")
      ->group(group);
  command
      ->add_option(
          "--hardware", flags->fit.hardware,
          "Where experts do not fit: a profile of this machine, by 'sluice profile', that "
          "says how many sequences to run where --max-num-seqs does not; default: measured "
          "at the start")
      ->group(group);
  command
      ->add_option(
          "--max-step-ms", flags->fit.max_step_ms,
          "Where experts do not fit: how long a step may take by those figures, so that no stream "
          "stands still for longer, with as many sequences at once as that allows and prompts in "
          "more --prefill-layer-groups; 0 = as many tokens a second as can be")
      ->check(Quiet(CLI::NonNegativeNumber))
      ->group(group);
  AddQueueFlags(*command, *flags);
  const CLI::Option* max_num_seqs = command->get_option("--max-num-seqs");
  return [flags, max_num_seqs] {
    flags->fit.seqs_given = max_num_seqs->count() > 0;
    return Serve(*flags);
  };
}

}  // namespace sluice
