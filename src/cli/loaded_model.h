#pragma once

#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "arch/model_spec.h"
#include "chat/chat_template.h"
#include "checkpoint/config.h"
#include "checkpoint/weight_source.h"
#include "cli/model_flags.h"
#include "decode/decode_strategy.h"
#include "device/timeline.h"
#include "engine/model_runner.h"
#include "sched/engine_loop.h"
#include "tokenizer/tokenizer.h"
#include "trace/router_observer.h"
#include "trace/router_trace.h"

namespace sluice {

// What the flags name, opened but not loaded: config, spec, tokeniser, template, and where the
// weights are.
struct OpenedModel {
  std::string name;    // the folder's name, or the embedded model's
  std::string origin;  // the folder, or "embedded"
  ModelSpec spec;
  std::unique_ptr<WeightSource> source;
  bool random_weights = false;
  std::unique_ptr<Tokenizer> tokenizer;  // null when a folder of random weights has none
  std::optional<ChatTemplate> chat_template;
  std::string quantization;  // how the checkpoint says that its weights are quantised; mostly empty
  std::optional<HfConfig> generation_config;
};

// Throws Error for whatever is wrong with the folder, its files or the flags.
OpenedModel OpenModel(const ModelFlags& flags);

// As OpenModel, but goes on past what is wrong and adds it to `problems`. Where config.json itself
// cannot be used, the spec has no layers. Throws Error when there is no such model.
OpenedModel ExamineModel(const ModelFlags& flags, std::vector<std::string>& problems);

// The CUDA device that --device means; none for the CPU. Throws Error where the device that it
// names is not to be had. Takes no memory of a device.
std::optional<int> ChooseCuda(const ModelFlags& flags);

// Runner options that the flags ask for, with defaults resolved for this machine and model. Throws
// Error(kInvalidArgument) for flags that contradict each other or the model. Slots that a budget
// leaves are not among them: PlaceExperts adds these once all else is settled.
RunnerOptions ResolveRunnerOptions(const ModelSpec& spec, const ModelFlags& flags,
                                   const EngineFlags& engine);

// KV pages that the flags ask for, or that max_num_seqs sequences of options.max_model_len need
// within the share of memory that pages get. Throws Error(kInvalidArgument) for memory that holds
// not one.
int DefaultPages(const ModelSpec& spec, const OffloadFlags& offload, const EngineFlags& flags,
                 const RunnerOptions& options);

// What --timeline records on; null where `file` is empty. Throws Error(kResourceExhausted) for a
// file that cannot be written. To outlive all that records.
std::unique_ptr<Timeline> OpenTimeline(const std::string& file);

// f32, bf16 or f16 for "float32", "bf16", ...; the checkpoint's own for "auto".
DType ParseDType(const std::string& text, DType checkpoint_dtype);

// Why nothing here runs a model of the spec, though its shapes are known to plan and doctor; empty
// for nearly all.
std::string WhyNotRun(const ModelSpec& spec);

// Loads the weights with progress on standard error: a moving line on a terminal, a few plain lines
// elsewhere. Experts get the slots that budgets leave beside `options`. Throws Error(kUnsupported)
// for a model that nothing here runs.
std::unique_ptr<ModelRunner> LoadRunner(const OpenedModel& model, const ModelFlags& flags,
                                        RunnerOptions options);

// The strategy that --speculative-config names; autoregressive without one.
std::unique_ptr<DecodeStrategy> MakeStrategy(const EngineFlags& flags);

// Sampling that generation_config.json asks for where a request says nothing.
SamplingParams DefaultSampling(const OpenedModel& model);

// The engine loop's options that the flags ask for. `timeline` may be null.
EngineOptions ResolveEngineOptions(const OpenedModel& model, const EngineFlags& flags,
                                   Timeline* timeline);

// Records the routing of a runner to --router-trace, when given, until destroyed.
class TraceRecording {
 public:
  TraceRecording(const OpenedModel& model, const ModelFlags& flags, const EngineFlags& engine,
                 ModelRunner& runner);
  ~TraceRecording();

 private:
  ModelRunner& runner_;
  std::unique_ptr<RouterTraceWriter> writer_;
  std::unique_ptr<FileRecorder> recorder_;
};

}  // namespace sluice
