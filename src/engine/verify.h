#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <span>
#include <vector>

#include "device/buffer.h"
#include "engine/model_runner.h"
#include "tokenizer/token_id.h"

namespace sluice {

// Reference results for a checkpoint, as another implementation computed them.
struct Golden {
  int batch = 0;
  int length = 0;                   // tokens a row
  std::vector<TokenId> input_ids;   // [batch, length]
  std::vector<float> logits;        // [batch, length, vocab]
  std::vector<TokenId> greedy_ids;  // continuation of row 0; may be empty
  int vocab_size = 0;

  std::span<const TokenId> row(int b) const {
    return std::span(input_ids).subspan(static_cast<size_t>(b) * length, length);
  }
};

// Reads a safetensors file of `input_ids` i32 [B, T], `logits` f32 [B, T, vocab] and optional
// `greedy_ids` i32 [G]. Throws Error(kDataLoss) for anything else.
Golden LoadGolden(const std::filesystem::path& file);

// How ForwardSequences cuts its work into steps.
struct ForwardOptions {
  int chunk = 0;         // tokens of each sequence a step; 0 = all at once
  bool together = true;  // all sequences in the same steps, or one after the other
};

// Runs token sequences of equal length through the model from empty pages and returns every row's
// logits, [B, T, vocab] f32. Sequence b is known to routing sources as sequence b. The runner needs
// pages for all of them.
Tensor ForwardSequences(ModelRunner& runner, std::span<const std::span<const TokenId>> sequences,
                        const ForwardOptions& options = {});

// Greedy continuation of `prompt`: the most likely token each time, the lower id on a tie.
std::vector<TokenId> GreedyContinuation(ModelRunner& runner, std::span<const TokenId> prompt,
                                        int count);

// Distances of logits from a reference, over all rows.
struct LogitsDistance {
  double relative_l2 = 0;  // ||a - b|| / ||b||
  double max_abs = 0;
  double mean_kl = 0;  // of the rows' distributions, KL(reference || ours), nats
};
LogitsDistance CompareLogits(std::span<const float> logits, std::span<const float> reference,
                             int vocab_size);

// The largest relative L2 that `verify` accepts for a weight dtype; docs/NUMERICS.md says why.
double ToleranceOf(DType dtype);

struct TextLoss {
  double mean_nll = 0;  // nats per predicted token
  int64_t tokens = 0;
  int64_t predicted_tokens = 0;
};

// Mean negative log-likelihood of a token stream, cut into consecutive windows of `window` tokens
// that are scored each on its own: every token of a window but its first is predicted.
TextLoss ScoreText(ModelRunner& runner, std::span<const TokenId> tokens, int window);

}  // namespace sluice
