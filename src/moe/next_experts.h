#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "plan/correlation_table.h"

namespace sluice {

// Foretells which experts the next MoE layer of a model needs from those that a step's tokens chose
// in the layer before it, and learns from what came. Behind the last layer comes the first one of
// the next step: while the same sequences decode, row i is the same sequence in both. Of a large
// step a sample of the tokens is looked at, so that a forecast costs a bounded time. One thread.
class NextExperts {
 public:
  // Layers are counted here from 0, those that route alone.
  NextExperts(int num_layers, int num_experts, int top_k);

  // A step's tokens have chosen `ids` [tokens, top_k] in `layer`; layers come in turn. Returns how
  // many of as many tokens are expected on each expert of the layer that comes next: [experts],
  // valid until the next call, zeros while nothing is known of it.
  std::span<const double> Observe(int layer, std::span<const int32_t> ids);

  // How good the forecasts of a layer were: of the experts that it needed, each counted once a
  // step, those among the as many that were foretold likeliest. A layer of which nothing was known
  // does not count.
  struct Hits {
    uint64_t needed = 0;
    uint64_t foretold = 0;
  };
  const Hits& hits(int layer) const { return hits_[static_cast<size_t>(layer)]; }

 private:
  void Judge(int layer, std::span<const int32_t> ids);
  void Sample(std::span<const int32_t> ids);
  void Forecast(int layer, size_t tokens);

  size_t experts_;
  size_t top_k_;
  CorrelationTable table_;        // a row's layer is the one predicted from
  int last_layer_ = -1;           // observed last
  size_t last_tokens_ = 0;        // of it
  std::vector<uint16_t> last_;    // [sample, top_k] what they chose
  std::vector<uint16_t> sample_;  // [sample, top_k] of the layer in hand
  std::vector<double> expected_;  // [experts] of the layer behind last_layer_
  std::vector<int> ranked_;       // [experts] scratch
  std::vector<uint8_t> needed_;   // [experts] scratch
  std::vector<Hits> hits_;        // [layers]
};

}  // namespace sluice
