#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

namespace sluice {

struct CorrelationOptions {
  int row_entries = 0;     // experts of the later layer kept for each expert; 0: all
  double half_life = 0.0;  // tokens after which what was seen counts half; 0: for ever alike
  double prior = 16.0;     // tokens' worth of the later layer's frequencies in each row
};

// Ways to foretell a token's experts in the later layer from those in this one.
enum class Forecast {
  kFrequency,  // as often as the later layer chooses each, whatever the token did here
  kMean,       // the mean of the rows of the token's experts
  kHalfOdds,   // between kFrequency and kOdds: the square root of what the rows say
  kOdds,       // each row multiplies the odds, as if the token's experts were independent evidence
};
constexpr size_t kNumForecasts = 4;

// Learns, token by token, P(expert in a later layer | expert in this one), and predicts which
// experts the later layer will need. Each layer keeps account of how well each forecast foretold
// what came and weighs them by that, so that a layer whose experts do not follow from those before
// is predicted by frequency. One thread at a time.
class CorrelationTable {
 public:
  // One row for each layer and expert. `num_layers` are the layers that are predicted from.
  CorrelationTable(int num_layers, int num_experts, int top_k, const CorrelationOptions& options);

  // Both are [tokens, top_k], the same tokens in this layer and in the later one.
  void Learn(int layer, std::span<const uint16_t> from, std::span<const uint16_t> to);

  // Writes how many of the tokens `from` [tokens, top_k] are expected on each expert of the later
  // layer to `expected` [experts].
  void Predict(int layer, std::span<const uint16_t> from, std::span<double> expected);

  // The same by the later layer's frequencies alone, of one token.
  void Frequencies(int layer, std::span<double> expected) const;

  // How far the layer's forecasts are trusted: adds up to 1.
  std::array<double, kNumForecasts> Trust(int layer) const;

  // Bytes of the rows.
  size_t Bytes() const;

 private:
  // One expert of the later layer in a row that does not keep all.
  struct Entry {
    uint16_t expert = 0;
    float weight = 0.0f;
  };
  struct Layer {
    std::vector<double> from;                         // [experts] weight of tokens that chose it
    std::vector<double> to;                           // [experts] the same, in the later layer
    double tokens = 0.0;                              // weight of all
    double weight = 1.0;                              // of the next token
    std::vector<float> dense;                         // [experts, experts], when all are kept
    std::vector<Entry> entries;                       // [experts, row_entries], else
    std::array<double, kNumForecasts> evidence = {};  // log likelihood of what came
  };
  void LearnToken(Layer& layer, std::span<const uint16_t> from, std::span<const uint16_t> to);
  void LearnEntry(std::span<Entry> row, uint16_t expert, float weight) const;
  void Rescale(Layer& layer) const;
  void Weigh(Layer& layer, std::span<const uint16_t> from, std::span<const uint16_t> to);
  // Fills frequency_ for the layer.
  void SetFrequencies(const Layer& layer);
  // Fills row_ with P(expert of the later layer | `expert` here).
  void SetRow(const Layer& layer, uint16_t expert);
  // Fills chances_ for one token; frequency_ is set.
  void ForecastToken(const Layer& layer, std::span<const uint16_t> from);

  size_t experts_;
  size_t top_k_;
  size_t row_entries_;
  double growth_;  // of the weight, from one token to the next
  double prior_;
  std::vector<Layer> layers_;
  // Scratch, [experts] each.
  std::vector<float> frequency_;
  std::vector<float> row_;
  std::vector<float> odds_;
  std::array<std::vector<float>, kNumForecasts> chances_;  // that the token chooses each expert
};

}  // namespace sluice
