#include "cli/loaded_model.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>
#include <unistd.h>

#include <algorithm>
#include <boost/json/parse.hpp>
#include <filesystem>
#include <fstream>
#include <sstream>
#include <utility>

#include "arch/registry.h"
#include "base/machine.h"
#include "checkpoint/checkpoint.h"
#include "cli/embedded_model.h"
#include "cli/offload_flags.h"
#include "engine/expert_budget.h"
#include "hub/model_places.h"
#include "trace/routing_source.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;

// The share of available memory that the KV cache takes at most when nobody says how much.
constexpr uint64_t kDefaultKvShare = 4;

std::string ReadText(const fs::path& path) {
  std::error_code ignored;
  std::ifstream file;
  if (fs::is_regular_file(path, ignored)) file.open(path, std::ios::binary);
  if (!file.is_open()) {
    throw Error(ErrorCode::kNotFound, "cannot read '" + path.string() + "': no such file");
  }
  std::ostringstream text;
  text << file.rdbuf();
  return text.str();
}

std::optional<std::string> ReadTextIfThere(const fs::path& path) {
  if (!fs::exists(path)) return std::nullopt;
  return ReadText(path);
}

ModelSpec ReadSpec(const HfConfig& config, const OpenedModel& model) {
  return SpecFromConfig(config,
                        model.generation_config.has_value() ? &*model.generation_config : nullptr);
}

void UseRandomWeights(OpenedModel& model, const ModelFlags& flags) {
  model.source = std::make_unique<DummySource>(ListTensors(model.spec), model.spec.checkpoint_dtype,
                                               flags.seed.value_or(0));
  model.random_weights = true;
}

void OpenTokenizer(OpenedModel& model, const fs::path& dir) {
  model.tokenizer = Tokenizer::Load(dir / "tokenizer.json");
  const std::optional<std::string> config = ReadTextIfThere(dir / "tokenizer_config.json");
  const std::optional<std::string> jinja = ReadTextIfThere(dir / "chat_template.jinja");
  model.chat_template = ChatTemplate::FromTokenizerConfig(config.value_or("{}"), jinja);
  if (model.chat_template.has_value()) return;
  const auto is_special = [&](const char* token) {
    const std::optional<TokenId> id = model.tokenizer->IdOf(token);
    return id.has_value() && model.tokenizer->IsSpecial(*id);
  };
  if (is_special("<|im_start|>") && is_special("<|im_end|>")) {
    model.chat_template = ChatTemplate::Parse(kChatMlTemplate);
  }
}

OpenedModel OpenEmbedded(const ModelFlags& flags) {
  const EmbeddedModel files = GetEmbeddedModel();
  OpenedModel model{.name = std::string(kEmbeddedModelName), .origin = "embedded"};
  HfConfig config = HfConfig::FromJson(files.config_json, "embedded config.json");
  if (!flags.hf_overrides.empty()) config.ApplyOverrides(flags.hf_overrides);
  model.generation_config =
      HfConfig::FromJson(files.generation_config_json, "embedded generation_config.json");
  model.spec = ReadSpec(config, model);
  if (flags.load_format == "dummy") {
    UseRandomWeights(model, flags);
  } else {
    model.source = std::make_unique<CheckpointSource>(
        Checkpoint::FromMemory(files.safetensors, "embedded model.safetensors"));
  }
  model.tokenizer = Tokenizer::FromJson(files.tokenizer_json);
  model.chat_template = ChatTemplate::FromTokenizerConfig(files.tokenizer_config_json);
  return model;
}

OpenedModel OpenTopology(const ModelFlags& flags) {
  if (!flags.model.empty()) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "--topology describes a model of its own: leave the folder '" + flags.model + "' out");
  }
  OpenedModel model{.name = fs::path(flags.topology).stem().string(), .origin = flags.topology};
  HfConfig config = HfConfig::FromTopologyYaml(ReadText(flags.topology), flags.topology);
  if (!flags.hf_overrides.empty()) config.ApplyOverrides(flags.hf_overrides);
  model.spec = ReadSpec(config, model);
  UseRandomWeights(model, flags);
  return model;
}

// Runs the steps of opening a model. With a list of problems, a failed step goes there and the next
// follows; without, its failure is the caller's.
class Steps {
 public:
  explicit Steps(std::vector<std::string>* problems) : problems_(problems) {}

  template <class Function>
  void Run(const Function& step) const {
    if (problems_ == nullptr) return step();
    try {
      step();
    } catch (const Error& error) {
      problems_->emplace_back(error.what());
    }
  }

 private:
  std::vector<std::string>* problems_;
};

// "fp8, blocks [128,128]" of config.json's quantization_config. Asks a copy: to describe a key is
// not to have read it, and a key that nobody reads is refused.
std::string DescribeQuantization(const HfConfig& config) {
  const HfConfig copy = config;  // NOLINT(performance-unnecessary-copy-initialization)
  const std::optional<HfConfig> quantization = copy.OptObject("quantization_config");
  if (!quantization) return "";
  std::string text = quantization->OptString("quant_method").value_or("method not named");
  if (quantization->Has("weight_block_size")) {
    text += ", blocks " + quantization->Describe("weight_block_size");
  }
  return text;
}

OpenedModel OpenFolder(const ModelFlags& flags, const Steps& steps) {
  const LocalModel local = FindModel(flags.model, flags.revision, ModelPlacesFromEnvironment());
  const fs::path& dir = local.dir;
  OpenedModel model{.name = local.name, .origin = dir.string()};
  steps.Run([&] {
    HfConfig config = HfConfig::FromFolder(dir);
    if (!flags.hf_overrides.empty()) config.ApplyOverrides(flags.hf_overrides);
    model.quantization = DescribeQuantization(config);
    if (fs::exists(dir / "generation_config.json")) {
      model.generation_config = HfConfig::FromFile(dir / "generation_config.json");
    }
    model.spec = ReadSpec(config, model);
  });
  steps.Run([&] {
    if (model.spec.num_layers == 0) return;
    if (flags.load_format == "dummy") {
      UseRandomWeights(model, flags);
    } else {
      model.source =
          std::make_unique<CheckpointSource>(Checkpoint::Open(dir), model.spec.block_scaled);
    }
  });
  steps.Run([&] {
    if (flags.tokenizer.empty() && fs::exists(dir / "tokenizer.json")) OpenTokenizer(model, dir);
  });
  return model;
}

void CheckRevision(const ModelFlags& flags) {
  const bool is_hub_name = !flags.model.empty() && !fs::exists(flags.model);
  if (flags.revision.empty() || is_hub_name) return;
  throw Error(ErrorCode::kInvalidArgument,
              "--revision " + flags.revision + " is of a model named as ORG/NAME: leave it out");
}

OpenedModel Open(const ModelFlags& flags, const Steps& steps) {
  CheckRevision(flags);
  OpenedModel model = !flags.topology.empty() ? OpenTopology(flags)
                      : flags.model.empty()   ? OpenEmbedded(flags)
                                              : OpenFolder(flags, steps);
  steps.Run([&] {
    if (flags.tokenizer.empty()) return;
    OpenTokenizer(model, FindModel(flags.tokenizer, "", ModelPlacesFromEnvironment()).dir);
  });
  steps.Run([&] {
    if (!model.random_weights && model.source != nullptr) CheckTensors(model.spec, *model.source);
  });
  steps.Run([&] {
    const bool has_both = model.tokenizer != nullptr && model.spec.num_layers > 0;
    if (!has_both || model.tokenizer->vocab_size() <= model.spec.vocab_size) return;
    throw Error(ErrorCode::kDataLoss,
                fmt::format("the tokenizer has ids to {}, the model's vocabulary ends at {}: the "
                            "tokenizer belongs to another model",
                            model.tokenizer->vocab_size() - 1, model.spec.vocab_size - 1));
  });
  return model;
}

// What a device may lose between this count and the runner's own: a stream, another's window.
constexpr uint64_t kDeviceSlackBytes = 64 << 20;

// Memory that pages may take where no flag says how much: on a GPU all that the model leaves, but
// under a budget that experts are to have their share of.
int64_t DefaultKvBytes(const ModelSpec& spec, const OffloadFlags& offload,
                       const RunnerOptions& options) {
  if (const std::optional<uint64_t> budget = VramBudget(offload)) {
    return static_cast<int64_t>(LeftForPages(spec, options, *budget) / kDefaultKvShare);
  }
  const uint64_t available = AvailableMemory(options);
  if (!options.cuda.has_value()) return static_cast<int64_t>(available / kDefaultKvShare);
  const uint64_t model = EstimateMemory(spec, options).total() + kDeviceSlackBytes;  // no pages yet
  return static_cast<int64_t>(available - std::min(available, model));
}

// Pages of host memory for what is swapped out: no more than the device's can ever be too few by.
int HostPages(const ModelSpec& spec, const EngineFlags& flags, const RunnerOptions& options) {
  uint64_t bytes = 0;
  if (flags.swap_space >= 0) {
    bytes = static_cast<uint64_t>(flags.swap_space * static_cast<double>(1 << 30));
  } else if (options.cuda.has_value()) {
    bytes = std::min<uint64_t>(uint64_t{4} << 30, QueryMemory().available_bytes / kDefaultKvShare);
  }
  const int64_t per_sequence = (options.max_model_len + options.page_size - 1) / options.page_size;
  const int64_t short_of = per_sequence * flags.max_num_seqs - options.num_pages;
  const int64_t pages = static_cast<int64_t>(bytes) / KvLayoutOf(spec, options).BytesPerPage();
  return static_cast<int>(std::clamp<int64_t>(pages, 0, std::max<int64_t>(0, short_of)));
}

// Less than this is loaded before a reader could see that it is loading.
constexpr int64_t kProgressFromBytes = 256 << 20;

// One line on standard error: rewritten in place on a terminal, else a line each quarter.
LoadProgress MakeProgress(const std::string& name) {
  const bool terminal = isatty(STDERR_FILENO) != 0;
  return [name, terminal, last = int64_t{-1}](int64_t done, int64_t total) mutable {
    if (total < kProgressFromBytes) return;
    const int64_t percent = done * 100 / total;
    const int64_t mark = terminal ? percent : percent / 25;
    if (mark == last) return;
    last = mark;
    if (terminal) {
      fmt::print(stderr, "\rloading {}: {} of {} ({} %){}", name, FormatBytes(done),
                 FormatBytes(total), percent, percent == 100 ? "\n" : "");
      std::fflush(stderr);
    } else {
      spdlog::info("loading {}: {} of {} ({} %)", name, FormatBytes(done), FormatBytes(total),
                   percent);
    }
  };
}

// A loop over experts waits for memory, which three cores of four read as fast as all do, and then
// for the last of its threads. Beside a GPU that would be one whose core was taken by the thread
// that drives the device, by a copy or by another program: so these have the fourth, or one.
int ThreadsFor(const ModelFlags& flags, bool on_gpu) {
  const int cores = AvailableCores();
  if (flags.threads > 0) return flags.threads;
  const int others = on_gpu && flags.offload.cpu_experts ? std::max(1, cores / 4) : 0;
  return std::max(1, cores - others);
}

}  // namespace

OpenedModel OpenModel(const ModelFlags& flags) {
  return Open(flags, Steps(nullptr));
}

OpenedModel ExamineModel(const ModelFlags& flags, std::vector<std::string>& problems) {
  return Open(flags, Steps(&problems));
}

DType ParseDType(const std::string& text, DType checkpoint_dtype) {
  if (text == "float32" || text == "f32" || text == "float") return DType::kF32;
  if (text == "bfloat16" || text == "bf16") return DType::kBF16;
  if (text == "float16" || text == "f16" || text == "half") return DType::kF16;
  SLUICE_CHECK_EQ(text, std::string("auto"));
  return checkpoint_dtype;
}

std::optional<int> ChooseCuda(const ModelFlags& flags) {
  if (flags.device == "cpu") return std::nullopt;
  if (flags.device == "auto") {
    const bool usable = !flags.reference_ops && !CudaDevices().empty();
    return usable ? std::optional(FindCudaDevice(0).ordinal) : std::nullopt;
  }
  if (flags.reference_ops) {
    throw Error(ErrorCode::kInvalidArgument, "--reference-ops runs on the CPU: add --device cpu");
  }
  const size_t colon = flags.device.find(':');
  const int ordinal = colon == std::string::npos ? 0 : std::stoi(flags.device.substr(colon + 1));
  return FindCudaDevice(ordinal).ordinal;
}

int DefaultPages(const ModelSpec& spec, const OffloadFlags& offload, const EngineFlags& flags,
                 const RunnerOptions& options) {
  const auto page_bytes = static_cast<int64_t>(KvLayoutOf(spec, options).BytesPerPage());
  const int64_t per_sequence = (options.max_model_len + options.page_size - 1) / options.page_size;
  int64_t pages = per_sequence * flags.max_num_seqs;
  if (flags.kv_cache_memory.empty()) {
    pages = std::min(pages,
                     std::max(per_sequence, DefaultKvBytes(spec, offload, options) / page_bytes));
  } else {
    pages = std::min<int64_t>(pages,
                              static_cast<int64_t>(ParseBytes(flags.kv_cache_memory)) / page_bytes);
    if (pages < 1) {
      throw Error(ErrorCode::kInvalidArgument, "--kv-cache-memory " + flags.kv_cache_memory +
                                                   " holds not one KV page: a page takes " +
                                                   FormatBytes(page_bytes));
    }
  }
  constexpr int64_t kMaxPages = 1 << 26;  // page ids are 32 bits with room to spare
  return static_cast<int>(std::min(pages, kMaxPages));
}

RunnerOptions ResolveRunnerOptions(const ModelSpec& spec, const ModelFlags& flags,
                                   const EngineFlags& engine) {
  RunnerOptions options;
  options.dtype = ParseDType(flags.dtype, spec.checkpoint_dtype);
  if (flags.kv_cache_dtype != "auto") {
    options.kv_dtype = ParseDType(flags.kv_cache_dtype, DType::kF32);
  }
  options.cuda = ChooseCuda(flags);
  options.gpu_memory_utilization = flags.gpu_memory_utilization;
  options.num_threads = ThreadsFor(flags, options.cuda.has_value());
  options.tier = DetectCpuTier();
  if (flags.cpu_tier != "auto") {
    const CpuTier asked = ParseCpuTier(flags.cpu_tier).value();
    if (asked > options.tier) {
      throw Error(ErrorCode::kUnsupported,
                  fmt::format("--cpu-tier {}: this processor runs up to {}", flags.cpu_tier,
                              CpuTierName(options.tier)));
    }
    options.tier = asked;
  }
  options.reference_ops = flags.reference_ops;
  options.batch_invariant = flags.batch_invariant;
  options.blocking_launches = flags.blocking_launches;
  options.page_size = flags.block_size;
  options.max_model_len = flags.max_model_len > 0 ? flags.max_model_len : spec.max_positions;
  if (options.max_model_len > spec.max_positions) {
    throw Error(ErrorCode::kInvalidArgument,
                fmt::format("--max-model-len {} is more than the model's {} positions",
                            options.max_model_len, spec.max_positions));
  }
  if (options.max_model_len < 2) {
    throw Error(ErrorCode::kInvalidArgument,
                "a context of one position has no room for an answer: --max-model-len should be 2 "
                "at least");
  }
  options.max_step_rows = std::max(engine.max_num_batched_tokens, engine.max_num_seqs);
  options.max_sequences = engine.max_num_seqs;
  ApplyOffloadFlags(spec, flags.offload, options);
  options.num_pages = DefaultPages(spec, flags.offload, engine, options);
  options.num_host_pages = HostPages(spec, engine, options);
  return options;
}

std::string WhyNotRun(const ModelSpec& spec) {
  if (spec.attention.mask != ops::AttentionMask::kFull) return "";
  return "its tokens see those behind them: it fills in masked tokens by steps of denoising, and "
         "this engine decodes from left to right alone; plan and doctor take its shapes";
}

std::unique_ptr<ModelRunner> LoadRunner(const OpenedModel& model, const ModelFlags& flags,
                                        RunnerOptions options) {
  if (const std::string why = WhyNotRun(model.spec); !why.empty()) {
    throw Error(ErrorCode::kUnsupported, "'" + model.name + "' cannot be run: " + why);
  }
  PlaceExperts(model.spec, flags.offload, options);
  std::unique_ptr<RoutingSource> routing = std::make_unique<ModelRouting>();
  if (model.spec.moe.num_experts > 0) {
    routing = ParseRoutingSource(flags.routing, {.num_layers = model.spec.num_layers,
                                                 .num_experts = model.spec.moe.num_experts,
                                                 .top_k = model.spec.moe.top_k});
  }
  return std::make_unique<ModelRunner>(model.spec, *model.source, options, std::move(routing),
                                       MakeProgress(model.name));
}

std::unique_ptr<DecodeStrategy> MakeStrategy(const EngineFlags& flags) {
  if (flags.speculative_config.empty()) return MakeAutoregressive();
  const HfConfig config = HfConfig::FromJson(flags.speculative_config, "--speculative-config");
  const std::string method = config.String("method");
  if (method != "ngram") {
    throw Error(ErrorCode::kUnsupported,
                "--speculative-config: method '" + method + "' is not supported, use 'ngram'");
  }
  const int64_t drafts = config.Int("num_speculative_tokens");
  const int64_t ngram = config.OptInt("prompt_lookup_max").value_or(3);
  if (drafts < 1 || drafts > 63 || ngram < 1 || ngram > 64) {
    throw Error(ErrorCode::kInvalidArgument,
                "--speculative-config: num_speculative_tokens should be 1 to 63 and "
                "prompt_lookup_max 1 to 64");
  }
  const std::vector<std::string> unread = config.UnreadKeys();
  if (!unread.empty()) {
    throw Error(ErrorCode::kUnsupported,
                "--speculative-config: the key '" + unread.front() + "' is not supported");
  }
  return MakeNgram(static_cast<int>(ngram), static_cast<int>(drafts));
}

SamplingParams DefaultSampling(const OpenedModel& model) {
  SamplingParams params;
  if (!model.generation_config.has_value()) return params;
  const HfConfig& config = *model.generation_config;
  params.temperature = static_cast<float>(config.OptFloat("temperature").value_or(1.0));
  params.top_p = static_cast<float>(config.OptFloat("top_p").value_or(1.0));
  params.top_k = static_cast<int>(config.OptInt("top_k").value_or(0));
  params.min_p = static_cast<float>(config.OptFloat("min_p").value_or(0.0));
  params.repetition_penalty =
      static_cast<float>(config.OptFloat("repetition_penalty").value_or(1.0));
  Validate(params, model.spec.vocab_size);
  return params;
}

std::unique_ptr<Timeline> OpenTimeline(const std::string& file) {
  return file.empty() ? nullptr : std::make_unique<Timeline>(file);
}

EngineOptions ResolveEngineOptions(const OpenedModel& model, const EngineFlags& flags,
                                   Timeline* timeline) {
  return {.max_num_seqs = flags.max_num_seqs,
          .max_num_batched_tokens = std::max(flags.max_num_batched_tokens, flags.max_num_seqs),
          .eos_ids = {model.spec.eos_token_ids.begin(), model.spec.eos_token_ids.end()},
          // A trace is to hold every token.
          .enable_prefix_caching = flags.enable_prefix_caching && flags.router_trace.empty(),
          .metric_labels = {{"model_name", model.name}},
          .timeline = timeline};
}

TraceRecording::TraceRecording(const OpenedModel& model, const ModelFlags& flags,
                               const EngineFlags& engine, ModelRunner& runner)
    : runner_(runner) {
  if (engine.router_trace.empty()) return;
  if (model.spec.moe.num_experts == 0) {
    throw Error(ErrorCode::kInvalidArgument,
                "--router-trace: '" + model.name + "' is a dense model, it has no router");
  }
  writer_ = std::make_unique<RouterTraceWriter>(
      engine.router_trace, RouterTraceHeader{.model = model.name,
                                             .num_layers = model.spec.num_layers,
                                             .num_experts = model.spec.moe.num_experts,
                                             .top_k = model.spec.moe.top_k,
                                             .seed = flags.seed.value_or(0),
                                             .source = flags.routing});
  recorder_ = std::make_unique<FileRecorder>(*writer_);
  runner_.SetObserver(recorder_.get());
}

TraceRecording::~TraceRecording() {
  if (writer_ == nullptr) return;
  runner_.SetObserver(nullptr);
  try {
    writer_->Close();
  } catch (const std::exception& error) {
    spdlog::error("the router trace is lost: {}", error.what());
  }
}

}  // namespace sluice
