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
#include "sampling/weights.h"

namespace sluice {

namespace {

using Candidate = SampleScratch::Candidate;

constexpr float kInfinity = std::numeric_limits<float>::infinity();
// Weights are summed in blocks of so many: a block stays in the first cache between the passes over
// it, and a draw walks block sums before it walks weights.
constexpr size_t kBlock = 1024;
// Independent lanes of a reduction, so that the compiler may vectorise it without reordering.
constexpr size_t kLanes = 16;

// Larger value first, then lower id: the order in which top_k and top_p keep tokens.
bool Better(const Candidate& a, const Candidate& b) {
  return a.value > b.value || (a.value == b.value && a.token < b.token);
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

uint64_t SumOf(std::span<const float> weights) {
  uint64_t sum = 0;
  for (const float weight : weights) sum += MassOf(weight);
  return sum;
}

// Calls f(begin, end) for each block of [0, size).
template <class F>
void ForEachBlock(size_t size, F&& f) {
  for (size_t begin = 0; begin < size; begin += kBlock) f(begin, std::min(begin + kBlock, size));
}

// The mass of e^(logits - largest), for a known maximum.
uint64_t RawMass(std::span<const float> logits, float largest) {
  std::array<float, kBlock> weights;
  uint64_t sum = 0;
  ForEachBlock(logits.size(), [&](size_t begin, size_t end) {
    for (size_t i = begin; i < end; ++i) weights[i - begin] = ExpNonPositive(logits[i] - largest);
    sum += SumOf(std::span(weights).first(end - begin));
  });
  return sum;
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
  const float own = logits[token];
  const auto above = [own](float x) { return x > own; };
  const auto same = [own](float x) { return x == own; };
  const auto rank = 1 + std::count_if(logits.begin(), logits.end(), above) +
                    std::count_if(logits.begin(), logits.begin() + token, same);
  SelectBest(logits, static_cast<size_t>(num_top), scratch.candidates);
  return ScoreOf({own, token}, static_cast<int>(rank), largest, RawMass(logits, largest),
                 scratch.candidates);
}

uint64_t SumBlocks(std::span<const float> weights, std::vector<uint64_t>& block_sums) {
  block_sums.clear();
  uint64_t total = 0;
  ForEachBlock(weights.size(), [&](size_t begin, size_t end) {
    block_sums.push_back(SumOf(weights.subspan(begin, end - begin)));
    total += block_sums.back();
  });
  return total;
}

// The worst candidate of the smallest set of best ones whose masses sum to `goal` or more.
// Halves the range as a quickselect does, so that nothing is sorted but its end.
Candidate CutByMass(std::vector<Candidate>& candidates, uint64_t goal) {
  constexpr ptrdiff_t kSorted = 64;
  auto low = candidates.begin();
  auto high = candidates.end();
  uint64_t before = 0;
  while (high - low > kSorted) {
    const auto middle = low + (high - low) / 2;
    std::nth_element(low, middle, high, Better);
    uint64_t half = 0;
    for (auto it = low; it != middle; ++it) half += MassOf(it->value);
    if (before + half >= goal) {
      high = middle;
    } else {
      before += half;
      low = middle;
    }
  }
  std::sort(low, high, Better);
  for (auto it = low; it != high; ++it) {
    before += MassOf(it->value);
    if (before >= goal) return *it;
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

// Zeroes what top_k and top_p leave out. Returns the mass of what stays.
uint64_t Truncate(const SamplingParams& params, std::span<float> weights, SampleScratch& scratch) {
  if (params.top_k > 0 && static_cast<size_t>(params.top_k) < weights.size()) {
    SelectBest(weights, static_cast<size_t>(params.top_k), scratch.candidates);
    const auto last =
        std::max_element(scratch.candidates.begin(), scratch.candidates.end(), Better);
    DropWorseThan(*last, weights);
  }
  const uint64_t total = SumBlocks(weights, scratch.block_sums);
  if (params.top_p >= 1.0f) return total;

  // All masses below this one sum to less than what top_p leaves out, so none of them is kept.
  const uint64_t goal = TopPGoal(params.top_p, total);
  const auto floor = static_cast<float>(static_cast<double>(total - goal) /
                                        static_cast<double>(weights.size()) / kMassUnits * 0.999);
  scratch.candidates.clear();
  for (size_t i = 0; i < weights.size(); ++i) {
    if (weights[i] >= floor && weights[i] > 0) {
      scratch.candidates.push_back({weights[i], static_cast<TokenId>(i)});
    }
  }
  DropWorseThan(CutByMass(scratch.candidates, goal), weights);
  return SumBlocks(weights, scratch.block_sums);
}

// The first token at which the running sum of the masses passes `target`, which is below their sum.
TokenId Invert(std::span<const float> weights, const std::vector<uint64_t>& block_sums,
               uint64_t target) {
  size_t block = 0;
  uint64_t sum = 0;
  while (sum + block_sums.at(block) <= target) sum += block_sums[block++];
  size_t i = block * kBlock;
  while ((sum += MassOf(weights[i])) <= target) ++i;
  return static_cast<TokenId>(i);
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
  const uint64_t total = Truncate(params, weights, scratch);
  return Invert(weights, scratch.block_sums, DrawTarget(RandomBitsOf(context), total));
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

void CheckDrawable(float largest) {
  if (largest != -kInfinity) return;
  FailCheck("a token can be drawn", "(every logit is -infinity)", std::source_location::current());
}

uint64_t RandomBitsOf(const SampleContext& context) {
  return RandomBitsAt(context.seed, static_cast<uint64_t>(context.generated), 0);
}

SampledToken ScoreOf(const Candidate& own, int rank, float largest, uint64_t mass,
                     std::span<Candidate> top) {
  const double log_sum =
      static_cast<double>(largest) + std::log(static_cast<double>(mass) / kMassUnits);
  const auto logprob = [&](float logit) { return static_cast<float>(logit - log_sum); };
  SampledToken scored{.token = own.token, .logprob = logprob(own.value), .rank = rank};
  std::sort(top.begin(), top.end(), Better);
  for (const Candidate& candidate : top) {
    scored.top.push_back({candidate.token, logprob(candidate.value)});
  }
  return scored;
}

SampledToken Sample(std::span<const float> logits, const SampleContext& context,
                    SampleScratch& scratch) {
  SLUICE_CHECK_GT(logits.size(), 0u);
  const float raw_largest = CheckedMax(logits);
  float largest = raw_largest;
  std::span<const float> processed = logits;
  EditsOf(context, logits.size(), scratch);
  if (!scratch.edits.empty()) {
    scratch.values.assign(logits.begin(), logits.end());
    for (const LogitEdit& edit : scratch.edits) {
      scratch.values[edit.token] = EditedLogit(scratch.values[edit.token], edit);
    }
    processed = scratch.values;
    largest = CheckedMax(processed);
  }
  CheckDrawable(largest);
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
