#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "cli/loaded_model.h"
#include "sched/engine_loop.h"

namespace sluice {

// A loaded model that answers one prompt at a time: what `run` and `chat` work with.
class TextEngine {
 public:
  // Throws Error(kNotFound) for a model without a tokeniser.
  TextEngine(const ModelFlags& flags, const EngineFlags& engine);

  struct Answer {
    std::string text;
    FinishReason finish = FinishReason::kStop;
    int prompt_tokens = 0;
    int completion_tokens = 0;
    double ttft_ms = 0;
    double latency_ms = 0;
  };
  // Generates until the sequence ends, handing out text as it becomes certain. A max_tokens of 0
  // means all that the context has room for. Throws Error for a prompt or parameters that cannot
  // run, and when the step failed.
  Answer Generate(const std::vector<TokenId>& prompt, SamplingParams params,
                  const std::function<void(std::string_view)>& on_text);

  const OpenedModel& model() const { return model_; }
  int max_model_len() const { return worker_.Info().max_model_len; }

 private:
  std::unique_ptr<ModelRunner> Load(const ModelFlags& flags, const EngineFlags& engine) const;

  std::unique_ptr<Timeline> timeline_;  // null without --timeline
  OpenedModel model_;
  std::unique_ptr<ModelRunner> runner_;
  TraceRecording recording_;
  InProcessWorker worker_;
  EngineLoop loop_;
};

// Sampling flags of `run` and `chat`, on top of the model's defaults.
struct SamplingFlags {
  std::optional<float> temperature;
  std::optional<float> top_p;
  std::optional<int> top_k;
  std::optional<float> min_p;
  std::optional<float> repetition_penalty;
  int max_tokens = 0;
  std::vector<std::string> stop;
  bool ignore_eos = false;
};
void AddSamplingFlags(CLI::App& app, SamplingFlags& flags);
SamplingParams ResolveSampling(const OpenedModel& model, const ModelFlags& model_flags,
                               const SamplingFlags& flags);

}  // namespace sluice
