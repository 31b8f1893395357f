#include "cli/text_engine.h"

#include <CLI/CLI.hpp>
#include <chrono>
#include <condition_variable>
#include <deque>
#include <iterator>
#include <mutex>
#include <utility>

#include "server/text_generation.h"

namespace sluice {
namespace {

using Clock = std::chrono::steady_clock;

double MillisecondsSince(Clock::time_point start) {
  return std::chrono::duration<double, std::milli>(Clock::now() - start).count();
}

// Reports on their way from the engine's thread to the caller's.
class OutputQueue {
 public:
  void Push(Output output) {
    std::lock_guard lock(mutex_);
    outputs_.push_back(std::move(output));
    arrived_.notify_one();
  }
  Output Pop() {
    std::unique_lock lock(mutex_);
    arrived_.wait(lock, [this] { return !outputs_.empty(); });
    Output output = std::move(outputs_.front());
    outputs_.pop_front();
    return output;
  }

 private:
  std::mutex mutex_;
  std::condition_variable arrived_;
  std::deque<Output> outputs_;
};

OpenedModel OpenWithTokenizer(const ModelFlags& flags) {
  OpenedModel model = OpenModel(flags);
  if (model.tokenizer == nullptr) {
    throw Error(ErrorCode::kNotFound, "'" + model.origin +
                                          "' has no tokenizer.json: name a folder that has one "
                                          "with --tokenizer");
  }
  return model;
}

}  // namespace

TextEngine::TextEngine(const ModelFlags& flags, const EngineFlags& engine)
    : timeline_(OpenTimeline(engine.timeline)),
      model_(OpenWithTokenizer(flags)),
      runner_(Load(flags, engine)),
      recording_(model_, flags, engine, *runner_),
      worker_(*runner_),
      loop_(worker_, MakeStrategy(engine), ResolveEngineOptions(model_, engine, timeline_.get())) {}

std::unique_ptr<ModelRunner> TextEngine::Load(const ModelFlags& flags,
                                              const EngineFlags& engine) const {
  RunnerOptions options = ResolveRunnerOptions(model_.spec, flags, engine);
  options.timeline = timeline_.get();
  return LoadRunner(model_, flags, options);
}

TextEngine::Answer TextEngine::Generate(const std::vector<TokenId>& prompt, SamplingParams params,
                                        const std::function<void(std::string_view)>& on_text) {
  const int room = worker_.Info().max_model_len - static_cast<int>(prompt.size());
  if (params.max_tokens == 0) params.max_tokens = std::max(1, room);
  if (room > 0 && params.max_tokens > room) {
    throw Error(ErrorCode::kInvalidArgument,
                "--max-tokens " + std::to_string(params.max_tokens) + " behind a prompt of " +
                    std::to_string(prompt.size()) + " tokens exceeds the context of " +
                    std::to_string(worker_.Info().max_model_len) + ": ask for " +
                    std::to_string(room) + " at most");
  }
  auto queue = std::make_shared<OutputQueue>();
  TextGeneration text(*model_.tokenizer, params, /*skip_special=*/true);
  Answer answer{.prompt_tokens = static_cast<int>(prompt.size())};
  const Clock::time_point start = Clock::now();
  const RequestId id = loop_.Submit({.prompt = prompt, .sampling = params},
                                    [queue](Output output) { queue->Push(std::move(output)); });
  while (!text.finished()) {
    const Output output = queue->Pop();
    const TimelineSpan span(timeline_.get(), "detokenize", {.tokens = std::ssize(output.tokens)});
    const TextDelta delta = text.Consume(output);
    if (answer.ttft_ms == 0) answer.ttft_ms = MillisecondsSince(start);
    if (!delta.text.empty()) on_text(delta.text);
    answer.text += delta.text;
    if (!delta.finish.has_value()) continue;
    if (*delta.finish == FinishReason::kError) throw Error(ErrorCode::kInternal, delta.error);
    answer.finish = *delta.finish;
  }
  if (text.stopped_by_text()) loop_.Abort(id);
  answer.completion_tokens = text.completion_tokens();
  answer.latency_ms = MillisecondsSince(start);
  return answer;
}

void AddSamplingFlags(CLI::App& app, SamplingFlags& flags) {
  const char* group = "Sampling";
  app.add_option("--max-tokens", flags.max_tokens, "Tokens to make; 0 = what the context holds")
      ->check(Quiet(CLI::NonNegativeNumber))
      ->group(group);
  app.add_option("--temperature", flags.temperature, "0 = always the most likely token")
      ->group(group);
  app.add_option("--top-p", flags.top_p, "Draw from the likeliest tokens of this much probability")
      ->group(group);
  app.add_option("--top-k", flags.top_k, "Draw from this many of the likeliest tokens")
      ->group(group);
  app.add_option("--min-p", flags.min_p, "Drop tokens this much less likely than the likeliest")
      ->group(group);
  app.add_option("--repetition-penalty", flags.repetition_penalty,
                 "Above 1: make tokens that stand in prompt or output less likely")
      ->group(group);
  app.add_option("--stop", flags.stop,
                 "End the text before this string; may be given several times")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll)
      ->default_str("")
      ->group(group);
  app.add_flag("--ignore-eos", flags.ignore_eos, "Go on past end-of-sequence tokens")->group(group);
}

SamplingParams ResolveSampling(const OpenedModel& model, const ModelFlags& model_flags,
                               const SamplingFlags& flags) {
  SamplingParams params = DefaultSampling(model);
  params.temperature = flags.temperature.value_or(params.temperature);
  params.top_p = flags.top_p.value_or(params.top_p);
  params.top_k = flags.top_k.value_or(params.top_k);
  params.min_p = flags.min_p.value_or(params.min_p);
  params.repetition_penalty = flags.repetition_penalty.value_or(params.repetition_penalty);
  params.max_tokens = flags.max_tokens;
  params.stop = flags.stop;
  params.ignore_eos = flags.ignore_eos;
  params.seed = model_flags.seed;
  return params;
}

}  // namespace sluice
