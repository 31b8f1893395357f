#include "tokenizer/tokenizer.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json.hpp>
#include <chrono>
#include <fstream>
#include <sstream>
#include <thread>

#include "base/error.h"

namespace sluice {
namespace {

const std::string kData = std::string(SLUICE_SOURCE_DIR) + "/tests/data/";

std::string ReadFile(const std::string& path) {
  std::ifstream file(path, std::ios::binary);
  std::ostringstream text;
  text << file.rdbuf();
  EXPECT_TRUE(file.good()) << path;
  return text.str();
}

std::vector<TokenId> Ids(const boost::json::value& json) {
  return boost::json::value_to<std::vector<TokenId>>(json);
}

std::unique_ptr<Tokenizer> LoadNamed(const std::string& name) {
  if (name == "storyteller") {
    return Tokenizer::Load(SLUICE_SOURCE_DIR "/models/storyteller/tokenizer.json");
  }
  return Tokenizer::Load(kData + "tokenizer/" + name + ".json");
}

class TokenizerReferenceTest : public testing::TestWithParam<std::string> {};

TEST_P(TokenizerReferenceTest, EqualsTheTokenizersLibrary) {
  const auto tokenizer = LoadNamed(GetParam());
  const auto cases = boost::json::parse(ReadFile(kData + "tokenizer/cases.json"));
  ASSERT_GT(cases.as_array().size(), 30u);
  for (const auto& item : cases.as_array()) {
    const std::string text(item.at("text").as_string());
    const auto& expected = item.at(GetParam());
    SCOPED_TRACE(boost::json::serialize(item.at("text")));
    const std::vector<TokenId> ids = tokenizer->Encode(text);
    EXPECT_EQ(ids, Ids(expected.at("ids")));
    EXPECT_EQ(tokenizer->WrapInSpecial(ids), Ids(expected.at("wrapped")));
    EXPECT_EQ(tokenizer->Encode(text, /*parse_special=*/false),
              Ids(expected.at("ids_special_as_text")));
    EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/false), expected.at("decoded").as_string());
    EXPECT_EQ(tokenizer->Decode(ids, /*skip_special=*/true),
              expected.at("decoded_skip").as_string());
  }
}

INSTANTIATE_TEST_SUITE_P(Styles, TokenizerReferenceTest,
                         testing::Values("qwen2_style", "gpt2_style", "storyteller"),
                         [](const auto& style) { return style.param; });

TEST(TokenizerTest, KnowsItsTokens) {
  const auto tokenizer = LoadNamed("storyteller");
  EXPECT_EQ(tokenizer->vocab_size(), 4096);
  EXPECT_EQ(tokenizer->IdOf("<|im_end|>"), 4095);
  EXPECT_EQ(tokenizer->TokenText(4095), "<|im_end|>");
  EXPECT_TRUE(tokenizer->IsSpecial(4095));
  EXPECT_FALSE(tokenizer->IsSpecial(0));
  EXPECT_FALSE(tokenizer->IsSpecial(-1));
  EXPECT_FALSE(tokenizer->IsSpecial(4096));
  EXPECT_EQ(tokenizer->TokenText(4096), "");
  EXPECT_EQ(tokenizer->IdOf("no such token"), std::nullopt);
  const auto id = tokenizer->IdOf(" the");
  ASSERT_TRUE(id.has_value());
  EXPECT_EQ(tokenizer->TokenText(*id), " the");
  EXPECT_EQ(tokenizer->Decode(std::vector<TokenId>{-5, *id, 1 << 30}, false), " the");
}

TEST(TokenizerTest, TakesInvalidBytesAsReplacementCharacters) {
  const auto tokenizer = LoadNamed("storyteller");
  EXPECT_EQ(tokenizer->Encode("a\xFF\xE2\x82z\xF0\x9F"), tokenizer->Encode("a\uFFFD\uFFFDz\uFFFD"));
}

TEST(NormalizerTest, KnowsTheMarksOfUnicode9) {
  EXPECT_EQ(NormalizeNfc("e\u0301q\u0307\u0323"), "\u00E9q\u0323\u0307");
  // U+1DF6 has combining class 232 since Unicode 10 and would go before U+0323 (220) after it.
  EXPECT_EQ(NormalizeNfc("q\u1DF6\u0323"), "q\u1DF6\u0323");
  EXPECT_EQ(NormalizeNfc("\U00011935\U00011930"), "\U00011935\U00011930");
}

TEST(TokenizerTest, EveryTextComesBack) {
  const auto tokenizer = LoadNamed("storyteller");
  const std::string text = ReadFile(kData + "heldout.txt");
  EXPECT_EQ(tokenizer->Decode(tokenizer->Encode(text), false), text);
}

class LongRunsTest : public testing::TestWithParam<std::string> {};

TEST_P(LongRunsTest, TakeNoQuadraticTime) {
  const auto tokenizer = LoadNamed(GetParam());
  std::string marks = "a";
  for (int i = 0; i < 50'000; ++i) marks += "\u0301\u0323";
  const auto start = std::chrono::steady_clock::now();
  std::vector<std::string> texts = {marks, ""};
  for (int i = 0; i < 130'000; ++i) texts.back() += "\u4E00";
  for (const char c : {' ', 'a', '7', '\n', '<', '\0', '\xFF'}) texts.emplace_back(400'000, c);
  for (const std::string& text : texts) {
    EXPECT_FALSE(tokenizer->Encode(text).empty());
  }
  // Quadratic time would be minutes; this is some hundred times what it takes without sanitizers.
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

INSTANTIATE_TEST_SUITE_P(Styles, LongRunsTest,
                         testing::Values("qwen2_style", "gpt2_style", "neox_style", "mixtral_style",
                                         "deepseek_v3_style", "dbrx_style"),
                         [](const auto& style) { return style.param; });

TEST(TokenizerTest, TextsOfBytesAreTokensToo) {
  const auto tokenizer = LoadNamed("mixtral_style");
  const auto word = tokenizer->IdOf(" the");
  const auto byte = tokenizer->IdOf("\xE4");
  ASSERT_TRUE(word && byte);
  EXPECT_EQ(tokenizer->TokenText(*word), " the");
  EXPECT_EQ(tokenizer->TokenText(*byte), "\xE4");
  // "A" is a token of its own besides the fallback for the byte.
  const auto letter = tokenizer->IdOf("A");
  ASSERT_TRUE(letter.has_value());
  EXPECT_EQ(tokenizer->Encode("xA").back(), *letter);
}

TEST(TokenizerTest, ManyThreadsGetTheSameIds) {
  const auto tokenizer = LoadNamed("qwen2_style");
  const std::string text = ReadFile(kData + "heldout.txt").substr(0, 20'000);
  const std::vector<TokenId> expected = tokenizer->Encode(text);
  std::vector<std::vector<TokenId>> results(4);
  std::vector<std::thread> threads;
  for (auto& result : results) {
    threads.emplace_back([&] { result = tokenizer->Encode(text); });
  }
  for (auto& thread : threads) thread.join();
  EXPECT_THAT(results, testing::Each(expected));
}

// A file that works, for the tests of files that do not.
constexpr std::string_view kSmall = R"({
  "added_tokens": [{"id": 3, "content": "<s>", "special": true}],
  "normalizer": null,
  "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false},
  "post_processor": null,
  "decoder": {"type": "ByteLevel"},
  "model": {"type": "BPE", "dropout": null, "unk_token": null, "byte_fallback": false,
            "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]}
})";

std::string Replaced(std::string_view from, std::string_view to) {
  std::string json(kSmall);
  const size_t at = json.find(from);
  EXPECT_NE(at, json.npos) << from;
  return json.replace(at, from.size(), to);
}

TEST(TokenizerTest, SmallFileWorks) {
  const auto tokenizer = Tokenizer::FromJson(kSmall);
  // "c" has no token and is dropped, as the library does.
  EXPECT_EQ(tokenizer->Encode("abcb<s>"), (std::vector<TokenId>{2, 1, 3}));
}

TEST(TokenizerTest, IgnoreMergesTakesWholeWords) {
  const std::string vocab = R"("vocab": {"a": 0, "b": 1, "ab": 2, "aba": 4})";
  const std::string plain = Replaced(R"("vocab": {"a": 0, "b": 1, "ab": 2})", vocab);
  EXPECT_EQ(Tokenizer::FromJson(plain)->Encode("aba"), (std::vector<TokenId>{2, 0}));
  const std::string whole =
      Replaced(R"("vocab": {"a": 0, "b": 1, "ab": 2})", R"("ignore_merges": true, )" + vocab);
  EXPECT_EQ(Tokenizer::FromJson(whole)->Encode("aba"), (std::vector<TokenId>{4}));
}

struct BadFile {
  std::string from;
  std::string to;
  ErrorCode code;
  std::string message;
};

TEST(TokenizerTest, BrokenFilesAreRefusedByName) {
  constexpr auto kLoss = ErrorCode::kDataLoss;
  constexpr auto kNo = ErrorCode::kUnsupported;
  const std::string vocab = R"({"a": 0, "b": 1, "ab": 2})";
  const std::string merges = R"(["a b"])";
  const std::string pre = R"({"type": "ByteLevel", "add_prefix_space": false})";
  const std::string decoder = R"({"type": "ByteLevel"})";
  const std::string deep = std::string(100'000, '[');
  std::string deep_sequence;
  for (int i = 0; i < 1000; ++i) deep_sequence += R"({"type": "Sequence", "normalizers": [)";
  const auto replace = [](const std::string& pattern) {
    return R"({"type": "Replace", "content": "", "pattern": )" + pattern + "}";
  };
  const auto normalizers = [](const std::string& step, int count) {
    std::string list = step;
    for (int i = 1; i < count; ++i) list += ", " + step;
    return R"("normalizer": {"type": "Sequence", "normalizers": [)" + list + "]}";
  };
  const auto decoders = [](const std::string& steps) {
    return R"({"type": "Sequence", "decoders": [)" + steps + "]}";
  };
  for (const BadFile& bad : std::vector<BadFile>{
           {vocab, R"({"a": 0, "b": 1, "ab": 1})", kLoss, "id 1 to two tokens"},
           {vocab, R"({"a": 0, "b": 1, "ab": 4194304})", kLoss, "4194303"},
           {vocab, R"({"a": 0, "b": 1, "ab": 99999999999999999999})", kLoss, "integer"},
           {vocab, R"({"a": 0, "b": 1, "ab": -1})", kLoss, "integer"},
           {vocab, R"({"a": 0, "b": 1, "ab": "x"})", kLoss, "integer"},
           {vocab, "{}", kLoss, "model.vocab is empty"},
           {vocab, "[]", kLoss, "model.vocab must be an object"},
           {vocab, deep, kLoss, "valid JSON"},
           {merges, R"(["a c"])", kLoss, "\"c\""},
           {merges, R"(["a b c"])", kLoss, "not two tokens"},
           {merges, R"(["b a"])", kLoss, "\"ba\""},
           {merges, R"([["a"]])", kLoss, "1 parts"},
           {merges, R"([7])", kLoss, "model.merges[]"},
           {R"("merges")", R"("margins")", kLoss, "\"merges\""},
           {R"("model")", R"("modal")", kLoss, "no model"},
           {R"("dropout": null)", R"("dropout": 0.1)", kNo, "dropout"},
           {R"("dropout": null)", R"("dropout": "x")", kLoss, "dropout"},
           {R"("unk_token": null)", R"("unk_token": "a")", kNo, "unk_token"},
           {R"("unk_token": null)", R"("unk_token": "c")", kLoss, "unk_token \"c\""},
           {R"("unk_token": null)", R"("end_of_word_suffix": "</w>")", kNo, "end_of_word_suffix"},
           {R"("byte_fallback": false)", R"("byte_fallback": true)", kNo, "byte_fallback"},
           {R"("type": "BPE")", R"("type": "Unigram")", kNo, "Unigram"},
           {R"("normalizer": null)", R"("normalizer": {"type": "NFKC"})", kNo, "NFKC"},
           {R"("normalizer": null)", R"("normalizer": {"type": "Prepend"})", kLoss, "\"prepend\""},
           {R"("normalizer": null)", normalizers(replace(R"({"String": ""})"), 1), kLoss, "empty"},
           {R"("normalizer": null)", normalizers(replace(R"({"Regex": "a*"})"), 1), kNo,
            "empty text"},
           {R"("normalizer": null)", normalizers(replace(R"({"Regex": "(a"})"), 1), kNo, "group"},
           {R"("normalizer": null)", normalizers(replace(R"({"String": "a"})"), 65), kNo,
            "64 steps"},
           {R"("normalizer": null)", "\"normalizer\": " + deep_sequence, kLoss, "too deep"},
           {pre, R"({"type": "BertPreTokenizer"})", kNo, "BertPreTokenizer"},
           {pre, R"({"type": 7})", kLoss, "pre_tokenizer.type must be a string"},
           {pre, R"({"type": "Metaspace", "replacement": "xy"})", kLoss, "one character"},
           {pre, R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "last"})", kLoss,
            "last"},
           {pre,
            R"({"type": "Metaspace", "replacement": "_", "prepend_scheme": "first",
                "add_prefix_space": false})",
            kLoss, "contradicts"},
           {pre, R"({"type": "Punctuation", "behavior": "Isolate"})", kLoss, "\"Isolate\""},
           {pre,
            R"({"type": "Sequence", "pretokenizers": [{"type": "ByteLevel"}, {"type": "Digits"}]})",
            kNo, "\"Digits\" after ByteLevel"},
           {pre,
            R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "a"},
                "behavior": "Merged", "invert": false}, {"type": "ByteLevel"}]})",
            kLoss, "Merged"},
           {pre,
            R"({"type": "Sequence", "pretokenizers": [{"type": "Split", "pattern": {"Regex": "(a"},
                "behavior": "Isolated", "invert": false}, {"type": "ByteLevel"}]})",
            kNo, "group"},
           {decoder, R"({"type": "WordPiece"})", kNo, "WordPiece"},
           {decoder, "null", kNo, "no decoder"},
           {decoder, R"({"type": "Strip", "content": " ", "start": -1, "stop": 0})", kLoss,
            "start"},
           {decoder, R"({"type": "Strip", "content": " ", "start": 0, "stop": 1e30})", kLoss,
            "stop"},
           {decoder, R"({"type": "Strip", "content": "", "start": 0, "stop": 0})", kLoss,
            "one char"},
           {decoder, decoders(R"({"type": "Fuse"}, {"type": "ByteFallback"})"), kNo,
            "ByteFallback"},
           {decoder, decoders(R"({"type": "Fuse"}, )" + replace(R"({"String": "a"})")), kNo,
            "\"Replace\" after"},
           {R"("post_processor": null)", R"("post_processor": {"type": "Bert"})", kNo, "Bert"},
           {R"("post_processor": null)",
            R"("post_processor": {"type": "TemplateProcessing", "special_tokens": {},
                "single": [{"SpecialToken": {"id": "<s>"}}, {"Sequence": {"id": "A"}}]})",
            kLoss, "\"<s>\""},
           {R"({"id": 3, "content": "<s>")", R"({"id": 2, "content": "<s>")", kLoss, "contradicts"},
           {R"({"id": 3, "content": "<s>")", R"({"id": 3, "content": "a")", kLoss, "contradicts"},
           {R"("special": true}])", R"("special": true}, {"id": 3, "content": "x"}])", kLoss,
            "twice"},
           {R"("special": true)", R"("special": 1)", kLoss, "special must be a boolean"}}) {
    SCOPED_TRACE(bad.to.substr(0, 100));
    try {
      Tokenizer::FromJson(Replaced(bad.from, bad.to));
      ADD_FAILURE() << "accepted";
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), bad.code) << error.what();
      EXPECT_THAT(error.what(), testing::HasSubstr(bad.message));
    }
  }
}

TEST(TokenizerTest, TextsThatStepsBlowUpAreRefused) {
  std::string doubling = R"({"type": "Replace", "pattern": {"String": "a"}, "content": "aa"})";
  std::string list = doubling;
  for (int i = 1; i < 60; ++i) list += ", " + doubling;
  const auto tokenizer = Tokenizer::FromJson(
      Replaced(R"("normalizer": null)",
               R"("normalizer": {"type": "Sequence", "normalizers": [)" + list + "]}"));
  EXPECT_EQ(tokenizer->Encode("b"), (std::vector<TokenId>{1}));
  EXPECT_THROW(tokenizer->Encode("a"), Error);
  EXPECT_THROW(Tokenizer::FromJson(
                   Replaced(R"("decoder": {"type": "ByteLevel"})",
                            R"("decoder": {"type": "Sequence", "decoders": [)" + list + "]}")),
               Error);
}

TEST(TokenizerTest, CutFilesNeverCrash) {
  for (size_t size = 0; size < kSmall.size(); ++size) {
    EXPECT_THROW(Tokenizer::FromJson(kSmall.substr(0, size)), Error);
  }
  EXPECT_THROW(Tokenizer::Load("no/such/tokenizer.json"), Error);
}

}  // namespace
}  // namespace sluice
