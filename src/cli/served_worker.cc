#include "cli/served_worker.h"

#include <spdlog/spdlog.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <optional>
#include <tuple>
#include <utility>

#include "base/error.h"
#include "base/log.h"
#include "base/machine.h"
#include "base/wire.h"
#include "cli/commands.h"
#include "cli/http_flags.h"
#include "engine/worker_process.h"

namespace sluice {

inline auto Fields(OffloadFlags& flags) {
  auto& [expert_slots, vram_budget, ram_budget, policy, eviction, prefetch, ready_first,
         cpu_experts, batch_groups, prefill_layer_groups, link_bandwidth, link_latency_us] = flags;
  return std::tie(expert_slots, vram_budget, ram_budget, policy, eviction, prefetch, ready_first,
                  cpu_experts, batch_groups, prefill_layer_groups, link_bandwidth, link_latency_us);
}

inline auto Fields(ModelFlags& flags) {
  auto& [model, revision, tokenizer, topology, load_format, hf_overrides, dtype, kv_cache_dtype,
         device, gpu_memory_utilization, routing, cpu_tier, seed, threads, max_model_len,
         block_size, offload, reference_ops, batch_invariant, blocking_launches] = flags;
  return std::tie(model, revision, tokenizer, topology, load_format, hf_overrides, dtype,
                  kv_cache_dtype, device, gpu_memory_utilization, routing, cpu_tier, seed, threads,
                  max_model_len, block_size, offload, reference_ops, batch_invariant,
                  blocking_launches);
}

inline auto Fields(EngineFlags& flags) {
  auto& [max_num_seqs, max_num_batched_tokens, enable_prefix_caching, kv_cache_memory, swap_space,
         router_trace, speculative_config, timeline] = flags;
  return std::tie(max_num_seqs, max_num_batched_tokens, enable_prefix_caching, kv_cache_memory,
                  swap_space, router_trace, speculative_config, timeline);
}

namespace {

// What a worker process is to load.
struct WorkerOrder {
  ModelFlags model;
  EngineFlags engine;
  int num_pages = 0;        // of the worker that it replaces; 0 = as the flags say
  int num_host_pages = 0;   // likewise
  int expert_load_fd = -1;  // what ExpertLoad shares, inherited; -1 = experts are not counted
  int offload_fd = -1;      // likewise of OffloadCounters
};

auto Fields(WorkerOrder& order) {
  auto& [model, engine, num_pages, num_host_pages, expert_load_fd, offload_fd] = order;
  return std::tie(model, engine, num_pages, num_host_pages, expert_load_fd, offload_fd);
}

// A worker in this process, with the runner it works on.
class LocalWorker : public Worker {
 public:
  LocalWorker(const OpenedModel& model, const ModelFlags& flags, const EngineFlags& engine,
              const RunnerOptions& options, OffloadCounters* offload)
      : offload_(offload),
        runner_(LoadRunner(model, flags, options)),
        recording_(model, flags, engine, *runner_),
        worker_(*runner_) {
    // The prefix cache comes to fill them all; taken now, they are no growth then.
    runner_->TakePages();
    if (runner_->offload_stats() == nullptr) offload_ = nullptr;
    if (offload_ == nullptr) return;
    const RunnerOptions& placed = runner_->options();
    offload_->SetSlots(placed.expert_slots, placed.offload.host_slots);
  }

  WorkerInfo Info() const override { return worker_.Info(); }
  void Submit(const StepPlan& plan) override { worker_.Submit(plan); }
  StepResult Collect() override {
    StepResult result = worker_.Collect();
    if (offload_ != nullptr) {
      const LinkUse link = runner_->link() == nullptr ? LinkUse{} : runner_->link()->Use();
      offload_->Publish(*runner_->offload_stats(), link);
    }
    return result;
  }
  bool Ready() override { return worker_.Ready(); }

 private:
  OffloadCounters* offload_;  // null where nobody asks or every expert has a slot
  const std::unique_ptr<ModelRunner> runner_;
  const TraceRecording recording_;
  InProcessWorker worker_;
};

bool WantsProcess(const ModelFlags& flags, const EngineFlags& engine, const std::string& asked) {
  const char* flag = !engine.router_trace.empty() ? "--router-trace" : "--timeline";
  const bool records = !engine.router_trace.empty() || !engine.timeline.empty();
  if (asked == "on" && records) {
    throw Error(ErrorCode::kInvalidArgument,
                std::string(flag) +
                    " is written by the server's own process: leave --worker-process on out");
  }
  return asked == "on" || (asked == "auto" && !records && ChooseCuda(flags).has_value());
}

// With the threads that the server's connections leave.
RunnerOptions ServedRunnerOptions(const ModelSpec& spec, const ModelFlags& flags,
                                  const EngineFlags& engine) {
  RunnerOptions options = ResolveRunnerOptions(spec, flags, engine);
  if (flags.threads == 0) {
    options.num_threads = std::min(options.num_threads, AvailableCores() - CoresForConnections());
  }
  return options;
}

int Work(int socket, int memory) {
  std::optional<OpenedModel> model;  // this and the next two outlive the worker
  std::optional<ExpertLoad> expert_load;
  std::optional<OffloadCounters> offload;
  return ServeWorker(WorkerChannel(socket, memory), [&](WorkerChannel& channel) {
    const auto order = channel.Receive<WorkerOrder>();
    model.emplace(OpenModel(order.model));
    RunnerOptions options = ServedRunnerOptions(model->spec, order.model, order.engine);
    if (order.num_pages > 0) {
      options.num_pages = order.num_pages;
      options.num_host_pages = order.num_host_pages;
    }
    if (order.expert_load_fd >= 0) {
      const ModelSpec& spec = model->spec;
      options.observer =
          &expert_load.emplace(spec.num_layers, spec.moe.num_experts, order.expert_load_fd);
    }
    if (order.offload_fd >= 0) offload.emplace(model->spec.NumMoeLayers(), order.offload_fd);
    return std::make_unique<LocalWorker>(*model, order.model, order.engine, options,
                                         offload ? &*offload : nullptr);
  });
}

}  // namespace

ServedWorker StartWorker(const OpenedModel& model, const ModelFlags& flags,
                         const EngineFlags& engine, const std::string& worker_process,
                         const WatchedWork& watched) {
  if (!WantsProcess(flags, engine, worker_process)) {
    RunnerOptions options = ServedRunnerOptions(model.spec, flags, engine);
    options.timeline = watched.timeline;
    options.observer = watched.expert_load;
    return {.worker = std::make_unique<LocalWorker>(model, flags, engine, options, watched.offload),
            .resident_bytes = [] { return ResidentBytes(); }};
  }
  const spdlog::string_view_t level = spdlog::level::to_string_view(spdlog::get_level());
  auto worker = std::make_unique<WorkerProcess>(WorkerProcess::Options{
      .command = {"/proc/self/exe",
                  "--log-level",
                  {level.data(), level.size()},
                  "--log-format",
                  JsonEventLogger() != nullptr ? "json" : "text",
                  kWorkerCommand},
      .order = [flags, engine, watched](WorkerChannel& channel, const WorkerInfo* replaced) {
        WorkerOrder order{.model = flags, .engine = engine};
        if (replaced != nullptr) {
          order.num_pages = replaced->num_pages;
          order.num_host_pages = replaced->num_host_pages;
        }
        if (watched.expert_load != nullptr)
          order.expert_load_fd = watched.expert_load->descriptor();
        if (watched.offload != nullptr) order.offload_fd = watched.offload->descriptor();
        channel.Send(order);
      }});
  const WorkerProcess* process = worker.get();
  return {.worker = std::move(worker), .resident_bytes = [process] {
            return ResidentBytes() + ResidentBytes(process->process());
          }};
}

Command AddWorker(CLI::App& app) {
  struct Numbers {
    int socket = -1;
    int memory = -1;
  };
  auto numbers = std::make_shared<Numbers>();
  CLI::App* command = app.add_subcommand(kWorkerCommand, "What a server's worker process runs");
  command->group("");  // not in --help
  command->add_option("socket", numbers->socket)->required();
  command->add_option("memory", numbers->memory)->required();
  return [numbers] { return Work(numbers->socket, numbers->memory); };
}

}  // namespace sluice
