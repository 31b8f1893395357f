#pragma once

#include <algorithm>
#include <cstdint>
#include <vector>

#include "engine/model_runner.h"
#include "request/step.h"

namespace sluice {

// Drives a batch of random prompts through a runner, greedily and without a scheduler. The n-th
// sequence has the same prompt in every batch of a seed.
class DecodeBatch {
 public:
  struct Options {
    int sequences = 1;
    int prompt_tokens = 1;
    int output_tokens = 1;
    int prefill_chunk = 0;  // prompt tokens of each sequence that a step takes; 0 = all at once
    uint64_t seed = 0;
  };
  // The runner outlives it. Throws Error(kResourceExhausted) where it has too few pages for prompts
  // and outputs.
  DecodeBatch(ModelRunner& runner, const Options& options);

  // Back to the prompts.
  void Reset();

  // Runs positions [begin, end of each sequence), all known, and appends the most likely token, in
  // as many steps as the prefill chunk and the runner's rows a step ask for.
  void Step(int begin);

  // Appends so many most likely tokens to each sequence, a step each, and calls `done` after each:
  // the next step is under way by then where the worker takes it, as in a server.
  template <class Done>
  void Decode(int steps, Done done) {
    const int most = worker_.Info().max_steps;
    int submitted = 0;
    for (int collected = 0; collected < steps; ++collected) {
      for (; submitted < std::min(steps, collected + most); ++submitted) SubmitDecode();
      Collect();
      ++known_;
      done();
    }
  }

  int length() const { return static_cast<int>(tokens_.back().size()); }
  const std::vector<std::vector<TokenId>>& tokens() const { return tokens_; }

 private:
  void SubmitDecode();
  void Submit(const StepPlan& plan);
  void Collect();

  ModelRunner& runner_;
  InProcessWorker worker_;
  const Options options_;
  int pages_each_ = 0;
  uint64_t next_step_ = 0;
  int known_ = 0;  // tokens of each sequence, as far as steps were collected
  std::vector<std::vector<TokenId>> prompts_;
  std::vector<std::vector<TokenId>> tokens_;
};

}  // namespace sluice
