#include "request/step.h"

#include <algorithm>
#include <iterator>
#include <numeric>
#include <utility>
#include <vector>

#include "base/check.h"

namespace sluice {

SampleContext SequenceSlice::ContextOfSample(int i) const {
  SLUICE_CHECK(i >= 0 && i < static_cast<int>(sample_rows.size()));
  SampleContext context = sample;
  for (int row = sample_rows.front() + 1; row <= sample_rows[i]; ++row)
    context.Advance(tokens[row]);
  return context;
}

int64_t StepPlan::NumTokens() const {
  int64_t tokens = 0;
  for (const SequenceSlice& slice : slices) tokens += std::ssize(slice.tokens);
  return tokens;
}

int64_t StepPlan::NumWholeTokens() const {
  int64_t whole = 0;
  int64_t partial = 0;
  int groups = 1;  // of all that are not whole
  for (const SequenceSlice& slice : slices) {
    (slice.layers.IsAll() ? whole : partial) += std::ssize(slice.tokens);
    groups = std::max(groups, slice.layers.of);
  }
  return whole + (partial + groups - 1) / groups;
}

SpanFacts FactsOf(const StepPlan& plan) {
  return {.step = static_cast<int64_t>(plan.step),
          .sequences = std::ssize(plan.slices),
          .tokens = plan.NumTokens()};
}

SequenceSlice ContiguousSlice(SequenceId id, std::span<const TokenId> tokens, int begin, int end,
                              int first_page, int page_size) {
  SLUICE_CHECK(0 <= begin && begin < end && end <= std::ssize(tokens));
  SequenceSlice slice{.sequence = id, .kv_length = end};
  slice.tokens.assign(tokens.begin() + begin, tokens.begin() + end);
  slice.positions.resize(end - begin);
  std::iota(slice.positions.begin(), slice.positions.end(), begin);
  slice.kv_positions = slice.positions;
  std::vector<PageId> pages((end + page_size - 1) / page_size);
  std::iota(pages.begin(), pages.end(), first_page);
  slice.pages = BlockTable(std::move(pages));
  return slice;
}

}  // namespace sluice
