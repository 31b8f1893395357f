#include "request/step.h"

#include "base/check.h"

namespace sluice {

SampleContext SequenceSlice::ContextOfSample(int i) const {
  SLUICE_CHECK(i >= 0 && i < static_cast<int>(sample_rows.size()));
  SampleContext context = sample;
  for (int row = sample_rows.front() + 1; row <= sample_rows[i]; ++row)
    context.Advance(tokens[row]);
  return context;
}

}  // namespace sluice
