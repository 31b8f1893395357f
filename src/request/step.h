#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "device/timeline.h"
#include "kv/block_table.h"
#include "request/request.h"

namespace sluice {

// A token whose id is not known when a step is planned, because the step before it is under way:
// the one that slice `slice` of that step samples last. It stands among a slice's tokens as a
// negative id, and the worker that runs both steps puts the drawn one in its place. Where that step
// fails, nobody reads what is made of it.
constexpr TokenId TokenDrawnBy(int slice) {
  return -1 - slice;
}
constexpr bool IsKnown(TokenId token) {
  return token >= 0;
}
constexpr int SliceThatDraws(TokenId token) {
  return -1 - token;
}

// Which KV positions a query row sees: its own and all before, or those and what `ancestors` says.
enum class StepMask { kCausal, kTree };

// The layers that rows go through in one step: all, or one of several groups of about as many
// layers each, which follow each other in steps of their own.
struct LayerGroup {
  int nth = 0;
  int of = 1;
  bool IsAll() const { return of == 1; }
  bool IsLast() const { return nth + 1 == of; }
  bool operator==(const LayerGroup&) const = default;
};

// One sequence's share of a step: which tokens run, where their keys and values go, which rows are
// sampled. Plain data.
struct SequenceSlice {
  SequenceId sequence = 0;
  std::vector<TokenId> tokens;        // [q] ids, or TokenDrawnBy
  std::vector<int32_t> positions;     // [q] absolute
  std::vector<int32_t> kv_positions;  // [q] where K/V are written; equals positions but for trees
  BlockTable pages;                   // covers every kv position below kv_length
  int kv_length = 0;                  // after this step
  // Of the model. A group but the first goes on with the rows that the step before took through the
  // group in front of it; rows are sampled and scored behind the last one.
  LayerGroup layers;
  StepMask mask = StepMask::kCausal;
  std::vector<uint64_t> ancestors;   // [q] for kTree: bit i = query row i is visible
  std::vector<int32_t> sample_rows;  // ascending rows of `tokens` to sample after
  SampleContext sample;              // of the first sample row; params also where rows are scored
  // Rows whose next token is known and scored: the prompt's, when prompt_logprobs is asked for.
  struct ScoreRow {
    int32_t row = 0;
    TokenId target = 0;
  };
  std::vector<ScoreRow> score_rows;

  // The context of sample row `i` (an index into sample_rows): `sample` moved on over the rows in
  // between.
  SampleContext ContextOfSample(int i) const;
};

// A causal slice that runs tokens [begin, end) of a sequence, with K/V at the tokens' own positions
// and in pages `first_page`, `first_page` + 1, ...; nothing is sampled. For whoever drives a worker
// without a scheduler.
SequenceSlice ContiguousSlice(SequenceId id, std::span<const TokenId> tokens, int begin, int end,
                              int first_page, int page_size);

// The contents of one page that go to another.
struct PageCopy {
  int32_t from = 0;
  int32_t to = 0;
};

// One step of the model for a batch. Made by sched/, run by an engine::Worker. Plain data, complete
// in itself but for TokenDrawnBy: a worker keeps nothing about sequences between steps but the
// pages' contents, what the last step drew, and the hidden states of rows between layer groups.
struct StepPlan {
  uint64_t step = 0;
  // Done before the rows, in this order: keys and values of device pages that go to pages of the
  // host's, and of the host's that come back.
  std::vector<PageCopy> swap_out;
  std::vector<PageCopy> swap_in;
  // Those that go through all layers come first; the others are in the same group.
  std::vector<SequenceSlice> slices;

  int64_t NumTokens() const;  // of all slices
  // The same, where one in one of n layer groups is 1/n of a token; rounded up.
  int64_t NumWholeTokens() const;
};

// What a timeline's span of the step says.
SpanFacts FactsOf(const StepPlan& plan);

struct SliceResult {
  SequenceId sequence = 0;
  std::vector<SampledToken> samples;  // one for each sample row
  std::vector<SampledToken> scores;   // one for each score row
  std::string error;  // not empty: this sequence cannot go on, the others of the step can
};

struct StepResult {
  uint64_t step = 0;
  std::vector<SliceResult> slices;  // in the plan's order; empty when `error` is set
  std::string error;                // not empty: the whole step failed, nothing was committed
  bool worker_lost = false;         // with `error`: the worker can run no step any more
};

}  // namespace sluice
