#include "moe/next_experts.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace sluice {
namespace {

// Tokens of a step that are learnt from, and those a forecast is made from: to predict from one
// takes microseconds, some fifty times what it takes to learn from one.
constexpr size_t kLearntTokens = 256;
constexpr size_t kForecastTokens = 64;
// Tokens after which what was learnt counts half, so that forecasts follow the load.
constexpr double kHalfLife = 32'768;

}  // namespace

NextExperts::NextExperts(int num_layers, int num_experts, int top_k)
    : experts_(static_cast<size_t>(num_experts)),
      top_k_(static_cast<size_t>(top_k)),
      table_(num_layers, num_experts, top_k, {.half_life = kHalfLife}),
      expected_(experts_),
      ranked_(experts_),
      needed_(experts_),
      hits_(static_cast<size_t>(num_layers)) {}

std::span<const double> NextExperts::Observe(int layer, std::span<const int32_t> ids) {
  SLUICE_CHECK_LT(static_cast<size_t>(layer), hits_.size());
  SLUICE_CHECK_EQ(ids.size() % top_k_, 0u);
  const int layers = static_cast<int>(hits_.size());
  const size_t tokens = ids.size() / top_k_;
  const bool follows = last_layer_ >= 0 && (last_layer_ + 1) % layers == layer;
  Sample(ids);
  if (follows) Judge(layer, ids);
  if (follows && tokens == last_tokens_) table_.Learn(last_layer_, last_, sample_);
  last_.swap(sample_);
  last_layer_ = layer;
  last_tokens_ = tokens;
  Forecast(layer, tokens);
  return expected_;
}

// Evenly spaced tokens, so that every sequence of a step is among them.
void NextExperts::Sample(std::span<const int32_t> ids) {
  const size_t tokens = ids.size() / top_k_;
  const size_t count = std::min(tokens, kLearntTokens);
  sample_.resize(count * top_k_);
  for (size_t i = 0; i < count; ++i) {
    const std::span<const int32_t> token = ids.subspan(i * tokens / count * top_k_, top_k_);
    std::copy(token.begin(), token.end(), sample_.begin() + static_cast<ptrdiff_t>(i * top_k_));
  }
}

void NextExperts::Forecast(int layer, size_t tokens) {
  const size_t count = last_.size() / top_k_;
  const size_t stride = (count + kForecastTokens - 1) / kForecastTokens;
  if (stride > 1) {
    // sample_ is free until the next layer.
    sample_.clear();
    for (size_t i = 0; i < count; i += stride) {
      const auto token = last_.begin() + static_cast<ptrdiff_t>(i * top_k_);
      sample_.insert(sample_.end(), token, token + static_cast<ptrdiff_t>(top_k_));
    }
  }
  const std::vector<uint16_t>& from = stride > 1 ? sample_ : last_;
  table_.Predict(layer, from, expected_);
  if (from.empty()) return;
  const double scale = static_cast<double>(tokens * top_k_) / static_cast<double>(from.size());
  for (double& expected : expected_) expected *= scale;
}

void NextExperts::Judge(int layer, std::span<const int32_t> ids) {
  const bool known = std::any_of(expected_.begin(), expected_.end(),
                                 [](double expected) { return expected > 0.0; });
  if (!known) return;
  std::fill(needed_.begin(), needed_.end(), 0);
  for (const int32_t id : ids) needed_[static_cast<size_t>(id)] = 1;
  const auto distinct = std::accumulate(needed_.begin(), needed_.end(), ptrdiff_t{0});
  std::iota(ranked_.begin(), ranked_.end(), 0);
  std::partial_sort(ranked_.begin(), ranked_.begin() + distinct, ranked_.end(), [&](int a, int b) {
    return expected_[a] != expected_[b] ? expected_[a] > expected_[b] : a < b;
  });
  Hits& hits = hits_[static_cast<size_t>(layer)];
  hits.needed += static_cast<uint64_t>(distinct);
  for (ptrdiff_t i = 0; i < distinct; ++i) hits.foretold += needed_[ranked_[i]];
}

}  // namespace sluice
