#include "bench/serve_workload.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <numeric>
#include <set>

#include "base/error.h"

namespace sluice {
namespace {

using ::testing::HasSubstr;

std::vector<TokenId> Vocabulary(int size) {
  std::vector<TokenId> ids(size);
  std::iota(ids.begin(), ids.end(), 100);
  return ids;
}

const std::vector<TokenId>& TokensOf(const LoadRequest& request) {
  return std::get<std::vector<TokenId>>(request.prompt);
}

TEST(RandomRequests, AreOfTheSeedAndDoNotDependOnHowManyFollow) {
  const RandomWorkload workload{.input_tokens = 20, .output_tokens = 9};
  const std::vector<TokenId> vocabulary = Vocabulary(50);
  const auto few = RandomRequests(workload, vocabulary, 3, 1);
  const auto many = RandomRequests(workload, vocabulary, 30, 1);
  const auto others = RandomRequests(workload, vocabulary, 3, 2);
  std::set<std::vector<TokenId>> prompts;
  for (const LoadRequest& request : many) {
    EXPECT_EQ(TokensOf(request).size(), 20u);
    EXPECT_EQ(request.prompt_tokens, 20);
    EXPECT_EQ(request.output_tokens, 9);
    for (const TokenId id : TokensOf(request)) EXPECT_TRUE(id >= 100 && id < 150) << id;
    prompts.insert(TokensOf(request));
  }
  EXPECT_EQ(prompts.size(), many.size());
  for (size_t i = 0; i < few.size(); ++i) {
    EXPECT_EQ(few[i].prompt, many[i].prompt);
    EXPECT_NE(few[i].prompt, others[i].prompt);
  }
}

TEST(RandomRequests, LengthsFillTheRange) {
  const RandomWorkload workload{.input_tokens = 10, .output_tokens = 5, .range_ratio = 0.5};
  std::set<int> inputs, outputs;
  for (const LoadRequest& request : RandomRequests(workload, Vocabulary(9), 500, 3)) {
    inputs.insert(request.prompt_tokens);
    outputs.insert(request.output_tokens);
  }
  EXPECT_EQ(*inputs.begin(), 5);
  EXPECT_EQ(*inputs.rbegin(), 15);
  EXPECT_EQ(inputs.size(), 11u);
  EXPECT_EQ(*outputs.begin(), 2);
  EXPECT_EQ(*outputs.rbegin(), 8);
}

TEST(RandomRequests, TakePrefixesInTurn) {
  const RandomWorkload workload{.input_tokens = 6, .prefix_tokens = 24, .num_prefixes = 3};
  const auto requests = RandomRequests(workload, Vocabulary(1000), 9, 7);
  const auto prefix = [&](size_t i) {
    const auto& tokens = TokensOf(requests[i]);
    return std::vector<TokenId>(tokens.begin(), tokens.begin() + 24);
  };
  for (size_t i = 0; i < requests.size(); ++i) {
    EXPECT_EQ(requests[i].prompt_tokens, 30);
    for (size_t other = 0; other < i; ++other) {
      EXPECT_EQ(prefix(i) == prefix(other), i % 3 == other % 3) << i << " and " << other;
      EXPECT_NE(requests[i].prompt, requests[other].prompt);
    }
  }
}

TEST(RandomRequests, AreNeverEmpty) {
  const auto requests =
      RandomRequests({.input_tokens = 0, .output_tokens = 1}, Vocabulary(5), 2, 0);
  for (const LoadRequest& request : requests) {
    EXPECT_EQ(request.prompt_tokens, 1);
    EXPECT_EQ(request.output_tokens, 1);
  }
}

class ShareGptTest : public ::testing::Test {
 protected:
  const std::unique_ptr<Tokenizer> tokenizer_ =
      Tokenizer::Load(SLUICE_SOURCE_DIR "/models/storyteller/tokenizer.json");
};

std::string Turns(const std::string& prompt, const std::string& reply) {
  return R"({"id": "x", "conversations": [{"from": "human", "value": ")" + prompt +
         R"("}, {"from": "gpt", "value": ")" + reply + R"("}]})";
}

TEST_F(ShareGptTest, TakesFirstTurnsInAnOrderOfTheSeed) {
  std::string dataset = R"([{"conversations": []}, )" + Turns("", "a reply to nothing at all");
  for (int i = 0; i < 20; ++i) dataset += ", " + Turns("prompt " + std::to_string(i), "reply");
  dataset += "]";
  std::vector<std::string> orders[2];
  for (const uint64_t seed : {0, 1}) {
    for (const LoadRequest& request : ShareGptRequests(dataset, 20, nullptr, 7, seed)) {
      EXPECT_EQ(request.output_tokens, 7);
      EXPECT_EQ(request.prompt_tokens, 0);
      orders[seed].push_back(std::get<std::string>(request.prompt));
    }
  }
  EXPECT_NE(orders[0], orders[1]);
  EXPECT_THAT(orders[0], ::testing::UnorderedElementsAreArray(orders[1]));
  EXPECT_EQ(std::set<std::string>(orders[0].begin(), orders[0].end()).size(), 20u);
}

TEST_F(ShareGptTest, CountsTokensAndLeavesOutWhatIsTooShortOrTooLong) {
  const std::string prompt = "Tell me about the cat and the dog.";
  const std::string reply = "They lived in a house by the sea, and they were friends.";
  std::string long_prompt;
  for (int i = 0; i < 1100; ++i) long_prompt += "the cat ";
  const std::string dataset = "[" + Turns("Hi", reply) + "," + Turns(long_prompt, reply) + "," +
                              Turns(prompt, "No") + "," + Turns(prompt, reply) + "]";
  const auto requests = ShareGptRequests(dataset, 1, tokenizer_.get(), std::nullopt, 0);
  EXPECT_EQ(std::get<std::string>(requests[0].prompt), prompt);
  EXPECT_EQ(requests[0].prompt_tokens, std::ssize(tokenizer_->Encode(prompt)));
  EXPECT_EQ(requests[0].output_tokens, std::ssize(tokenizer_->Encode(reply)));
  try {
    ShareGptRequests(dataset, 2, tokenizer_.get(), std::nullopt, 0);
    FAIL() << "three of the four are to be left out";
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("1 usable conversations out of 4"));
  }
}

TEST_F(ShareGptTest, RefusesWhatIsOfAnotherForm) {
  for (const char* text : {"", "{}", "[3]", R"([{"turns": []}])", R"([{"conversations": 3}])"}) {
    EXPECT_THROW(ShareGptRequests(text, 1, nullptr, 5, 0), Error) << text;
  }
  const std::string good = "[" + Turns("one two three four", "five six seven eight") + "]";
  EXPECT_EQ(ShareGptRequests(good, 1, nullptr, 5, 0).size(), 1u);
  EXPECT_THROW(ShareGptRequests(good, 1, nullptr, std::nullopt, 0), Error);
}

TEST_F(ShareGptTest, PromptsOfPlainTokensBecomeText) {
  const std::vector<TokenId> plain = PlainTokens(*tokenizer_);
  EXPECT_GT(plain.size(), 3000u);
  for (const TokenId id : plain) EXPECT_FALSE(tokenizer_->IsSpecial(id)) << id;
  auto requests = RandomRequests({.input_tokens = 12}, plain, 2, 5);
  const std::string text = tokenizer_->Decode(TokensOf(requests[1]), /*skip_special=*/false);
  DecodePrompts(*tokenizer_, requests);
  EXPECT_EQ(std::get<std::string>(requests[1].prompt), text);
  EXPECT_EQ(requests[1].prompt_tokens, 0);
}

// The standard deviation of the gaps over their mean.
double Variation(const std::vector<double>& times) {
  double squares = 0.0, last = 0.0;
  const double mean = times.back() / static_cast<double>(times.size());
  for (const double time : times) {
    squares += (time - last - mean) * (time - last - mean);
    last = time;
  }
  return std::sqrt(squares / static_cast<double>(times.size())) / mean;
}

TEST(ArrivalTimes, AllAtOnceWithoutARate) {
  EXPECT_EQ(ArrivalTimes(3, {}, 1), std::vector<double>({0.0, 0.0, 0.0}));
  EXPECT_TRUE(ArrivalTimes(0, {.rate = 5.0}, 1).empty());
}

TEST(ArrivalTimes, AscendToTheLoadThatWasAskedFor) {
  const std::vector<double> times = ArrivalTimes(400, {.rate = 50.0}, 1);
  EXPECT_TRUE(std::is_sorted(times.begin(), times.end()));
  EXPECT_GT(times.front(), 0.0);
  EXPECT_DOUBLE_EQ(times.back(), 8.0);
  EXPECT_EQ(times, ArrivalTimes(400, {.rate = 50.0}, 1));
  EXPECT_NE(times, ArrivalTimes(400, {.rate = 50.0}, 2));
}

TEST(ArrivalTimes, BurstinessIsTheShapeOfTheGaps) {
  // The variation of a gamma distribution is 1 / sqrt(shape).
  EXPECT_NEAR(Variation(ArrivalTimes(20000, {.rate = 10.0, .burstiness = 1.0}, 1)), 1.0, 0.05);
  EXPECT_NEAR(Variation(ArrivalTimes(20000, {.rate = 10.0, .burstiness = 0.25}, 1)), 2.0, 0.15);
  EXPECT_NEAR(Variation(ArrivalTimes(20000, {.rate = 10.0, .burstiness = 100.0}, 1)), 0.1, 0.01);
}

}  // namespace
}  // namespace sluice
