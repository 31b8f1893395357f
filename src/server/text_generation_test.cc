#include "server/text_generation.h"

#include <gtest/gtest.h>

#include <memory>

namespace sluice {
namespace {

constexpr TokenId kEos = 4095;

class TextGenerationTest : public ::testing::Test {
 protected:
  std::vector<TokenId> Ids(std::string_view text) const { return tokenizer_->Encode(text); }

  // Feeds the tokens in reports of `cut`; the last report carries `finish`.
  TextDelta Run(const std::vector<TokenId>& ids, FinishReason finish, size_t cut,
                TextGeneration* text) const {
    TextDelta all;
    for (size_t begin = 0; begin < ids.size(); begin += cut) {
      const size_t end = std::min(begin + cut, ids.size());
      Output output;
      for (size_t i = begin; i < end; ++i) {
        output.tokens.push_back({.token = ids[i], .logprob = -1.0f});
      }
      if (end == ids.size()) output.finish = finish;
      TextDelta delta = text->Consume(output);
      all.text += delta.text;
      all.tokens.insert(all.tokens.end(), delta.tokens.begin(), delta.tokens.end());
      if (delta.finish) all.finish = delta.finish;
    }
    return all;
  }

  const std::unique_ptr<Tokenizer> tokenizer_ =
      Tokenizer::Load(SLUICE_SOURCE_DIR "/models/storyteller/tokenizer.json");
};

TEST_F(TextGenerationTest, TextIsTheSameHoweverReportsAreCut) {
  const std::string wanted = "naïve café — “日本語” 🙂 end";
  for (size_t cut = 1; cut <= 8; ++cut) {
    TextGeneration text(*tokenizer_, {}, true);
    const TextDelta all = Run(Ids(wanted), FinishReason::kLength, cut, &text);
    EXPECT_EQ(all.text, wanted) << "reports of " << cut;
    EXPECT_EQ(all.finish, FinishReason::kLength);
    EXPECT_EQ(text.completion_tokens(), static_cast<int>(Ids(wanted).size()));
  }
}

TEST_F(TextGenerationTest, StopStringOverTokenBorders) {
  const std::vector<TokenId> ids = Ids("The wolf went home and slept in the sun.");
  for (size_t cut : {1, 3, 100}) {
    TextGeneration text(*tokenizer_, {.stop = {"me and sl", "never"}}, true);
    const TextDelta all = Run(ids, FinishReason::kLength, cut, &text);
    EXPECT_EQ(all.text, "The wolf went ho");
    EXPECT_EQ(all.finish, FinishReason::kStop);
    EXPECT_TRUE(text.stopped_by_text());
    // Up to and with the token that completed the match.
    const int made = text.completion_tokens();
    const auto through = tokenizer_->Decode(std::span(ids).first(made), true);
    const auto before = tokenizer_->Decode(std::span(ids).first(made - 1), true);
    EXPECT_NE(through.find("me and sl"), std::string::npos);
    EXPECT_EQ(before.find("me and sl"), std::string::npos);
  }
}

TEST_F(TextGenerationTest, StopStringsWaitForMinTokens) {
  const std::vector<TokenId> ids = Ids("a b a b a b a b a b");
  TextGeneration text(*tokenizer_, {.min_tokens = 6, .stop = {"a"}}, true);
  const TextDelta all = Run(ids, FinishReason::kLength, 1, &text);
  EXPECT_EQ(all.finish, FinishReason::kStop);
  EXPECT_GT(text.completion_tokens(), 6);
  EXPECT_LT(text.completion_tokens(), static_cast<int>(ids.size()));
}

TEST_F(TextGenerationTest, StopStringCanBeKept) {
  TextGeneration text(*tokenizer_, {.stop = {"home"}, .include_stop_str_in_output = true}, true);
  EXPECT_EQ(Run(Ids("The wolf went home and slept."), FinishReason::kLength, 1, &text).text,
            "The wolf went home");
}

TEST_F(TextGenerationTest, HalfAStopStringIsGivenOutAtTheEnd) {
  TextGeneration text(*tokenizer_, {.stop = {"sleep forever"}}, true);
  const TextDelta all = Run(Ids("I shall sleep for"), FinishReason::kLength, 1, &text);
  EXPECT_EQ(all.text, "I shall sleep for");
  EXPECT_EQ(all.finish, FinishReason::kLength);
}

TEST_F(TextGenerationTest, TheEndTokenCountsButIsNotText) {
  std::vector<TokenId> ids = Ids("Good night");
  ids.push_back(kEos);
  for (const bool skip_special : {true, false}) {
    TextGeneration text(*tokenizer_, {}, skip_special);
    EXPECT_EQ(Run(ids, FinishReason::kStop, 2, &text).text, "Good night");
    EXPECT_EQ(text.completion_tokens(), static_cast<int>(ids.size()));
  }
  // An ordinary token named in stop_token_ids is left out as well.
  const std::vector<TokenId> plain = Ids("Good night");
  TextGeneration text(*tokenizer_, {.stop_token_ids = {plain.back()}}, true);
  EXPECT_EQ(Run(plain, FinishReason::kStop, 1, &text).text,
            tokenizer_->Decode(std::span(plain).first(plain.size() - 1), true));
}

TEST_F(TextGenerationTest, AnUnfinishedCharacterEndsAsReplacement) {
  const std::vector<TokenId> ids = Ids("🙂");
  ASSERT_GT(ids.size(), 1u);
  TextGeneration text(*tokenizer_, {}, true);
  EXPECT_EQ(Run({ids[0]}, FinishReason::kLength, 1, &text).text, "\uFFFD");
}

TEST_F(TextGenerationTest, OffsetsCountCodePoints) {
  const std::vector<TokenId> ids = Ids("né 日x");
  TextGeneration text(*tokenizer_, {.logprobs = 0}, true, /*text_offset=*/10);
  const TextDelta all = Run(ids, FinishReason::kLength, 1, &text);
  ASSERT_EQ(all.tokens.size(), ids.size());
  EXPECT_EQ(all.tokens.front().text_offset, 10u);
  EXPECT_EQ(all.tokens.back().text_offset, 10u + 4);  // n é space 日
  EXPECT_EQ(all.tokens.back().logprob, -1.0f);
}

TEST_F(TextGenerationTest, NothingChangesAfterTheFinish) {
  TextGeneration text(*tokenizer_, {.stop = {"b"}}, true);
  Run(Ids("ab"), FinishReason::kLength, 1, &text);
  const TextDelta late = text.Consume({.tokens = {{.token = 5}}, .finish = FinishReason::kAbort});
  EXPECT_TRUE(late.text.empty());
  EXPECT_FALSE(late.finish);
}

TEST_F(TextGenerationTest, PromptIsPairedWithItsScores) {
  const std::vector<TokenId> ids = Ids("once upon a time");
  std::vector<SampledToken> scores;
  for (size_t i = 1; i < ids.size(); ++i) {
    scores.push_back({.token = ids[i], .logprob = -static_cast<float>(i)});
  }
  size_t offset = 0;
  const auto tokens = DescribePrompt(*tokenizer_, ids, scores, &offset);
  ASSERT_EQ(tokens.size(), ids.size());
  EXPECT_FALSE(tokens[0].logprob);
  EXPECT_EQ(tokens[1].logprob, -1.0f);
  EXPECT_EQ(tokens[1].text_offset, tokenizer_->TokenText(ids[0]).size());
  EXPECT_EQ(offset, std::string("once upon a time").size());
}

}  // namespace
}  // namespace sluice
