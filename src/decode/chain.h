#pragma once

#include "decode/decode_strategy.h"

namespace sluice {

// What strategies that make tokens from left to right have in common: rows in order of position,
// keys and values at their positions, a causal mask.

// The uncomputed tokens of `sequence`, cut to `max_rows`. The last one is sampled after if it is
// reached.
StepDemand NextTokens(const Sequence& sequence, int max_rows);

// Appends `token` as a draft: a row that is sampled after and may be dropped.
void AppendDraft(StepDemand& demand, TokenId token);

// Commits the samples from left to right for as long as each equals the draft that the next row was
// computed from.
StepOutcome AcceptChain(const SequenceSlice& slice, const SliceResult& result);

}  // namespace sluice
