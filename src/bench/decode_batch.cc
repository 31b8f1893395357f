#include "bench/decode_batch.h"

#include <string>

#include "base/error.h"
#include "sampling/random.h"

namespace sluice {

DecodeBatch::DecodeBatch(ModelRunner& runner, const Options& options)
    : runner_(runner), worker_(runner), options_(options) {
  prompts_.resize(options.sequences);
  uint64_t drawn = 0;
  for (std::vector<TokenId>& prompt : prompts_) {
    for (int i = 0; i < options.prompt_tokens; ++i) {
      prompt.push_back(
          static_cast<TokenId>(MixSeed(options.seed, drawn++) % runner.spec().vocab_size));
    }
  }
  const int page_size = runner.options().page_size;
  pages_each_ = (options.prompt_tokens + options.output_tokens + page_size - 1) / page_size;
  if (pages_each_ * options.sequences > runner.options().num_pages) {
    throw Error(ErrorCode::kResourceExhausted,
                "the benchmark needs " + std::to_string(pages_each_ * options.sequences) +
                    " KV pages, the model has " + std::to_string(runner.options().num_pages));
  }
  Reset();
}

void DecodeBatch::Reset() {
  tokens_ = prompts_;
  known_ = options_.prompt_tokens;
}

void DecodeBatch::Step(int begin) {
  const int end = length();
  const int chunk = options_.prefill_chunk > 0 ? options_.prefill_chunk : end;
  std::vector<int> done(options_.sequences, begin);
  while (*std::min_element(done.begin(), done.end()) < end) {
    StepPlan plan{.step = next_step_++};
    int room = runner_.options().max_step_rows;
    for (int b = 0; b < options_.sequences && room > 0; ++b) {
      const int count = std::min({room, chunk, end - done[b]});
      if (count == 0) continue;
      SequenceSlice& slice = plan.slices.emplace_back(ContiguousSlice(
          b, tokens_[b], done[b], done[b] + count, b * pages_each_, runner_.options().page_size));
      slice.sample.params.temperature = 0;
      done[b] += count;
      room -= count;
      if (done[b] == end) slice.sample_rows = {count - 1};
    }
    Submit(plan);
    Collect();
  }
  known_ = length();
}

void DecodeBatch::SubmitDecode() {
  const int end = length();
  StepPlan plan{.step = next_step_++};
  for (int b = 0; b < options_.sequences; ++b) {
    SequenceSlice& slice = plan.slices.emplace_back(
        ContiguousSlice(b, tokens_[b], end - 1, end, b * pages_each_, runner_.options().page_size));
    slice.sample.params.temperature = 0;
    slice.sample_rows = {0};
  }
  Submit(plan);
}

// Appends what the plan's samples will be.
void DecodeBatch::Submit(const StepPlan& plan) {
  worker_.Submit(plan);
  for (size_t i = 0; i < plan.slices.size(); ++i) {
    const SequenceSlice& slice = plan.slices[i];
    if (slice.sample_rows.empty()) continue;
    tokens_[slice.sequence].push_back(TokenDrawnBy(static_cast<int>(i)));
  }
}

void DecodeBatch::Collect() {
  const StepResult result = worker_.Collect();
  if (!result.error.empty()) throw Error(ErrorCode::kInternal, result.error);
  for (const SliceResult& slice : result.slices) {
    if (!slice.error.empty()) throw Error(ErrorCode::kInternal, slice.error);
    for (const SampledToken& drawn : slice.samples) {
      tokens_[slice.sequence].at(known_) = drawn.token;
    }
  }
}

}  // namespace sluice
