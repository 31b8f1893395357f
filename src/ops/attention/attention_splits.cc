#include <algorithm>

#include "ops/attention/attention_kernels.h"

namespace sluice::ops::cuda {
namespace {

constexpr int kTileRows = 16;

int CeilDivide(int a, int b) {
  return (a + b - 1) / b;
}

// Into how many splits a tile is cut: those that leave the multiprocessors idle least, where each
// runs one block at a time.
int ChooseSplits(int tiles, int units, int multiprocessors) {
  // What a block costs beside its positions, and what a split adds to the last block's work, in
  // units of positions.
  constexpr double kBlockCost = 2.0;
  constexpr double kSplitCost = 0.05;
  constexpr int kMaxSplits = 64;
  int best = 1;
  double best_cost = 0.0;
  for (int splits = 1; splits <= std::min(units, kMaxSplits); ++splits) {
    const double waves = CeilDivide(tiles * splits, multiprocessors);
    const double cost = waves * (CeilDivide(units, splits) + kBlockCost) + splits * kSplitCost;
    if (splits > 1 && cost >= best_cost) continue;
    best = splits;
    best_cost = cost;
  }
  return best;
}

}  // namespace

int LongestTile(const AttentionParams& params, int unit) {
  const SequenceTables& tables = params.tables;
  const int length = tables.max_kv_length;
  // A windowed tile's positions begin anywhere in a unit.
  return params.window == 0 ? length
                            : std::min(length, params.window + tables.max_query_count + unit);
}

SplitPlan PlanSplits(const AttentionParams& params, int max_rows, int unit, int multiprocessors) {
  const SequenceTables& tables = params.tables;
  const int group_heads = params.num_heads / params.num_kv_heads;
  const int rows = std::min(max_rows, tables.max_query_count * group_heads);
  const int row_blocks = CeilDivide(rows, kTileRows);
  const int heads = params.num_kv_heads * row_blocks;
  const int tiles = tables.sequences * heads;
  const int units = std::max(1, CeilDivide(LongestTile(params, unit), unit));
  const int splits = heads > kAttentionCounters ? 1 : ChooseSplits(tiles, units, multiprocessors);
  const int64_t parts = splits == 1 ? 0 : int64_t{tiles} * splits * kTileRows;
  return {.max_rows = max_rows,
          .splits = splits,
          .row_blocks = row_blocks,
          .rows = kTileRows,
          .partial_floats = parts * params.value_dim,
          .state_floats = parts * 2};
}

}  // namespace sluice::ops::cuda
