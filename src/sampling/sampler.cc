#include "sampling/sampler.h"

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>
#include <string>

#include "base/check.h"
#include "base/error.h"
#include "sampling/random.h"

namespace sluice {

namespace {

using Candidate = SampleScratch::Candidate;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// vLLM's border between greedy and random sampling: below it 1 / temperature overflows the weights.
constexpr float kGreedyTemperature = 1e-5f;
// Weights are summed in blocks of so many: a block stays in the first cache between the passes over
// it, and a draw walks block sums before it walks weights.
constexpr size_t kBlock = 1024;
// Independent lanes of a reduction, so that the compiler may vectorise it without reordering.
constexpr size_t kLanes = 16;

// Larger value first, then lower id: the order in which top_k and top_p keep tokens.
bool Better(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
}

// e^x for x <= 0 to about 2 units in the last place; 0 below -87, where floats turn subnormal.
// Branch-free, so that loops over it vectorise, and the same on every machine.
inline float ExpNonPositive(float x) {
  constexpr float kLog2E = 1.44269504f;
  constexpr float kLn2High = 0.693359375f;  // few bits, so that n * kLn2High is exact
  constexpr float kLn2Low = -2.12194440e-4f;
  constexpr float kRound = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer
  const float clamped = x < -87.0f ? -87.0f : x;
  const float shifted = clamped * kLog2E + kRound;
  const float n = shifted - kRound;
  const float r = (clamped - n * kLn2High) - n * kLn2Low;  // |r| <= ln(2) / 2
  float taylor = 1.0f / 5040;
  taylor = taylor * r + 1.0f / 720;
  taylor = taylor * r + 1.0f / 120;
  taylor = taylor * r + 1.0f / 24;
  taylor = taylor * r + 1.0f / 6;
  taylor = taylor * r + 0.5f;
  taylor = taylor * r + 1.0f;
  taylor = taylor * r + 1.0f;
  const int32_t exponent = std::bit_cast<int32_t>(shifted) - std::bit_cast<int32_t>(kRound);
  const float power = std::bit_cast<float>((exponent + 127) << 23);
  return x < -87.0f ? 0.0f : taylor * power;
}

// The largest of `logits`; refuses NaN and +infinity.
float CheckedMax(std::span<const float> logits) {
  std::array<float, kLanes> best;
  best.fill(-kInfinity);
  std::array<int32_t, kLanes> not_a_number{};
  const size_t whole = logits.size() / kLanes * kLanes;
  for (size_t i = 0; i < whole; i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float x = logits[i + lane];
      best[lane] = x > best[lane] ? x : best[lane];
      not_a_number[lane] |= x != x;
    }
  }
  for (size_t i = whole; i < logits.size(); ++i) {
    best[0] = std::max(best[0], logits[i]);
    not_a_number[0] |= std::isnan(logits[i]);
  }
  const float largest = *std::max_element(best.begin(), best.end());
  const bool valid =
      std::all_of(not_a_number.begin(), not_a_number.end(), [](int32_t seen) { return seen == 0; });
  CheckLargest(largest, !valid);
  return largest;
}

double SumOf(std::span<const float> weights) {
  std::array<double, 4> lanes{};
  const size_t whole = weights.size() / 4 * 4;
  for (size_t i = 0; i < whole; i += 4) {
    for (size_t lane = 0; lane < 4; ++lane) lanes[lane] += weights[i + lane];
  }
  for (size_t i = whole; i < weights.size(); ++i) lanes[0] += weights[i];
  return (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
}

// Calls f(begin, end) for each block of [0, size).
template <class F>
void ForEachBlock(size_t size, F&& f) {
  for (size_t begin = 0; begin < size; begin += kBlock) f(begin, std::min(begin + kBlock, size));
}

// log(sum(exp(logits))) for a known maximum.
double LogSumExp(std::span<const float> logits, float largest) {
  std::array<float, kBlock> weights;
  double sum = 0;
  ForEachBlock(logits.size(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) weights[i - begin] = ExpNonPositive(logits[i] - largest);
    sum += SumOf(std::span(weights).first(end - begin));
  });
  return static_cast<double>(largest) + std::log(sum);
}

// Puts the `k` best of `values` into `kept`, in no order. One pass that skips whatever is below the
// worst of the best so far.
void SelectBest(std::span<const float> values, size_t k, std::vector<Candidate>& kept) {
  kept.clear();
  if (k == 0) return;
  const size_t capacity = std::min(values.size(), 2 * k + kBlock);
  bool full = false;
  float threshold = -kInfinity;
  const auto shrink = [&] {
    if (kept.size() <= k) return;
    std::nth_element(kept.begin(), kept.begin() + static_cast<ptrdiff_t>(k - 1), kept.end(),
                     Better);
    kept.resize(k);
    threshold = kept.back().value;
    full = true;
  };
  for (size_t i = 0; i < values.size(); ++i) {
    // An equal value further on has the higher id and loses.
    if (full && values[i] <= threshold) continue;
    kept.push_back({values[i], static_cast<TokenId>(i)});
    if (kept.size() >= capacity) shrink();
  }
  shrink();
}

SampledToken Score(std::span<const float> logits, float largest, TokenId token, int num_top,
                   SampleScratch& scratch) {
  const double log_sum = LogSumExp(logits, largest);
  const float own = logits[token];
  const auto above = [own](float x) { return x > own; };
  const auto same = [own](float x) { return x == own; };
  SampledToken scored{.token = token, .logprob = static_cast<float>(own - log_sum)};
  scored.rank = 1 + static_cast<int>(std::count_if(logits.begin(), logits.end(), above) +
                                     std::count_if(logits.begin(), logits.begin() + token, same));
  SelectBest(logits, static_cast<size_t>(num_top), scratch.candidates);
  std::sort(scratch.candidates.begin(), scratch.candidates.end(), Better);
  for (const Candidate& candidate : scratch.candidates) {
    scored.top.push_back({candidate.token, static_cast<float>(candidate.value - log_sum)});
  }
  return scored;
}

bool ChangesLogits(const SampleContext& context) {
  const SamplingParams& params = context.params;
  return !params.logit_bias.empty() || NeedsHistory(params) ||
         (context.generated < params.min_tokens && !context.end_ids.empty());
}

void ApplyPenalties(const SampleContext& context, std::span<float> logits,
                    std::vector<int32_t>& counts) {
  const SamplingParams& params = context.params;
  SLUICE_CHECK_EQ(static_cast<int>(context.history.size()),
                  context.prompt_length + context.generated);
  for (TokenId token : context.history) {
    SLUICE_CHECK_GE(token, 0);
    SLUICE_CHECK_LT(static_cast<size_t>(token), logits.size());
  }
  if (counts.size() < logits.size()) counts.resize(logits.size());
  if (params.repetition_penalty != 1.0f) {
    for (TokenId token : context.history) {
      if (counts[token]++ > 0) continue;
      float& logit = logits[token];
      logit = logit > 0 ? logit / params.repetition_penalty : logit * params.repetition_penalty;
    }
    for (TokenId token : context.history) counts[token] = 0;
  }
  const auto output = std::span(context.history).subspan(context.prompt_length);
  for (TokenId token : output) ++counts[token];
  for (TokenId token : output) {
    if (counts[token] == 0) continue;
    logits[token] -= params.frequency_penalty * static_cast<float>(counts[token]);
    logits[token] -= params.presence_penalty;
    counts[token] = 0;
  }
}

void ProcessLogits(const SampleContext& context, std::span<float> logits,
                   std::vector<int32_t>& counts) {
  const auto at = [&](TokenId token) -> float& {
    SLUICE_CHECK_GE(token, 0);
    SLUICE_CHECK_LT(static_cast<size_t>(token), logits.size());
    return logits[token];
  };
  for (const auto& [token, bias] : context.params.logit_bias) at(token) += bias;
  if (context.generated < context.params.min_tokens) {
    for (TokenId token : context.end_ids) at(token) = -kInfinity;
  }
  if (NeedsHistory(context.params)) ApplyPenalties(context, logits, counts);
}

double SumBlocks(std::span<const float> weights, std::vector<double>& block_sums) {
  block_sums.clear();
  double total = 0;
  ForEachBlock(weights.size(), [&](size_t begin, size_t end) {
    block_sums.push_back(SumOf(weights.subspan(begin, end - begin)));
    total += block_sums.back();
  });
  return total;
}

// The worst candidate of the smallest set of best ones whose weights sum to `mass` or more.
// Halves the range as a quickselect does, so that nothing is sorted but its end.
Candidate CutByMass(std::vector<Candidate>& candidates, double mass) {
  constexpr ptrdiff_t kSorted = 64;
  auto low = candidates.begin();
  auto high = candidates.end();
  double before = 0;
  while (high - low > kSorted) {
    const auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, Better);
    double half = 0;
    for (auto it = low; it != middle; ++it) half += it->value;
    if (before + half >= mass) {
      high = middle;
    } else {
      before += half;
      low = middle;
    }
  }
  std::sort(low, high, Better);
  for (auto it = low; it != high; ++it) {
    before += it->value;
    if (before >= mass) return *it;
  }
  return *(high - 1);
}

void DropWorseThan(const Candidate& last_kept, std::span<float> weights) {
  const size_t tie = static_cast<size_t>(last_kept.token) + 1;
  for (size_t i = 0; i < tie; ++i) weights[i] = weights[i] >= last_kept.value ? weights[i] : 0.0f;
  for (size_t i = tie; i < weights.size(); ++i) {
    weights[i] = weights[i] > last_kept.value ? weights[i] : 0.0f;
  }
}

// Zeroes what top_k and top_p leave out. Returns the sum of what stays.
double Truncate(const SamplingParams& params, std::span<float> weights, SampleScratch& scratch) {
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < weights.size()) {
    SelectBest(weights, static_cast<size_t>(params.top_k), scratch.candidates);
    const auto last =
        std::max_element(scratch.candidates.begin(), scratch.candidates.end(), Better);
    DropWorseThan(*last, weights);
  }
  const double total = SumBlocks(weights, scratch.block_sums);
  if (params.top_p >= 1.0f) return total;

  // All weights below this one sum to less than what top_p leaves out, so none of them is kept.
  const double floor = (1.0 - params.top_p) * total / static_cast<double>(weights.size());
  scratch.candidates.clear();
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] >= floor && weights[i] > 0) {
      scratch.candidates.push_back({weights[i], static_cast<TokenId>(i)});
    }
  }
  DropWorseThan(CutByMass(scratch.candidates, params.top_p * total), weights);
  return SumBlocks(weights, scratch.block_sums);
}

// The first token at which the running sum of the weights passes `target`.
TokenId Invert(std::span<const float> weights, const std::vector<double>& block_sums,
               double target) {
  size_t block = 0;
  double sum = 0;
  while (block + 1 < block_sums.size() && sum + block_sums[block] <= target) {
    sum += block_sums[block++];
  }
  TokenId last = -1;
  for (size_t i = block * kBlock; i < weights.size(); ++i) {
    if (weights[i] == 0) continue;
    last = static_cast<TokenId>(i);
    sum += weights[i];
    if (sum > target) return last;
  }
  // The sums round differently one by one than by lanes: the target may lie past the last weight.
  for (size_t i = weights.size(); last < 0 && i-- > 0;) {
    if (weights[i] > 0) last = static_cast<TokenId>(i);
  }
  SLUICE_CHECK_GE(last, 0);
  return last;
}

TokenId Draw(std::span<const float> logits, float largest, const SampleContext& context,
             SampleScratch& scratch) {
  const SamplingParams& params = context.params;
  scratch.values.resize(logits.size());
  const std::span<float> weights(scratch.values);
  const float inverse_temperature = 1.0f / params.temperature;
  for (size_t i = 0; i < logits.size(); ++i) {
    const float weight = ExpNonPositive((logits[i] - largest) * inverse_temperature);
    weights[i] = weight >= params.min_p ? weight : 0.0f;
  }
  const double total = Truncate(params, weights, scratch);
  const double u = UniformAt(context.seed, static_cast<uint64_t>(context.generated), 0);
  return Invert(weights, scratch.block_sums, u * total);
}

}  // namespace

void CheckLargest(float largest, bool any_nan) {
  if (!any_nan && largest != kInfinity) return;
  throw Error(ErrorCode::kDataLoss,
              std::string("the model's logits are not finite (one is ") +
                  (any_nan ? "NaN" : "+infinity") +
                  "): its weights are damaged or overflow in this dtype; run `sluice verify`, or "
                  "--dtype float32");
}

SampledToken Sample(std::span<const float> logits, const SampleContext& context,
                    SampleScratch& scratch) {
  SLUICE_CHECK_GT(logits.size(), 0u);
  const float raw_largest = CheckedMax(logits);
  float largest = raw_largest;
  std::span<const float> processed = logits;
  if (ChangesLogits(context)) {
    scratch.values.assign(logits.begin(), logits.end());
    ProcessLogits(context, scratch.values, scratch.counts);
    processed = scratch.values;
    largest = CheckedMax(processed);
  }
  if (largest == -kInfinity) {
    FailCheck("a token can be drawn", "(every logit is -infinity)",
              std::source_location::current());
  }
  TokenId token = 0;
  if (context.params.temperature < kGreedyTemperature) {
    token = static_cast<TokenId>(std::find(processed.begin(), processed.end(), largest) -
                                 processed.begin());
  } else {
    token = Draw(processed, largest, context, scratch);
  }
  if (!context.params.logprobs) return {.token = token};
  return Score(logits, raw_largest, token, *context.params.logprobs, scratch);
}

SampledToken ScoreToken(std::span<const float> logits, TokenId target, int num_top,
                        SampleScratch& scratch) {
  SLUICE_CHECK_GE(target, 0);
  SLUICE_CHECK_LT(static_cast<size_t>(target), logits.size());
  return Score(logits, CheckedMax(logits), target, num_top, scratch);
}

}  // namespace sluice
