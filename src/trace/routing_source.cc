#include "trace/routing_source.h"

#include <algorithm>
#include <charconv>
#include <cmath>
#include <functional>
#include <numeric>
#include <optional>

#include "base/check.h"
#include "base/error.h"

namespace sluice {

// splitmix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators"): seeded with a
// token's place, it gives that token's draws.
class TokenRandom {
 public:
  TokenRandom(uint64_t seed, uint64_t layer, uint64_t sequence, uint64_t position) : state_(seed) {
    for (const uint64_t part : {layer, sequence, position}) state_ = Next() ^ part;
    state_ = Next();
  }
  uint64_t Next() {
    uint64_t x = state_ += 0x9e3779b97f4a7c15ull;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ (x >> 27)) * 0x94d049bb133111ebull;
    return x ^ (x >> 31);
  }
  // In (0, 1): 53 bits, never 0, so that its logarithm is finite.
  double Uniform() { return (static_cast<double>(Next() >> 11) + 0.5) * 0x1p-53; }
  // In [0, bound), bound below 2^32. The bias of the product is below bound / 2^32.
  uint64_t Below(uint64_t bound) { return (Next() >> 32) * bound >> 32; }

 private:
  uint64_t state_;
};

namespace {

const char* KindName(SyntheticKind kind) {
  switch (kind) {
    case SyntheticKind::kUniform:
      return "uniform";
    case SyntheticKind::kZipf:
      return "zipf";
    case SyntheticKind::kSkewed:
      return "skewed";
    case SyntheticKind::kMarkov:
      return "markov";
    case SyntheticKind::kDrifting:
      return "drifting";
  }
  return "unknown";
}

int CheckRouting(std::span<const RoutingKey> tokens, const TensorView& weights,
                 const TensorView& ids) {
  SLUICE_CHECK_EQ(weights.shape(), ids.shape());
  SLUICE_CHECK_EQ(ids.rank(), 2);
  SLUICE_CHECK_EQ(ids.dim(0), static_cast<int64_t>(tokens.size()));
  SLUICE_CHECK(weights.IsContiguous() && ids.IsContiguous());
  return static_cast<int>(ids.dim(1));
}

// Draws experts.size() different values of [0, count) by rejection: few are drawn of many.
void DrawDistinct(TokenRandom& random, int count, std::span<int32_t> experts) {
  for (size_t i = 0; i < experts.size();) {
    const int32_t drawn = static_cast<int32_t>(random.Below(static_cast<uint64_t>(count)));
    const auto end = experts.begin() + static_cast<std::ptrdiff_t>(i);
    if (std::find(experts.begin(), end, drawn) == end) experts[i++] = drawn;
  }
}

[[noreturn]] void FailParse(std::string_view text) {
  throw Error(
      ErrorCode::kInvalidArgument,
      "routing source \"" + std::string(text) +
          "\" is not one of model, replay:FILE, uniform[:SEED], zipf:EXPONENT[:SEED] with "
          "EXPONENT above 0, skewed:FRACTION[:SEED] with FRACTION in [0, 1], markov:P[:SEED] with "
          "P in [0, 1], drifting:POSITIONS[:SEED] with POSITIONS 1 or more");
}

template <class T>
std::optional<T> ParseNumber(std::string_view text) {
  T value{};
  const char* end = text.data() + text.size();
  const auto [stop, error] = std::from_chars(text.data(), end, value);
  if (error != std::errc() || stop != end) return std::nullopt;
  return value;
}

// Takes the text up to the next colon off the front of `rest`.
std::string_view TakeField(std::string_view& rest) {
  const size_t colon = rest.find(':');
  const std::string_view field = rest.substr(0, colon);
  rest = colon == std::string_view::npos ? std::string_view() : rest.substr(colon + 1);
  return field;
}

// What a kind's parameter may be.
struct ParameterRange {
  SyntheticKind kind;
  double lowest;
  double highest;
  bool whole;
};
constexpr ParameterRange kParameters[] = {{SyntheticKind::kZipf, 1e-9, 100.0, false},
                                          {SyntheticKind::kSkewed, 0.0, 1.0, false},
                                          {SyntheticKind::kMarkov, 0.0, 1.0, false},
                                          {SyntheticKind::kDrifting, 1.0, 1e9, true}};

void CheckRecordedWith(const RouterTraceHeader& header, const RoutedModel& model,
                       const std::string& file) {
  const auto check = [&](const char* what, int recorded, int has) {
    if (recorded == has) return;
    throw Error(ErrorCode::kInvalidArgument, file + ": was recorded with " +
                                                 std::to_string(recorded) + " " + what +
                                                 ", the model has " + std::to_string(has));
  };
  check("layers", header.num_layers, model.num_layers);
  check("experts", header.num_experts, model.num_experts);
  check("experts a token", header.top_k, model.top_k);
}

}  // namespace

ReplayRouting::ReplayRouting(std::shared_ptr<const InMemoryTrace> trace, ReplayWeights weights)
    : trace_(std::move(trace)), weights_(weights) {
  SLUICE_CHECK(trace_ != nullptr);
}

void ReplayRouting::Apply(int layer, std::span<const RoutingKey> tokens, TensorView weights,
                          TensorView ids) {
  const int top_k = CheckRouting(tokens, weights, ids);
  if (top_k != trace_->header().top_k) {
    throw Error(ErrorCode::kInvalidArgument,
                "the trace to replay has " + std::to_string(trace_->header().top_k) +
                    " experts a token, the model " + std::to_string(top_k));
  }
  int32_t* id = ids.data<int32_t>();
  float* weight = weights.data<float>();
  std::vector<std::pair<int32_t, float>> chosen(static_cast<size_t>(top_k));
  for (const RoutingKey& token : tokens) {
    const std::optional<InMemoryTrace::Entry> entry = trace_->Find(layer, token);
    if (!entry) {
      throw Error(ErrorCode::kNotFound, "the trace to replay has no record of layer " +
                                            std::to_string(layer) + ", sequence " +
                                            std::to_string(token.sequence) + ", position " +
                                            std::to_string(token.position));
    }
    for (int k = 0; k < top_k; ++k) chosen[k] = {id[k], weight[k]};
    for (int k = 0; k < top_k; ++k) {
      id[k] = entry->experts[k];
      weight[k] = entry->weights[k];
      if (weights_ == ReplayWeights::kRecorded) continue;
      const auto same = std::find_if(chosen.begin(), chosen.end(),
                                     [&](const auto& own) { return own.first == id[k]; });
      if (same != chosen.end()) weight[k] = same->second;
    }
    id += top_k;
    weight += top_k;
  }
}

SyntheticRouting::SyntheticRouting(const SyntheticDesc& desc, int num_experts)
    : desc_(desc), num_experts_(num_experts) {
  SLUICE_CHECK_GE(num_experts, 1);
  double sum = 0.0;
  for (int rank = 0; rank < num_experts; ++rank) {
    popularity_.push_back(std::pow(rank + 1.0, -desc.parameter));
    cumulative_.push_back(sum += 1.0 / (rank + 1.0));
  }
  for (double& share : cumulative_) share /= sum;
}

std::string SyntheticRouting::Name() const {
  std::string name = KindName(desc_.kind);
  if (desc_.kind != SyntheticKind::kUniform) {
    char text[32];
    const auto [end, error] = std::to_chars(text, text + sizeof(text), desc_.parameter);
    SLUICE_CHECK(error == std::errc());
    name.append(":").append(text, end);
  }
  return name.append(":").append(std::to_string(desc_.seed));
}

void SyntheticRouting::Apply(int layer, std::span<const RoutingKey> tokens, TensorView weights,
                             TensorView ids) {
  const int top_k = CheckRouting(tokens, weights, ids);
  SLUICE_CHECK_LE(top_k, num_experts_);
  const std::vector<int32_t>& order = LayerOrder(layer);
  int32_t* id = ids.data<int32_t>();
  for (const RoutingKey& token : tokens) {
    Draw(layer, token, {id, static_cast<size_t>(top_k)});
    for (int k = 0; k < top_k; ++k) id[k] = order[id[k]];
    id += top_k;
  }
  std::fill_n(weights.data<float>(), weights.NumElements(), 1.0f / static_cast<float>(top_k));
}

void SyntheticRouting::Draw(int layer, const RoutingKey& key, std::span<int32_t> experts) const {
  TokenRandom random(desc_.seed, static_cast<uint64_t>(layer), key.sequence,
                     static_cast<uint64_t>(key.position));
  switch (desc_.kind) {
    case SyntheticKind::kUniform:
      DrawDistinct(random, num_experts_, experts);
      break;
    case SyntheticKind::kZipf:
      DrawZipf(random, experts);
      break;
    case SyntheticKind::kSkewed: {
      const int hot = std::max(static_cast<int>(experts.size()), num_experts_ / 16);
      const bool is_hot = random.Uniform() < desc_.parameter;
      DrawDistinct(random, is_hot ? hot : num_experts_, experts);
      break;
    }
    case SyntheticKind::kMarkov:
      DrawMarkov(layer, key, experts);
      break;
    case SyntheticKind::kDrifting:
      DrawDrifting(random, key.position, experts);
      break;
  }
}

void SyntheticRouting::DrawZipf(TokenRandom& random, std::span<int32_t> ranks) const {
  // The largest of log(u) / p draw without replacement by popularity p (Efraimidis and Spirakis:
  // "Weighted random sampling with a reservoir").
  std::vector<std::pair<double, int32_t>> keys;
  keys.reserve(static_cast<size_t>(num_experts_));
  for (int rank = 0; rank < num_experts_; ++rank) {
    keys.emplace_back(std::log(random.Uniform()) / popularity_[rank], rank);
  }
  std::partial_sort(keys.begin(), keys.begin() + static_cast<std::ptrdiff_t>(ranks.size()),
                    keys.end(), std::greater<>());
  for (size_t k = 0; k < ranks.size(); ++k) ranks[k] = keys[k].second;
}

void SyntheticRouting::DrawMarkov(int layer, const RoutingKey& key,
                                  std::span<int32_t> ranks) const {
  // The chain is run anew from its first layer, so that a token's experts depend on its place only.
  std::vector<bool> kept(ranks.size());
  std::vector<int32_t> settled;
  for (int at = 0; at <= layer; ++at) {
    TokenRandom random(desc_.seed, static_cast<uint64_t>(at), key.sequence,
                       static_cast<uint64_t>(key.position));
    settled.clear();
    for (size_t k = 0; k < ranks.size(); ++k) {
      kept[k] = random.Uniform() < desc_.parameter && at > 0;
      if (kept[k]) settled.push_back(ranks[k]);
    }
    for (size_t k = 0; k < ranks.size(); ++k) {
      if (kept[k]) continue;
      ranks[k] = DrawOther(random, settled);
      settled.push_back(ranks[k]);
    }
  }
}

void SyntheticRouting::DrawDrifting(TokenRandom& random, int32_t position,
                                    std::span<int32_t> ranks) const {
  for (size_t k = 0; k < ranks.size(); ++k) ranks[k] = DrawOther(random, ranks.first(k));
  const int32_t moved =
      static_cast<int32_t>(position / static_cast<int64_t>(desc_.parameter) % num_experts_);
  for (int32_t& rank : ranks) rank = (rank + moved) % num_experts_;
}

int32_t SyntheticRouting::DrawOther(TokenRandom& random, std::span<const int32_t> taken) const {
  for (;;) {
    const auto found =
        std::lower_bound(cumulative_.begin(), cumulative_.end() - 1, random.Uniform());
    const auto rank = static_cast<int32_t>(found - cumulative_.begin());
    if (std::find(taken.begin(), taken.end(), rank) == taken.end()) return rank;
  }
}

const std::vector<int32_t>& SyntheticRouting::LayerOrder(int layer) {
  SLUICE_CHECK_GE(layer, 0);
  const std::lock_guard lock(order_mutex_);
  std::vector<int32_t>& order = order_[layer];
  if (!order.empty()) return order;
  order.resize(static_cast<size_t>(num_experts_));
  std::iota(order.begin(), order.end(), 0);
  // A place that no token has keeps this shuffle apart from the draws.
  TokenRandom random(desc_.seed, static_cast<uint64_t>(layer), ~uint64_t{0}, ~uint64_t{0});
  for (size_t i = order.size() - 1; i > 0; --i) std::swap(order[i], order[random.Below(i + 1)]);
  return order;
}

SyntheticDesc ParseSynthetic(std::string_view text) {
  SyntheticDesc desc;
  std::string_view rest = text;
  const std::string_view kind = TakeField(rest);
  const auto* range =
      std::find_if(std::begin(kParameters), std::end(kParameters),
                   [&](const ParameterRange& known) { return kind == KindName(known.kind); });
  if (range != std::end(kParameters)) {
    desc.kind = range->kind;
    const std::optional<double> parameter = ParseNumber<double>(TakeField(rest));
    const bool in_range = parameter && *parameter >= range->lowest && *parameter <= range->highest;
    if (!in_range || (range->whole && *parameter != std::floor(*parameter))) FailParse(text);
    desc.parameter = *parameter;
  } else if (kind != KindName(SyntheticKind::kUniform)) {
    FailParse(text);
  }
  if (text.back() == ':') FailParse(text);
  if (rest.empty()) return desc;
  const std::optional<uint64_t> seed = ParseNumber<uint64_t>(rest);
  if (!seed) FailParse(text);
  desc.seed = *seed;
  return desc;
}

std::unique_ptr<RoutingSource> ParseRoutingSource(std::string_view text, const RoutedModel& model) {
  constexpr std::string_view kReplay = "replay:";
  if (text == "model") return std::make_unique<ModelRouting>();
  if (text.starts_with(kReplay) && text.size() > kReplay.size()) {
    const std::filesystem::path path(text.substr(kReplay.size()));
    auto trace = std::make_shared<InMemoryTrace>(InMemoryTrace::FromFile(path));
    CheckRecordedWith(trace->header(), model, path.string());
    return std::make_unique<ReplayRouting>(std::move(trace));
  }
  if (text.empty()) FailParse(text);
  return std::make_unique<SyntheticRouting>(ParseSynthetic(text), model.num_experts);
}

}  // namespace sluice
