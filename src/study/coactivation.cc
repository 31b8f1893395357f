#include "study/coactivation.h"

#include <algorithm>
#include <string>
#include <utility>

#include "base/error.h"

namespace sluice {

CoActivation::CoActivation(const RouterTraceHeader& header)
    : header_(header),
      experts_(static_cast<size_t>(header.num_experts)),
      top_k_(static_cast<size_t>(header.top_k)) {
  const size_t layers = static_cast<size_t>(header.num_layers);
  const size_t pairs = layers * experts_ * experts_;
  if (2 * pairs > kMaxCounts) {
    throw Error(ErrorCode::kResourceExhausted,
                "pairs of " + std::to_string(experts_) + " experts in " + std::to_string(layers) +
                    " layers are too many: at most " + std::to_string(kMaxCounts) +
                    " counts are kept; leave co-activation out");
  }
  within_.resize(pairs);
  across_.resize(pairs);
  singles_.resize(layers * experts_);
  tokens_.resize(layers);
  next_.assign(layers, -1);
}

void CoActivation::Add(const RouterBatch& batch) {
  AddWithin(batch);
  const bool follows =
      previous_.size() > 0 && previous_.step == batch.step && previous_.layer < batch.layer;
  if (follows) {
    followable_ += previous_.size();
    if (previous_.sequences == batch.sequences && previous_.positions == batch.positions) {
      AddAcross(batch);
    }
  }
  previous_ = batch;
}

void CoActivation::AddWithin(const RouterBatch& batch) {
  const size_t layer = static_cast<size_t>(batch.layer);
  uint32_t* pairs = within_.data() + layer * experts_ * experts_;
  uint64_t* singles = singles_.data() + layer * experts_;
  for (size_t t = 0; t < batch.size(); ++t) {
    const uint16_t* chosen = batch.experts.data() + t * top_k_;
    for (size_t i = 0; i < top_k_; ++i) {
      ++singles[chosen[i]];
      for (size_t j = i + 1; j < top_k_; ++j) {
        const auto [low, high] = std::minmax(chosen[i], chosen[j]);
        ++pairs[low * experts_ + high];
      }
    }
  }
  tokens_[layer] += batch.size();
}

void CoActivation::AddAcross(const RouterBatch& batch) {
  followed_ += batch.size();
  next_[previous_.layer] = batch.layer;
  uint32_t* pairs = across_.data() + static_cast<size_t>(previous_.layer) * experts_ * experts_;
  for (size_t i = 0; i < batch.size() * top_k_; ++i) {
    uint32_t* row = pairs + previous_.experts[i] * experts_;
    const uint16_t* chosen = batch.experts.data() + i / top_k_ * top_k_;
    for (size_t j = 0; j < top_k_; ++j) ++row[chosen[j]];
  }
}

double CoActivation::Lift(const ExpertPair& pair) const {
  const auto single = [&](int layer, int expert) {
    return static_cast<double>(singles_[static_cast<size_t>(layer) * experts_ + expert]);
  };
  const double expected = single(pair.layer, pair.first) * single(pair.next_layer, pair.second) /
                          static_cast<double>(tokens_[pair.layer]);
  return static_cast<double>(pair.tokens) / expected;
}

std::vector<ExpertPair> CoActivation::Most(const std::vector<uint32_t>& of, bool within,
                                           size_t count) const {
  std::vector<size_t> order;
  for (size_t i = 0; i < of.size(); ++i) {
    if (of[i] > 0) order.push_back(i);
  }
  const size_t kept = std::min(count, order.size());
  std::partial_sort(order.begin(), order.begin() + static_cast<std::ptrdiff_t>(kept), order.end(),
                    [&](size_t a, size_t b) { return std::pair(of[b], a) < std::pair(of[a], b); });
  std::vector<ExpertPair> pairs;
  for (size_t i = 0; i < kept; ++i) {
    const int layer = static_cast<int>(order[i] / (experts_ * experts_));
    ExpertPair pair{.layer = layer,
                    .next_layer = within ? layer : next_[layer],
                    .first = static_cast<int>(order[i] / experts_ % experts_),
                    .second = static_cast<int>(order[i] % experts_),
                    .tokens = of[order[i]]};
    pair.lift = Lift(pair);
    pairs.push_back(pair);
  }
  return pairs;
}

double CoActivation::FollowedShare() const {
  return followable_ == 0 ? 1.0 : static_cast<double>(followed_) / static_cast<double>(followable_);
}

boost::json::array ToJson(const std::vector<ExpertPair>& pairs) {
  boost::json::array listed;
  for (const ExpertPair& pair : pairs) {
    listed.push_back({{"layer", pair.layer},
                      {"next_layer", pair.next_layer},
                      {"first", pair.first},
                      {"second", pair.second},
                      {"tokens", pair.tokens},
                      {"lift", pair.lift}});
  }
  return listed;
}

}  // namespace sluice
