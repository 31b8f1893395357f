#include "tokenizer/incremental_detokenizer.h"

#include <gtest/gtest.h>

#include <random>
#include <vector>

#include "tokenizer/tokenizer.h"

namespace sluice {
namespace {

std::unique_ptr<Tokenizer> Storyteller() {
  return Tokenizer::Load(SLUICE_SOURCE_DIR "/models/storyteller/tokenizer.json");
}

TEST(IncrementalDetokenizerTest, HoldsBackUnfinishedCharacters) {
  const auto tokenizer = Storyteller();
  IncrementalDetokenizer detokenizer(*tokenizer, /*skip_special=*/true);
  const std::vector<TokenId> ids = tokenizer->Encode("\U0001F600");
  ASSERT_EQ(ids.size(), 4u);
  EXPECT_EQ(detokenizer.Push(ids[0]), "");
  EXPECT_EQ(detokenizer.Push(ids[1]), "");
  EXPECT_EQ(detokenizer.Push(4095), "");
  EXPECT_EQ(detokenizer.Push(ids[2]), "");
  EXPECT_EQ(detokenizer.Push(ids[3]), "\U0001F600");
  EXPECT_EQ(detokenizer.Push(ids[0]), "");
  EXPECT_EQ(detokenizer.Push(ids[0]), "\uFFFD");
  EXPECT_EQ(detokenizer.Finish(), "\uFFFD");
  EXPECT_EQ(detokenizer.Finish(), "");
}

std::unique_ptr<Tokenizer> Style(const std::string& name) {
  return Tokenizer::Load(SLUICE_SOURCE_DIR "/tests/data/tokenizer/" + name + "_style.json");
}

TEST(IncrementalDetokenizerTest, HoldsBackRunsOfBytesUntilTheyEnd) {
  const auto tokenizer = Style("mixtral");
  const auto byte = [&](char c) { return *tokenizer->IdOf(std::string(1, c)); };
  const TokenId the = *tokenizer->IdOf(" the");
  IncrementalDetokenizer detokenizer(*tokenizer, /*skip_special=*/true);
  EXPECT_EQ(detokenizer.Push(1), "");  // <s>
  EXPECT_EQ(detokenizer.Push(the), "the");
  EXPECT_EQ(detokenizer.Push(byte('\xF0')), "");
  EXPECT_EQ(detokenizer.Push(byte('\x9F')), "");
  EXPECT_EQ(detokenizer.Push(byte('\x98')), "");
  EXPECT_EQ(detokenizer.Push(byte('\x80')), "");
  EXPECT_EQ(detokenizer.Push(the), "\U0001F600 the");
  EXPECT_EQ(detokenizer.Push(byte('\xF0')), "");
  EXPECT_EQ(detokenizer.Push(byte('\x9F')), "");
  EXPECT_EQ(detokenizer.Finish(), "\uFFFD\uFFFD");
}

TEST(IncrementalDetokenizerTest, HoldsBackWhatMayBeStrippedOffTheEnd) {
  const auto tokenizer = Tokenizer::FromJson(R"({
    "added_tokens": [], "normalizer": null, "pre_tokenizer": null, "post_processor": null,
    "decoder": {"type": "Sequence", "decoders": [{"type": "Fuse"},
                {"type": "Strip", "content": "a", "start": 1, "stop": 2}]},
    "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "aab": 2, "ba": 3}, "merges": []}})");
  for (const auto& [ids, text] :
       std::vector<std::pair<std::vector<TokenId>, std::string>>{{{0, 0, 0, 0, 0}, "aa"},
                                                                 {{2, 3, 0, 0}, "abba"},
                                                                 {{0, 1, 0, 0, 1, 0}, "baab"},
                                                                 {{0}, ""}}) {
    IncrementalDetokenizer detokenizer(*tokenizer, /*skip_special=*/false);
    std::string joined;
    for (const TokenId id : ids) joined += detokenizer.Push(id);
    joined += detokenizer.Finish();
    EXPECT_EQ(joined, text);
    EXPECT_EQ(tokenizer->Decode(ids, false), text);
  }
}

TEST(IncrementalDetokenizerTest, JoinsToTheFullDecode) {
  const auto tokenizer = Storyteller();
  std::mt19937 random(7);
  // Low ids are single bytes, so that many sequences are broken; the range passes both ends.
  std::uniform_int_distribution<TokenId> byte_token(-1, 255);
  std::uniform_int_distribution<TokenId> any_token(0, 4097);
  for (int round = 0; round < 2000; ++round) {
    std::vector<TokenId> ids;
    for (int i = 0; i < 12; ++i) {
      ids.push_back(random() % 4 == 0 ? any_token(random) : byte_token(random));
    }
    const bool skip_special = round % 2 == 0;
    IncrementalDetokenizer detokenizer(*tokenizer, skip_special);
    std::string joined;
    for (const TokenId id : ids) {
      const std::string piece = detokenizer.Push(id);
      EXPECT_EQ(RepairUtf8(piece), piece);
      joined += piece;
    }
    joined += detokenizer.Finish();
    ASSERT_EQ(joined, tokenizer->Decode(ids, skip_special));
  }
}

}  // namespace
}  // namespace sluice
