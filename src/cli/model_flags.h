#pragma once

#include <cstdint>
#include <optional>
#include <string>

#include "cli/offload_flags.h"

namespace CLI {
class App;
class Validator;
}  // namespace CLI

namespace sluice {

// The flags that say which model runs and how, common to every command that loads one. Names and
// meanings are vLLM's where it has them.
struct ModelFlags {
  std::string model;     // a checkpoint's folder or ORG/NAME; empty = the embedded model
  std::string revision;  // of a model named as ORG/NAME; empty = main
  std::string tokenizer;
  std::string topology;
  std::string load_format = "auto";
  std::string hf_overrides;
  std::string dtype = "auto";
  std::string kv_cache_dtype = "auto";
  std::string device = "auto";
  double gpu_memory_utilization = 0.9;
  std::string routing = "model";
  std::string cpu_tier = "auto";
  std::optional<uint64_t>
      seed;  // of random weights and of sampling that gives none; none = 0, random
  int threads = 0;
  int max_model_len = 0;
  int block_size = 16;
  OffloadFlags offload;
  bool reference_ops = false;
  bool batch_invariant = false;
  bool blocking_launches = false;
};

// The flags that say how requests share the engine: of the commands that answer prompts.
struct EngineFlags {
  int max_num_seqs = 64;
  int max_num_batched_tokens = 512;
  bool enable_prefix_caching = true;
  std::string kv_cache_memory;  // "4GB"; empty = what the sequences need, within a bound
  double swap_space = -1;       // GiB of host memory; negative = 4 on a GPU, else none
  std::string router_trace;
  std::string speculative_config;
  std::string timeline;
};

// The same check without its own words in --help: the flag's description says what it takes.
CLI::Validator Quiet(CLI::Validator validator);

// Declare the flags on a command.
// The flags that say which model, without how it runs: model, revision, topology, hf-overrides.
void AddSpecFlags(CLI::App& app, ModelFlags& flags);
// Those and every other of ModelFlags.
void AddModelFlags(CLI::App& app, ModelFlags& flags);
void AddEngineFlags(CLI::App& app, EngineFlags& flags);
void AddTimelineFlag(CLI::App& app, std::string& file);
// Those of the engine's flags that say how much memory it takes.
void AddBatchFlags(CLI::App& app, EngineFlags& flags);

// "12GB", "512MiB", "1000000": bytes. Throws Error(kInvalidArgument) for anything else.
uint64_t ParseBytes(const std::string& text);

}  // namespace sluice
