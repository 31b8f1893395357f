#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <mutex>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "device/tensor.h"
#include "trace/router_observer.h"

namespace sluice {

// Where the experts of a token come from. Called after the router op of each MoE layer, on every
// backend, so that all of them can run with the same experts.
class RoutingSource {
 public:
  virtual ~RoutingSource() = default;

  // May overwrite what the router chose. One thread at a time; where ReadsModel is false several,
  // each with a layer of its own.
  virtual void Apply(int layer, std::span<const RoutingKey> tokens,
                     TensorView weights,   // [T, top_k] f32, contiguous
                     TensorView ids) = 0;  // [T, top_k] i32, contiguous
  // "model", "replay", "uniform:7": written into every result.
  virtual std::string Name() const = 0;
  // Whether Apply never changes anything, so that callers may skip it.
  virtual bool IsModel() const { return false; }
  // Whether Apply reads what the router chose. If not, it may be called before the router has run.
  virtual bool ReadsModel() const { return true; }
};

// What the model's own router chose.
class ModelRouting : public RoutingSource {
 public:
  void Apply(int, std::span<const RoutingKey>, TensorView, TensorView) override {}
  std::string Name() const override { return "model"; }
  bool IsModel() const override { return true; }
};

// What a replay does with the weights.
enum class ReplayWeights {
  kRecorded,   // experts and weights as recorded
  kFromModel,  // recorded experts; an expert that the model chose too keeps the model's weight, any
               // other has its recorded one
};

// Experts from a recorded trace, looked up by (layer, sequence, position). Shares the trace. Throws
// Error(kNotFound) for a token that the trace does not have and Error(kInvalidArgument) for another
// top_k.
class ReplayRouting : public RoutingSource {
 public:
  explicit ReplayRouting(std::shared_ptr<const InMemoryTrace> trace,
                         ReplayWeights weights = ReplayWeights::kRecorded);
  void Apply(int layer, std::span<const RoutingKey> tokens, TensorView weights,
             TensorView ids) override;
  std::string Name() const override { return "replay"; }
  bool ReadsModel() const override { return weights_ == ReplayWeights::kFromModel; }

 private:
  std::shared_ptr<const InMemoryTrace> trace_;
  ReplayWeights weights_;
};

class TokenRandom;

enum class SyntheticKind {
  kUniform,  // every expert alike
  kZipf,     // expert of rank r with probability proportional to 1 / (r + 1)^exponent
  kSkewed,   // a fraction of the tokens takes its experts from the hot ones, which are the first
             // max(top_k, experts / 16) of the layer's order; the others from all alike
  kMarkov,   // a chain over a token's layers: each of its experts is, with a given probability, the
             // one of the same rank as in the layer before; else drawn anew, by popularity 1 / rank
  kDrifting,  // by popularity 1 / rank, where all ranks move on by one expert every so many
              // positions
};

struct SyntheticDesc {
  SyntheticKind kind = SyntheticKind::kUniform;
  double parameter = 0.0;  // zipf's exponent > 0; skewed's hot fraction and markov's probability
                           // in [0, 1]; drifting's positions >= 1, whole
  uint64_t seed = 0;
};

// Experts drawn without replacement, with weights 1 / top_k. A token's experts depend only on the
// seed, layer, sequence and position. Which experts are popular differs from layer to layer.
class SyntheticRouting : public RoutingSource {
 public:
  SyntheticRouting(const SyntheticDesc& desc, int num_experts);
  void Apply(int layer, std::span<const RoutingKey> tokens, TensorView weights,
             TensorView ids) override;
  std::string Name() const override;
  bool ReadsModel() const override { return false; }

 private:
  void Draw(int layer, const RoutingKey& key, std::span<int32_t> experts) const;
  // Ranks of each kind's draw.
  void DrawZipf(TokenRandom& random, std::span<int32_t> ranks) const;
  void DrawMarkov(int layer, const RoutingKey& key, std::span<int32_t> ranks) const;
  void DrawDrifting(TokenRandom& random, int32_t position, std::span<int32_t> ranks) const;
  // A rank by popularity 1 / rank that is not among `taken`.
  int32_t DrawOther(TokenRandom& random, std::span<const int32_t> taken) const;
  const std::vector<int32_t>& LayerOrder(int layer);

  SyntheticDesc desc_;
  int num_experts_;
  std::vector<double> popularity_;  // [num_experts] of rank r, for kZipf
  std::vector<double> cumulative_;  // [num_experts] of 1 / rank, from above 0 to 1
  std::mutex order_mutex_;
  std::map<int, std::vector<int32_t>> order_;  // by layer, [rank] expert; made when first asked for
};

// What a routing source must suit.
struct RoutedModel {
  int num_layers = 0;  // decoder layers, those that do not route among them
  int num_experts = 0;
  int top_k = 0;
};

// Reads "uniform[:seed]", "zipf:EXPONENT[:seed]", "skewed:FRACTION[:seed]", "markov:P[:seed]" or
// "drifting:POSITIONS[:seed]". Throws Error(kInvalidArgument) for anything else.
SyntheticDesc ParseSynthetic(std::string_view text);

// Reads those, "model" and "replay:FILE". Throws Error(kInvalidArgument) for anything else and for
// a FILE recorded with a model of another shape, and what reading FILE throws.
std::unique_ptr<RoutingSource> ParseRoutingSource(std::string_view text, const RoutedModel& model);

}  // namespace sluice
