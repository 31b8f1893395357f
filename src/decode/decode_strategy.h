#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "request/sequence.h"
#include "request/step.h"

namespace sluice {

// What a strategy wants to run for one sequence in the coming step. The scheduler adds pages and
// sampling state; it reads numbers only.
struct StepDemand {
  std::vector<TokenId> tokens;        // [q] at least one
  std::vector<int32_t> positions;     // [q] absolute
  std::vector<int32_t> kv_positions;  // [q] where K/V are written
  StepMask mask = StepMask::kCausal;
  std::vector<uint64_t> ancestors;   // [q] for kTree
  std::vector<int32_t> sample_rows;  // rows to sample after; empty in the midst of a prefill
  int kv_length = 0;                 // KV positions that must have pages: one past the last written
};

// What a step changed for one sequence.
struct StepOutcome {
  std::vector<SampledToken> committed;  // appended to the sequence, in order
  int kv_length = 0;                    // KV positions kept; what lies beyond is rolled back
};

// How tokens are made. One object serves all sequences of an engine; methods are called by the
// scheduler's thread only.
class DecodeStrategy {
 public:
  virtual ~DecodeStrategy() = default;

  // The rows to run for `sequence`, at most `max_rows` (at least 1). Prefill is cut to max_rows,
  // and so are drafts: the scheduler counts the context, max_tokens, pages and the step's budget
  // into it.
  virtual StepDemand Demand(const Sequence& sequence, int max_rows) = 0;

  // Digests the sampled rows of a step that ran `slice`, as Demand asked for it. Does not change
  // the sequence.
  virtual StepOutcome Accept(const Sequence& sequence, const SequenceSlice& slice,
                             const SliceResult& result) = 0;

  // Whether what a step leaves is known before it has run, but for the ids of its samples: all of
  // its keys and values are kept, and every sample is committed. The next step can then be planned
  // while it runs: Demand is asked for a sequence that ends with a token that is not known.
  virtual bool Foreseeable() const { return false; }

  // Forgets what is kept about a sequence, if anything.
  virtual void Forget(SequenceId /*sequence*/) {}

  virtual std::string Name() const = 0;
};

// One token a step after a prefill in chunks.
std::unique_ptr<DecodeStrategy> MakeAutoregressive();

// Drafts by prompt lookup: where the last `ngram` tokens occurred before in the sequence, the
// tokens that followed are proposed, at most `max_draft`. Verified by sampling every drafted
// position with the request's own seeded sampler, so the text is that of autoregressive decoding,
// token for token.
std::unique_ptr<DecodeStrategy> MakeNgram(int ngram, int max_draft);

}  // namespace sluice
