#include "plan/correlation_table.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "base/check.h"

namespace sluice {
namespace {

// A token weighs more than those before it instead of these less; past this weight all are scaled
// down, so that sums stay in range.
constexpr double kLargestWeight = 0x1p40;

// Evidence fades by this with each batch, so that trust follows a load that changes, and what is
// behind by more is as good as out, so that it can come back.
constexpr double kEvidenceKept = 0.99;
constexpr double kMostBehind = 30.0;

// Chances stay this far from 0 and 1: no row is certain.
constexpr float kLeastChance = 1e-5f;

float Bounded(float chance) {
  return std::min(std::max(chance, kLeastChance), 1.0f - kLeastChance);
}

// Scales chances so that they add up to the experts that a token chooses.
void Normalize(std::vector<float>& chances, size_t top_k) {
  const float sum = std::accumulate(chances.begin(), chances.end(), 0.0f);
  const float scale = static_cast<float>(top_k) / sum;
  for (float& chance : chances) chance *= scale;
}

}  // namespace

CorrelationTable::CorrelationTable(int num_layers, int num_experts, int top_k,
                                   const CorrelationOptions& options)
    : experts_(static_cast<size_t>(num_experts)),
      top_k_(static_cast<size_t>(top_k)),
      row_entries_(static_cast<size_t>(options.row_entries)),
      growth_(options.half_life > 0.0 ? std::exp2(1.0 / options.half_life) : 1.0),
      prior_(options.prior),
      layers_(static_cast<size_t>(num_layers)),
      frequency_(experts_),
      row_(experts_),
      odds_(experts_) {
  chances_.fill(std::vector<float>(experts_));
  SLUICE_CHECK(num_layers >= 1 && top_k >= 1 && top_k <= num_experts && num_experts <= 65536);
  SLUICE_CHECK(options.row_entries >= 0 && options.prior > 0.0);
  if (row_entries_ == 0 || row_entries_ > experts_) row_entries_ = experts_;
  for (Layer& layer : layers_) {
    layer.from.resize(experts_);
    layer.to.resize(experts_);
    if (row_entries_ == experts_) {
      layer.dense.resize(experts_ * experts_);
    } else {
      layer.entries.resize(experts_ * row_entries_);
    }
  }
}

void CorrelationTable::Learn(int layer, std::span<const uint16_t> from,
                             std::span<const uint16_t> to) {
  SLUICE_CHECK_LT(static_cast<size_t>(layer), layers_.size());
  SLUICE_CHECK_EQ(from.size(), to.size());
  SLUICE_CHECK_EQ(from.size() % top_k_, 0u);
  if (from.empty()) return;
  // One token of the batch is enough to weigh by.
  Weigh(layers_[static_cast<size_t>(layer)], from.first(top_k_), to.first(top_k_));
  for (size_t at = 0; at < from.size(); at += top_k_) {
    LearnToken(layers_[static_cast<size_t>(layer)], from.subspan(at, top_k_),
               to.subspan(at, top_k_));
  }
}

void CorrelationTable::Weigh(Layer& layer, std::span<const uint16_t> from,
                             std::span<const uint16_t> to) {
  if (layer.tokens == 0.0) return;
  SetFrequencies(layer);
  ForecastToken(layer, from);
  for (size_t f = 0; f < kNumForecasts; ++f) {
    layer.evidence[f] *= kEvidenceKept;
    for (const uint16_t expert : to) layer.evidence[f] += std::log(Bounded(chances_[f][expert]));
  }
  const double most = *std::max_element(layer.evidence.begin(), layer.evidence.end());
  for (double& evidence : layer.evidence) evidence = std::max(evidence - most, -kMostBehind);
}

std::array<double, kNumForecasts> CorrelationTable::Trust(int layer) const {
  const auto& evidence = layers_[static_cast<size_t>(layer)].evidence;
  std::array<double, kNumForecasts> trust;
  double sum = 0.0;
  for (size_t f = 0; f < kNumForecasts; ++f) sum += trust[f] = std::exp(evidence[f]);
  for (double& part : trust) part /= sum;
  return trust;
}

void CorrelationTable::SetFrequencies(const Layer& layer) {
  for (size_t e = 0; e < experts_; ++e) {
    frequency_[e] = Bounded(static_cast<float>(layer.to[e] / layer.tokens));
  }
}

void CorrelationTable::SetRow(const Layer& layer, uint16_t expert) {
  const double prior = prior_ * layer.weight;
  const auto scale = static_cast<float>(1.0 / (layer.from[expert] + prior));
  if (!layer.dense.empty()) {
    const float* row = layer.dense.data() + expert * experts_;
    const float by_frequency = static_cast<float>(prior) * scale;
    for (size_t e = 0; e < experts_; ++e) row_[e] = row[e] * scale + frequency_[e] * by_frequency;
    return;
  }
  // A short row holds the experts that follow most often, less what newcomers wore off: it can tell
  // that one is likelier than elsewhere, not that one is rarer.
  std::copy(frequency_.begin(), frequency_.end(), row_.begin());
  const std::span<const Entry> row(layer.entries.data() + expert * row_entries_, row_entries_);
  for (const Entry& entry : row) {
    const float before = frequency_[entry.expert];
    const float chance = (entry.weight + static_cast<float>(prior) * before) * scale;
    row_[entry.expert] = std::max(before, chance);
  }
}

void CorrelationTable::ForecastToken(const Layer& layer, std::span<const uint16_t> from) {
  const auto of = [&](Forecast forecast) -> std::vector<float>& {
    return chances_[static_cast<size_t>(forecast)];
  };
  std::vector<float>& mean = of(Forecast::kMean);
  std::fill(mean.begin(), mean.end(), 0.0f);
  std::fill(odds_.begin(), odds_.end(), 1.0f);  // what the rows multiply the odds with
  for (const uint16_t expert : from) {
    SetRow(layer, expert);
    for (size_t e = 0; e < experts_; ++e) {
      const float chance = Bounded(row_[e]);
      const float before = frequency_[e];
      mean[e] += chance;
      odds_[e] *= chance * (1.0f - before) / ((1.0f - chance) * before);
    }
  }
  for (size_t e = 0; e < experts_; ++e) {
    const float odds = frequency_[e] / (1.0f - frequency_[e]);
    const float factor = std::min(std::max(odds_[e], 1e-15f), 1e15f);
    const float whole = odds * factor;
    const float half = odds * std::sqrt(factor);
    of(Forecast::kFrequency)[e] = frequency_[e];
    of(Forecast::kHalfOdds)[e] = half / (1.0f + half);
    of(Forecast::kOdds)[e] = whole / (1.0f + whole);
  }
  for (std::vector<float>& chances : chances_) Normalize(chances, top_k_);
}

void CorrelationTable::LearnToken(Layer& layer, std::span<const uint16_t> from,
                                  std::span<const uint16_t> to) {
  const auto weight = static_cast<float>(layer.weight);
  for (const uint16_t expert : to) layer.to[expert] += layer.weight;
  for (const uint16_t expert : from) {
    layer.from[expert] += layer.weight;
    if (!layer.dense.empty()) {
      float* row = layer.dense.data() + expert * experts_;
      for (const uint16_t later : to) row[later] += weight;
    } else {
      const std::span<Entry> row(layer.entries.data() + expert * row_entries_, row_entries_);
      for (const uint16_t later : to) LearnEntry(row, later, weight);
    }
  }
  layer.tokens += layer.weight;
  layer.weight *= growth_;
  if (layer.weight > kLargestWeight) Rescale(layer);
}

void CorrelationTable::LearnEntry(std::span<Entry> row, uint16_t expert, float weight) const {
  Entry* weakest = row.data();
  for (Entry& entry : row) {
    if (entry.expert == expert && entry.weight > 0.0f) {
      entry.weight += weight;
      return;
    }
    if (entry.weight < weakest->weight) weakest = &entry;
  }
  // A newcomer wears the weakest entry down and takes its place when nothing is left of it, as in
  // Misra and Gries: "Finding repeated elements".
  if (weakest->weight > weight) {
    weakest->weight -= weight;
  } else {
    *weakest = {.expert = expert, .weight = weight};
  }
}

void CorrelationTable::Rescale(Layer& layer) const {
  const double scale = 1.0 / layer.weight;
  for (double& sum : layer.from) sum *= scale;
  for (double& sum : layer.to) sum *= scale;
  for (float& sum : layer.dense) sum *= static_cast<float>(scale);
  for (Entry& entry : layer.entries) entry.weight *= static_cast<float>(scale);
  layer.tokens *= scale;
  layer.weight = 1.0;
}

void CorrelationTable::Frequencies(int layer, std::span<double> expected) const {
  const Layer& learned = layers_[static_cast<size_t>(layer)];
  SLUICE_CHECK_EQ(expected.size(), experts_);
  for (size_t e = 0; e < experts_; ++e) {
    expected[e] = learned.tokens == 0.0 ? 0.0 : learned.to[e] / learned.tokens;
  }
}

void CorrelationTable::Predict(int layer, std::span<const uint16_t> from,
                               std::span<double> expected) {
  const Layer& learned = layers_[static_cast<size_t>(layer)];
  SLUICE_CHECK_EQ(expected.size(), experts_);
  std::fill(expected.begin(), expected.end(), 0.0);
  if (learned.tokens == 0.0) return;
  SetFrequencies(learned);
  const std::array<double, kNumForecasts> trust = Trust(layer);
  for (size_t at = 0; at < from.size(); at += top_k_) {
    ForecastToken(learned, from.subspan(at, top_k_));
    for (size_t f = 0; f < kNumForecasts; ++f) {
      const auto part = static_cast<float>(trust[f]);
      for (size_t e = 0; e < experts_; ++e) expected[e] += part * chances_[f][e];
    }
  }
}

size_t CorrelationTable::Bytes() const {
  size_t bytes = 0;
  for (const Layer& layer : layers_) {
    bytes += layer.dense.size() * sizeof(float) + layer.entries.size() * sizeof(Entry) +
             (layer.from.size() + layer.to.size()) * sizeof(double);
  }
  return bytes;
}

}  // namespace sluice
