#include "cli/model_flags.h"

#include <CLI/CLI.hpp>
#include <algorithm>
#include <cmath>

#include "base/error.h"

namespace sluice {
namespace {

constexpr char kModelGroup[] = "Model";

// What is wrong with the value of --device; empty where nothing is.
std::string DeviceProblem(const std::string& text) {
  const std::string digits = text.rfind("cuda:", 0) == 0 ? text.substr(5) : "";
  const bool ordinal = !digits.empty() && digits.size() <= 3 &&
                       digits.find_first_not_of("0123456789") == std::string::npos;
  const bool known = text == "auto" || text == "cpu" || text == "cuda" || ordinal;
  return known ? "" : "'" + text + "' is no device: expected auto, cpu, cuda or cuda:N";
}

}  // namespace

CLI::Validator Quiet(CLI::Validator validator) {
  validator.description("");
  return validator;
}

void AddSpecFlags(CLI::App& app, ModelFlags& flags) {
  app.add_option("model", flags.model,
                 "Folder of a Hugging Face checkpoint (config.json, *.safetensors, "
                 "tokenizer.json), or ORG/NAME of one in MODEL_DIR or the hub's cache (see "
                 "'sluice pull'); none = the embedded storyteller");
  const char* group = kModelGroup;
  app.add_option("--revision", flags.revision,
                 "Branch, tag or commit of a model named as ORG/NAME; default: main")
      ->group(group);
  app.add_option("--topology", flags.topology,
                 "YAML file with config.json's keys: run that model with random weights")
      ->group(group);
  app.add_option("--hf-overrides", flags.hf_overrides,
                 "JSON object merged into config.json, as '{\"num_hidden_layers\": 2}'")
      ->group(group);
}

void AddModelFlags(CLI::App& app, ModelFlags& flags) {
  AddSpecFlags(app, flags);
  const char* group = kModelGroup;
  app.add_option("--tokenizer", flags.tokenizer,
                 "Folder or ORG/NAME of the tokenizer, where it is not the model's")
      ->group(group);
  app.add_option("--load-format", flags.load_format,
                 "auto, safetensors, or dummy: seeded random weights for the config")
      ->check(Quiet(CLI::IsMember({"auto", "safetensors", "dummy"})))
      ->group(group);
  app.add_option("--dtype", flags.dtype, "Weights: auto (as stored), float32, bfloat16 or float16")
      ->check(Quiet(CLI::IsMember(
          {"auto", "float32", "f32", "float", "bfloat16", "bf16", "float16", "f16", "half"})))
      ->group(group);
  app.add_option(
         "--kv-cache-dtype", flags.kv_cache_dtype,
         "Keys and values: float32, bfloat16, or auto: bfloat16 for bf16 weights, else float32")
      ->check(Quiet(CLI::IsMember({"auto", "float32", "f32", "bfloat16", "bf16"})))
      ->group(group);
  app.add_option("--seed", flags.seed, "Seed of random weights, and of sampling in run and chat")
      ->group(group);
  app.add_option("--routing", flags.routing,
                 "Where experts come from: model, replay:FILE, uniform[:seed], zipf:S[:seed], "
                 "skewed:F[:seed], markov:P[:seed], drifting:N[:seed]")
      ->group(group);

  const char* machine = "Machine";
  app.add_option("--device", flags.device,
                 "cpu, cuda, cuda:N, or auto: the first CUDA device where there is one")
      ->check(CLI::Validator(DeviceProblem, ""))
      ->group(machine);
  app.add_option("--gpu-memory-utilization", flags.gpu_memory_utilization,
                 "Share of the GPU's memory that this process may take")
      ->check(Quiet(CLI::Range(0.01, 1.0)))
      ->group(machine);
  app.add_option(
         "--threads", flags.threads,
         "Threads that compute; 0 = one for every core allowed, but for two of eight or more in "
         "serve, and for one of four with --cpu-experts beside a GPU")
      ->check(Quiet(CLI::Range(0, 1024)))
      ->group(machine);
  app.add_option("--cpu-tier", flags.cpu_tier, "auto, portable, avx2 or avx512")
      ->check(Quiet(CLI::IsMember({"auto", "portable", "avx2", "avx512"})))
      ->group(machine);
  app.add_option("--max-model-len", flags.max_model_len,
                 "Positions a sequence may have; 0 = the model's own limit")
      ->check(Quiet(CLI::NonNegativeNumber))
      ->group(machine);
  app.add_option("--block-size", flags.block_size, "Positions a KV page")
      ->check(Quiet(CLI::IsMember({8, 16, 32, 64})))
      ->group(machine);
  app.add_flag("--batch-invariant", flags.batch_invariant,
               "On a GPU too, the same bits for a request whatever runs beside it, at some speed")
      ->group(machine);
  app.add_flag("--blocking-launches", flags.blocking_launches,
               "Wait for each CUDA kernel, so that an error names the one that made it; slow")
      ->group(machine);
  app.add_flag("--reference-ops", flags.reference_ops,
               "Every op by its plain maths in double precision, slowly")
      ->group(machine);
  AddOffloadFlags(app, flags.offload);
}

void AddBatchFlags(CLI::App& app, EngineFlags& flags) {
  const char* group = "Engine";
  app.add_option(
         "--max-num-seqs", flags.max_num_seqs,
         "Sequences in the batch at once; where experts are offloaded, serve chooses unless told")
      ->check(Quiet(CLI::Range(1, 65536)))
      ->group(group);
  app.add_option("--max-num-batched-tokens", flags.max_num_batched_tokens,
                 "Tokens of one step: prefills longer than what is left are cut in chunks")
      ->check(Quiet(CLI::Range(1, 1 << 20)))
      ->group(group);
  app.add_option(
         "--kv-cache-memory", flags.kv_cache_memory,
         "Memory of the KV cache, as 4GB; default: what --max-num-seqs sequences of "
         "--max-model-len need, at most a quarter of the memory available (on a GPU all that "
         "the model leaves, of a --vram-budget a quarter of what weights leave), but one "
         "whole sequence at least")
      ->group(group);
  app.add_option("--swap-space", flags.swap_space,
                 "GiB of host memory for KV pages of sequences that make room for others, where "
                 "that takes less time than to compute them again; default: 4 on a GPU, 0 on the "
                 "CPU")
      ->check(Quiet(CLI::Range(0.0, 65536.0)))
      ->default_str("")
      ->group(group);
}

void AddEngineFlags(CLI::App& app, EngineFlags& flags) {
  AddBatchFlags(app, flags);
  const char* group = "Engine";
  app.add_flag(
         "--enable-prefix-caching,!--no-enable-prefix-caching", flags.enable_prefix_caching,
         "Take up the keys and values of a text's beginning where they are known; the default")
      ->group(group);
  app.add_option("--router-trace", flags.router_trace,
                 "Record every routing decision to this file; without the prefix cache")
      ->group(group);
  app.add_option("--speculative-config", flags.speculative_config,
                 "JSON, as '{\"method\": \"ngram\", \"num_speculative_tokens\": 4, "
                 "\"prompt_lookup_max\": 3}'")
      ->group(group);
  AddTimelineFlag(app, flags.timeline);
}

void AddTimelineFlag(CLI::App& app, std::string& file) {
  app.add_option("--timeline", file,
                 "Write what every step spends its time on to this file, for ui.perfetto.dev")
      ->group("Engine");
}

uint64_t ParseBytes(const std::string& text) {
  size_t used = 0;
  double number = -1;
  try {
    number = std::stod(text, &used);
  } catch (const std::exception&) {
    number = -1;
  }
  const std::string unit = text.substr(std::min(used, text.size()));
  double scale = 0;
  if (unit.empty() || unit == "B") scale = 1;
  if (unit == "KB" || unit == "K") scale = 1e3;
  if (unit == "MB" || unit == "M") scale = 1e6;
  if (unit == "GB" || unit == "G") scale = 1e9;
  if (unit == "KiB") scale = 1024.0;
  if (unit == "MiB") scale = 1024.0 * 1024;
  if (unit == "GiB") scale = 1024.0 * 1024 * 1024;
  if (!(number > 0) || scale == 0 || number * scale > 1e18) {
    throw Error(ErrorCode::kInvalidArgument,
                "'" + text + "' is not a size of memory: write it as 512MB or 4GB");
  }
  return static_cast<uint64_t>(std::llround(number * scale));
}

}  // namespace sluice
