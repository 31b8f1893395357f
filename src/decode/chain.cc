#include "decode/chain.h"

#include <algorithm>

#include "base/check.h"

namespace sluice {

namespace {

void AppendRow(StepDemand& demand, TokenId token, int position) {
  demand.tokens.push_back(token);
  demand.positions.push_back(position);
  demand.kv_positions.push_back(position);
  demand.kv_length = position + 1;
}

}  // namespace

StepDemand NextTokens(const Sequence& sequence, int max_rows) {
  SLUICE_CHECK_GE(max_rows, 1);
  SLUICE_CHECK_LT(sequence.kv_length, sequence.length());
  const int end = std::min(sequence.length(), sequence.kv_length + max_rows);
  StepDemand demand;
  for (int position = sequence.kv_length; position < end; ++position) {
    AppendRow(demand, sequence.tokens[position], position);
  }
  if (end == sequence.length()) demand.sample_rows.push_back(end - sequence.kv_length - 1);
  return demand;
}

void AppendDraft(StepDemand& demand, TokenId token) {
  AppendRow(demand, token, demand.kv_length);
  demand.sample_rows.push_back(static_cast<int32_t>(demand.tokens.size()) - 1);
}

StepOutcome AcceptChain(const SequenceSlice& slice, const SliceResult& result) {
  SLUICE_CHECK_EQ(result.samples.size(), slice.sample_rows.size());
  StepOutcome outcome{.kv_length = slice.kv_length};
  outcome.committed.reserve(result.samples.size());
  for (size_t i = 0; i < result.samples.size(); ++i) {
    const size_t row = static_cast<size_t>(slice.sample_rows[i]);
    outcome.committed.push_back(result.samples[i]);
    outcome.kv_length = slice.kv_positions[row] + 1;
    const bool drafted = row + 1 < slice.tokens.size();
    if (!drafted || slice.tokens[row + 1] != result.samples[i].token) break;
  }
  return outcome;
}

}  // namespace sluice
