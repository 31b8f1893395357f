#include <algorithm>

#include "base/check.h"
#include "sampling/sampler.h"

namespace sluice {
namespace {

// Collects at most one edit a token. `counts` [V] holds a token's edit's index + 1, zero between
// calls.
class Edits {
 public:
  Edits(size_t vocab_size, SampleScratch& scratch)
      : vocab_size_(vocab_size), edits_(scratch.edits), index_(scratch.counts) {
    if (index_.size() < vocab_size) index_.resize(vocab_size);
    edits_.clear();
  }
  ~Edits() {
    for (const LogitEdit& edit : edits_) index_[edit.token] = 0;
  }
  Edits(const Edits&) = delete;
  Edits& operator=(const Edits&) = delete;

  LogitEdit& Of(TokenId token) {
    SLUICE_CHECK_GE(token, 0);
    SLUICE_CHECK_LT(static_cast<size_t>(token), vocab_size_);
    int32_t& index = index_[token];
    if (index == 0) {
      edits_.push_back({.token = token});
      index = static_cast<int32_t>(edits_.size());
    }
    return edits_[index - 1];
  }

 private:
  size_t vocab_size_;
  std::vector<LogitEdit>& edits_;
  std::vector<int32_t>& index_;
};

}  // namespace

void EditsOf(const SampleContext& context, size_t vocab_size, SampleScratch& scratch) {
  const SamplingParams& params = context.params;
  Edits edits(vocab_size, scratch);
  for (const auto& [token, bias] : params.logit_bias) edits.Of(token).bias += bias;
  if (context.generated < params.min_tokens) {
    for (const TokenId token : context.end_ids) edits.Of(token).masked = true;
  }
  if (!NeedsHistory(params)) return;
  SLUICE_CHECK_EQ(static_cast<int>(context.history.size()),
                  context.prompt_length + context.generated);
  if (params.repetition_penalty != 1.0f) {
    for (const TokenId token : context.history) {
      edits.Of(token).repetition = params.repetition_penalty;
    }
  }
  const auto output = std::span(context.history).subspan(context.prompt_length);
  // Counted first: the product with a whole count is rounded once.
  for (const TokenId token : output) edits.Of(token).frequency += 1;
  for (LogitEdit& edit : scratch.edits) {
    if (edit.frequency == 0) continue;
    edit.presence = params.presence_penalty;
    edit.frequency *= params.frequency_penalty;
  }
}

}  // namespace sluice
