#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "ops/attention/attention_kernels.h"
#include "ops/common/load_float.h"

namespace sluice::ops::reference {
namespace {

bool Sees(const VisibleRange& range, int64_t position) {
  if (position < range.begin || position >= range.end) return false;
  if (position < range.tree_begin) return true;
  const int64_t bit = position - range.tree_begin;
  return bit < 64 && ((range.tree_bits >> bit) & 1u) != 0;
}

// Element 0 of `position` in the k or v pages, whose rows have `width` elements.
const std::byte* Locate(const AttentionBlockParams& params, const std::byte* pages, int64_t width,
                        int64_t position) {
  const int64_t row = position % params.page_size * width;
  return pages + params.pages[position / params.page_size] * params.page_stride +
         row * static_cast<int64_t>(SizeOf(params.dtype));
}

void AttentionRow(const AttentionBlockParams& params, int64_t row) {
  std::vector<double> scores;
  std::vector<int64_t> visible;
  double largest = -std::numeric_limits<double>::infinity();
  for (int64_t p = params.sees[row].begin; p < params.sees[row].end; ++p) {
    if (!Sees(params.sees[row], p)) continue;
    const std::byte* key = Locate(params, params.k, params.key_dim, p);
    double score = 0.0;
    for (int64_t d = 0; d < params.key_dim; ++d) {
      score += static_cast<double>(params.q[row][d]) * LoadFloat(key, params.dtype, d);
    }
    scores.push_back(score * params.scale);
    visible.push_back(p);
    largest = std::max(largest, scores.back());
  }
  std::vector<double> sums(params.value_dim, 0.0);
  double total = 0.0;
  for (size_t i = 0; i < visible.size(); ++i) {
    const double weight = std::exp(scores[i] - largest);
    const std::byte* value = params.v == nullptr
                                 ? Locate(params, params.k, params.key_dim, visible[i])
                                 : Locate(params, params.v, params.value_dim, visible[i]);
    total += weight;
    for (int64_t d = 0; d < params.value_dim; ++d) {
      sums[d] += weight * LoadFloat(value, params.dtype, d);
    }
  }
  for (int64_t d = 0; d < params.value_dim; ++d) {
    params.out[row][d] = total > 0.0 ? static_cast<float>(sums[d] / total) : 0.0f;
  }
}

}  // namespace

void AttentionBlock(const AttentionBlockParams& params) {
  for (int64_t row = 0; row < params.rows; ++row) AttentionRow(params, row);
}

}  // namespace sluice::ops::reference
