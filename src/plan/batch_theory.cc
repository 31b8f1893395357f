#include "plan/batch_theory.h"

#include <cmath>
#include <string>

#include "base/error.h"

namespace sluice {
namespace {

[[noreturn]] void Fail(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, message);
}

void CheckTheory(const BatchTheory& theory) {
  if (theory.num_experts < 1 || theory.top_k < 1 || theory.top_k > theory.num_experts) {
    Fail("a layer chooses 1 to all of its experts for a token; got " +
         std::to_string(theory.top_k) + " of " + std::to_string(theory.num_experts));
  }
  if (theory.num_layers < 1) {
    Fail("expected at least 1 layer, got " + std::to_string(theory.num_layers));
  }
  const double sum = theory.expert_ms + theory.layer_ms + theory.sequence_ms;
  const bool sound = theory.expert_ms >= 0.0 && theory.layer_ms >= 0.0 &&
                     theory.sequence_ms >= 0.0 && sum > 0.0 && std::isfinite(sum);
  if (!sound) {
    Fail("times of an expert, a layer and a sequence are 0 or more ms and not all 0; got " +
         std::to_string(theory.expert_ms) + ", " + std::to_string(theory.layer_ms) + ", " +
         std::to_string(theory.sequence_ms));
  }
}

BatchTheoryRow EvaluateRow(const BatchTheory& theory, int sequences) {
  BatchTheoryRow row{.sequences = sequences};
  row.distinct_experts = ExpectedDistinctExperts(theory.num_experts, theory.top_k, sequences);
  const double layer_ms =
      row.distinct_experts * theory.expert_ms + theory.layer_ms + sequences * theory.sequence_ms;
  row.step_ms = theory.num_layers * layer_ms;
  row.tokens_per_s = 1000.0 * sequences / row.step_ms;
  return row;
}

}  // namespace

double ExpectedDistinctExperts(int num_experts, int top_k, double tokens) {
  const double experts = num_experts;
  return experts * (1.0 - std::pow(1.0 - top_k / experts, tokens));
}

std::vector<BatchTheoryRow> EvaluateTheory(const BatchTheory& theory,
                                           std::span<const int> sequences) {
  CheckTheory(theory);
  const double alone = EvaluateRow(theory, 1).tokens_per_s;
  std::vector<BatchTheoryRow> rows;
  for (const int n : sequences) {
    if (n < 1) Fail("expected at least 1 sequence, got " + std::to_string(n));
    rows.push_back(EvaluateRow(theory, n));
    rows.back().speedup = rows.back().tokens_per_s / alone;
  }
  return rows;
}

}  // namespace sluice
