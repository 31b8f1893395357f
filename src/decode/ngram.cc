#include <algorithm>
#include <span>

#include "base/check.h"
#include "decode/chain.h"

namespace sluice {

namespace {

class Ngram : public DecodeStrategy {
 public:
  Ngram(int ngram, int max_draft) : ngram_(ngram), max_draft_(max_draft) {
    SLUICE_CHECK_GE(ngram, 1);
    SLUICE_CHECK_GE(max_draft, 1);
  }

  StepDemand Demand(const Sequence& sequence, int max_rows) override {
    StepDemand demand = NextTokens(sequence, max_rows);
    const bool decoding = sequence.length() - sequence.kv_length == 1;
    if (decoding) AddDrafts(sequence.tokens, std::min(max_draft_, max_rows - 1), demand);
    return demand;
  }

  StepOutcome Accept(const Sequence& /*sequence*/, const SequenceSlice& slice,
                     const SliceResult& result) override {
    return AcceptChain(slice, result);
  }

  std::string Name() const override { return "ngram"; }

 private:
  // The place right after the latest earlier occurrence of the last ngram_ tokens; 0 if none.
  size_t FindContinuation(std::span<const TokenId> tokens) const {
    const size_t width = static_cast<size_t>(ngram_);
    if (tokens.size() <= width) return 0;
    const auto suffix = tokens.last(width);
    for (size_t start = tokens.size() - width; start-- > 0;) {
      if (std::equal(suffix.begin(), suffix.end(),
                     tokens.begin() + static_cast<ptrdiff_t>(start))) {
        return start + width;
      }
    }
    return 0;
  }

  // A continuation that runs into the end goes on in its own drafts, so that a text that repeats
  // every token or two still gets max_draft of them.
  void AddDrafts(std::span<const TokenId> tokens, int count, StepDemand& demand) const {
    const size_t from = count > 0 ? FindContinuation(tokens) : 0;
    if (from == 0) return;
    const size_t period = tokens.size() - from;
    for (size_t i = 0; i < static_cast<size_t>(count); ++i) {
      AppendDraft(demand, tokens[from + i % period]);
    }
  }

  int ngram_;
  int max_draft_;
};

}  // namespace

std::unique_ptr<DecodeStrategy> MakeNgram(int ngram, int max_draft) {
  return std::make_unique<Ngram>(ngram, max_draft);
}

}  // namespace sluice
