#include "decode/chain.h"

namespace sluice {

namespace {

class Autoregressive : public DecodeStrategy {
 public:
  StepDemand Demand(const Sequence& sequence, int max_rows) override {
    return NextTokens(sequence, max_rows);
  }

  StepOutcome Accept(const Sequence& /*sequence*/, const SequenceSlice& slice,
                     const SliceResult& result) override {
    return AcceptChain(slice, result);
  }

  bool Foreseeable() const override { return true; }

  std::string Name() const override { return "autoregressive"; }
};

}  // namespace

std::unique_ptr<DecodeStrategy> MakeAutoregressive() {
  return std::make_unique<Autoregressive>();
}

}  // namespace sluice
