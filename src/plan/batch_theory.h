#pragma once

#include <span>
#include <vector>

namespace sluice {

// Distinct experts that `tokens` tokens choose in one layer when each takes top_k different ones of
// num_experts, all alike: E (1 - (1 - k/E)^n).
double ExpectedDistinctExperts(int num_experts, int top_k, double tokens);

// The multi-batch pipeline (Klotski, arXiv:2502.06888) reduced to its transfers: of each layer's
// experts, those that any of n sequences chose cross the link once and serve all n.
struct BatchTheory {
  int num_experts = 128;
  int top_k = 8;
  int num_layers = 48;
  double expert_ms = 0.387;  // to bring one expert over the link
  double layer_ms = 0.0;     // a layer's work that no transfer hides
  double sequence_ms = 0.0;  // the same, for each sequence and layer
};

struct BatchTheoryRow {
  int sequences = 0;
  double distinct_experts = 0.0;  // expected, of one layer
  double step_ms = 0.0;           // all layers, one token a sequence
  double tokens_per_s = 0.0;
  double speedup = 0.0;  // of tokens_per_s over one sequence
};

// Throws Error(kInvalidArgument) for experts below 1, top_k not in [1, experts], layers or
// sequences below 1, and times that are negative or add up to nothing.
std::vector<BatchTheoryRow> EvaluateTheory(const BatchTheory& theory,
                                           std::span<const int> sequences);

}  // namespace sluice
