#include "sampling/sampler.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>

#include "base/error.h"
#include "sampling/random.h"

namespace sluice {
namespace {

constexpr float kInf = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

// Logits with the spread of a model's, from the seed.
std::vector<float> RandomLogits(int vocab, uint64_t seed, double scale = 3.0) {
  std::vector<float> logits(vocab);
  for (int i = 0; i < vocab; ++i) {
    const double u = UniformAt(seed, i, 0) + 1e-12;
    const double v = UniformAt(seed, i, 1);
    logits[i] = static_cast<float>(scale * std::sqrt(-2 * std::log(u)) * std::cos(2 * M_PI * v));
  }
  return logits;
}

// The distribution that Sample should draw from, in double precision and by full sorts.
std::vector<double> PlainDistribution(const std::vector<float>& logits,
                                      const SampleContext& context) {
  const SamplingParams& params = context.params;
  std::vector<double> l(logits.begin(), logits.end());
  for (const auto& [token, bias] : params.logit_bias) l[token] += bias;
  if (context.generated < params.min_tokens) {
    for (TokenId token : context.end_ids) l[token] = -kInf;
  }
  for (size_t t = 0; t < l.size(); ++t) {
    const auto begin = context.history.begin();
    const auto output = begin + std::min<ptrdiff_t>(context.prompt_length, context.history.size());
    const auto in_all = std::count(begin, context.history.end(), static_cast<TokenId>(t));
    const auto in_output = std::count(output, context.history.end(), static_cast<TokenId>(t));
    if (in_all > 0) {
      l[t] = l[t] > 0 ? l[t] / params.repetition_penalty : l[t] * params.repetition_penalty;
    }
    if (in_output > 0) {
      l[t] -= params.frequency_penalty * static_cast<double>(in_output) + params.presence_penalty;
    }
  }
  const double largest = *std::max_element(l.begin(), l.end());
  std::vector<double> p(l.size());
  for (size_t t = 0; t < l.size(); ++t) p[t] = std::exp((l[t] - largest) / params.temperature);
  for (double& weight : p) weight = weight < params.min_p ? 0 : weight;
  std::vector<int> order(l.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return p[a] > p[b]; });
  if (params.top_k > 0) {
    for (size_t i = params.top_k; i < order.size(); ++i) p[order[i]] = 0;
  }
  double total = std::accumulate(p.begin(), p.end(), 0.0);
  if (params.top_p < 1) {
    double sum = 0;
    for (int t : order) {
      if (sum >= params.top_p * total) p[t] = 0;
      sum += p[t];
    }
    total = std::accumulate(p.begin(), p.end(), 0.0);
  }
  for (double& weight : p) weight /= total;
  return p;
}

// Draws `draws` tokens at consecutive indices and compares their counts with the plain distribution
// by the chi-square statistic; tokens of little weight share a bin. The seeds are fixed, so the
// outcome is too.
void ExpectDrawsFollowPlain(const std::vector<float>& logits, SampleContext context, int draws) {
  const bool with_history = !context.history.empty();
  const std::vector<double> expected = PlainDistribution(logits, context);
  std::vector<int> counts(logits.size());
  SampleScratch scratch;
  for (int i = 0; i < draws; ++i) {
    // A history ties the index of the token, so the seed changes instead.
    if (with_history) {
      context.seed = MixSeed(3, i);
    } else {
      context.generated = context.params.min_tokens > 0 ? 0 : i;
      if (context.params.min_tokens > 0) context.seed = MixSeed(5, i);
    }
    ++counts[Sample(logits, context, scratch).token];
  }
  double chi_square = 0, rest_expected = 0, rest_count = 0;
  int bins = 0;
  for (size_t t = 0; t < logits.size(); ++t) {
    const double mean = expected[t] * draws;
    if (mean == 0) {
      EXPECT_EQ(counts[t], 0) << "token " << t << " was truncated or masked";
    } else if (mean < 8) {
      rest_expected += mean;
      rest_count += counts[t];
    } else {
      chi_square += (counts[t] - mean) * (counts[t] - mean) / mean;
      ++bins;
    }
  }
  if (rest_expected > 1) {
    chi_square += (rest_count - rest_expected) * (rest_count - rest_expected) / rest_expected;
    ++bins;
  }
  const double freedom = std::max(1, bins - 1);
  EXPECT_LT(chi_square, freedom + 4 * std::sqrt(2 * freedom) + 4) << bins << " bins";
}

SampleContext With(const SamplingParams& params, uint64_t seed = 11) {
  return {.params = params, .seed = seed};
}

TEST(Sample, FollowsTheSoftmax) {
  ExpectDrawsFollowPlain(RandomLogits(50, 1), With({}), 20000);
  ExpectDrawsFollowPlain(RandomLogits(3000, 2), With({}), 20000);  // several blocks of sums
  ExpectDrawsFollowPlain(RandomLogits(50, 3), With({.temperature = 0.6f}), 20000);
  ExpectDrawsFollowPlain(RandomLogits(50, 4), With({.temperature = 2.0f}), 20000);
}

TEST(Sample, FollowsTheTruncatedDistributions) {
  const std::vector<float> logits = RandomLogits(2500, 5);
  ExpectDrawsFollowPlain(logits, With({.top_k = 7}), 20000);
  ExpectDrawsFollowPlain(logits, With({.top_p = 0.7f}), 20000);
  ExpectDrawsFollowPlain(logits, With({.min_p = 0.1f}), 20000);
  ExpectDrawsFollowPlain(logits, With({.temperature = 1.3f, .top_p = 0.8f, .top_k = 40}), 20000);
  ExpectDrawsFollowPlain(logits, With({.top_p = 0.9f, .top_k = 100, .min_p = 0.02f}), 20000);
}

TEST(Sample, FollowsTheFlatDistributionUnderTopP) {
  const std::vector<float> flat(2000, 1.5f);
  const std::vector<double> expected = PlainDistribution(flat, With({.top_p = 0.25f}));
  EXPECT_EQ(std::count_if(expected.begin(), expected.end(), [](double p) { return p > 0; }), 500);
  ExpectDrawsFollowPlain(flat, With({.top_p = 0.25f}), 20000);
}

TEST(Sample, FollowsThePenalisedDistributions) {
  SampleContext context = With({.repetition_penalty = 1.5f,
                                .presence_penalty = 0.7f,
                                .frequency_penalty = 0.4f,
                                .logit_bias = {{3, 2.0f}, {4, -50.0f}}});
  context.history = {1, 2, 2, 5, 6, 6, 6, 1};
  context.prompt_length = 4;
  context.generated = 4;
  ExpectDrawsFollowPlain(RandomLogits(20, 6), context, 20000);
  context.params = {.frequency_penalty = -0.5f};
  ExpectDrawsFollowPlain(RandomLogits(20, 7), context, 20000);
}

TEST(Sample, MasksTheEndUntilMinTokens) {
  std::vector<float> logits = RandomLogits(20, 8);
  logits[4] = 30;
  SampleContext context = With({.min_tokens = 2});
  context.end_ids = {4, 9};
  ExpectDrawsFollowPlain(logits, context, 5000);
  SampleScratch scratch;
  context.generated = 1;
  EXPECT_NE(Sample(logits, context, scratch).token, 4);
  context.generated = 2;
  EXPECT_EQ(Sample(logits, context, scratch).token, 4);
}

TEST(Sample, GreedyTakesTheLowerIdOfEquals) {
  SampleScratch scratch;
  std::vector<float> logits(40, -1.0f);
  logits[33] = logits[17] = logits[39] = 2.0f;
  EXPECT_EQ(Sample(logits, With({.temperature = 0}), scratch).token, 17);
  EXPECT_EQ(Sample(logits, With({.temperature = 1e-6f}), scratch).token, 17);
  EXPECT_EQ(Sample(logits, With({.top_k = 1}), scratch).token, 17);
  EXPECT_EQ(Sample(logits, With({.top_p = 1e-6f}), scratch).token, 17);
}

TEST(Sample, GreedyHeedsBiasAndPenalties) {
  SampleScratch scratch;
  const std::vector<float> logits = {3.0f, 2.5f, -1.0f, 0.0f};
  EXPECT_EQ(Sample(logits, With({.temperature = 0, .logit_bias = {{2, 10.0f}}}), scratch).token, 2);
  SampleContext context = With({.temperature = 0, .repetition_penalty = 1.5f});
  context.history = {0};
  context.prompt_length = 1;
  EXPECT_EQ(Sample(logits, context, scratch).token, 1);
  context.params = {.temperature = 0, .presence_penalty = 1.0f};  // prompts are not penalised
  EXPECT_EQ(Sample(logits, context, scratch).token, 0);
  context.prompt_length = 0;
  context.generated = 1;
  EXPECT_EQ(Sample(logits, context, scratch).token, 1);
}

TEST(Sample, MinPOfOneKeepsTheLargestOnly) {
  SampleScratch scratch;
  const std::vector<float> logits = {1.0f, 2.0f, 1.99f};
  for (uint64_t seed = 0; seed < 50; ++seed) {
    EXPECT_EQ(Sample(logits, With({.min_p = 1.0f}, seed), scratch).token, 1);
  }
}

TEST(Sample, TakesAVocabularyOfOne) {
  SampleScratch scratch;
  const std::vector<float> logits = {-5.0f};
  const SampledToken sampled = Sample(logits, With({.top_k = 5, .logprobs = 3}), scratch);
  EXPECT_EQ(sampled.token, 0);
  EXPECT_FLOAT_EQ(sampled.logprob, 0);
  EXPECT_EQ(sampled.rank, 1);
  EXPECT_EQ(sampled.top.size(), 1u);
}

TEST(Sample, NeverDrawsMaskedTokens) {
  SampleScratch scratch;
  std::vector<float> logits(3000, -kInf);
  logits[2999] = logits[1200] = 1.0f;
  int high = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    const TokenId token = Sample(logits, With({.top_p = 0.99f}, seed), scratch).token;
    ASSERT_TRUE(token == 1200 || token == 2999) << token;
    high += token == 2999;
  }
  EXPECT_GT(high, 60);
  EXPECT_LT(high, 140);
}

TEST(Sample, LogprobsAreOfTheRawLogits) {
  const std::vector<float> logits = RandomLogits(5000, 9);
  double sum = 0;
  for (float logit : logits) sum += std::exp(static_cast<double>(logit));
  SampleContext context = With({.temperature = 0.3f,
                                .top_p = 0.9f,
                                .presence_penalty = 1.0f,
                                .logit_bias = {{7, 5.0f}},
                                .logprobs = 20});
  context.history = {7};
  context.generated = 1;
  SampleScratch scratch;
  const SampledToken sampled = Sample(logits, context, scratch);
  EXPECT_NEAR(sampled.logprob, logits[sampled.token] - std::log(sum), 2e-6);
  ASSERT_EQ(sampled.top.size(), 20u);
  std::vector<int> order(logits.size());
  std::iota(order.begin(), order.end(), 0);
  std::stable_sort(order.begin(), order.end(), [&](int a, int b) { return logits[a] > logits[b]; });
  for (int i = 0; i < 20; ++i) {
    EXPECT_EQ(sampled.top[i].token, order[i]);
    EXPECT_NEAR(sampled.top[i].logprob, logits[order[i]] - std::log(sum), 2e-6);
  }
  EXPECT_EQ(order[sampled.rank - 1], sampled.token);
}

TEST(Sample, ReportsNoLogprobsUnasked) {
  SampleScratch scratch;
  const SampledToken sampled = Sample(RandomLogits(50, 10), With({}), scratch);
  EXPECT_EQ(sampled.rank, 0);
  EXPECT_TRUE(sampled.top.empty());
  const SampledToken own = Sample(RandomLogits(50, 10), With({.logprobs = 0}), scratch);
  EXPECT_GE(own.rank, 1);
  EXPECT_TRUE(own.top.empty());
}

TEST(ScoreToken, RanksTiesByTheirIds) {
  SampleScratch scratch;
  const std::vector<float> logits = {1.0f, 2.0f, 1.0f, 1.0f};
  EXPECT_EQ(ScoreToken(logits, 1, 0, scratch).rank, 1);
  EXPECT_EQ(ScoreToken(logits, 0, 0, scratch).rank, 2);
  EXPECT_EQ(ScoreToken(logits, 3, 0, scratch).rank, 4);
  const SampledToken scored = ScoreToken(logits, 3, 2, scratch);
  EXPECT_THAT(scored.top, testing::ElementsAre(testing::Field(&TokenLogprob::token, 1),
                                               testing::Field(&TokenLogprob::token, 0)));
  EXPECT_NEAR(scored.logprob, 1 - std::log(std::exp(2.0) + 3 * std::exp(1.0)), 1e-6);
  EXPECT_THROW(ScoreToken(logits, 4, 0, scratch), InternalError);
}

TEST(Sample, DependsOnNothingButItsOwnInputs) {
  const std::vector<float> logits = RandomLogits(4000, 12);
  SampleContext context = With({.temperature = 1.5f, .repetition_penalty = 1.2f}, 99);
  context.history = {1, 2, 3};
  context.prompt_length = 2;
  context.generated = 1;
  SampleScratch alone;
  const TokenId expected = Sample(logits, context, alone).token;
  SampleScratch shared;
  for (int i = 0; i < 20; ++i) {
    SampleContext other = With({.top_p = 0.5f, .frequency_penalty = 1.0f}, i);
    other.history = {4, 4, 5};
    other.generated = 3;
    Sample(RandomLogits(3000 + 100 * i, i), other, shared);
    ASSERT_EQ(Sample(logits, context, shared).token, expected);
  }
}

TEST(Sample, SeedAndIndexChooseTheToken) {
  const std::vector<float> logits(1000, 0.0f);
  SampleScratch scratch;
  SampleContext context = With({}, 1);
  const TokenId first = Sample(logits, context, scratch).token;
  context.generated = 1;
  const TokenId second = Sample(logits, context, scratch).token;
  context = With({}, 2);
  const TokenId other_seed = Sample(logits, context, scratch).token;
  EXPECT_NE(first, second);
  EXPECT_NE(first, other_seed);
}

TEST(Sample, RefusesBrokenLogits) {
  SampleScratch scratch;
  for (size_t place : {0u, 7u, 37u}) {
    for (float bad : {kNan, kInf}) {
      std::vector<float> logits(38, 0.0f);
      logits[place] = bad;
      for (const float temperature : {0.0f, 1.0f}) {
        try {
          Sample(logits, With({.temperature = temperature}), scratch);
          ADD_FAILURE() << "sampled from " << bad << " at " << place;
        } catch (const Error& error) {
          EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
          const std::string message = error.what();
          EXPECT_NE(message.find("logits are not finite"), std::string::npos) << message;
          EXPECT_EQ(message.find(".cc"), std::string::npos) << message;
        }
      }
    }
  }
  EXPECT_THROW(Sample(std::vector<float>(5, -kInf), With({}), scratch), InternalError);
  SampleContext all_ends = With({.min_tokens = 1});
  all_ends.end_ids = {0, 1};
  EXPECT_THROW(Sample(std::vector<float>(2, 0.0f), all_ends, scratch), InternalError);
}

TEST(Sample, RefusesAHistoryThatDoesNotMatch) {
  SampleScratch scratch;
  SampleContext context = With({.repetition_penalty = 2.0f});
  context.prompt_length = 2;
  EXPECT_THROW(Sample(std::vector<float>(5, 0.0f), context, scratch), InternalError);
  context.history = {1, 5};
  EXPECT_THROW(Sample(std::vector<float>(5, 0.0f), context, scratch), InternalError);
}

}  // namespace
}  // namespace sluice
