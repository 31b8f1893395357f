#include "tokenizer/onig_pattern.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include "base/error.h"
#include "tokenizer/regex.h"

namespace sluice {
namespace {

std::vector<std::string> Matches(std::string_view pattern, std::string_view text) {
  const Regex regex = Regex::FromPattern(Pcre2FromOniguruma(pattern));
  RegexScan scan;
  scan.Start(regex, text);
  std::vector<std::string> matches;
  while (const auto match = scan.Next()) {
    matches.emplace_back(text.substr(match->begin, match->end - match->begin));
  }
  return matches;
}

TEST(OnigPatternTest, SpaceIsTheWhiteSpaceProperty) {
  EXPECT_THAT(Matches(R"(\s)", "\u180E\u00A0\u0085\v"),
              testing::ElementsAre("\u00A0", "\u0085", "\v"));
  EXPECT_THAT(Matches(R"([^\s]+|\S)", "a\u180Eb\u3000"), testing::ElementsAre("a\u180Eb"));
}

TEST(OnigPatternTest, ScriptsAreNotScriptExtensions) {
  // U+3001 has Han among its extensions and Common as its script.
  EXPECT_THAT(Matches(R"(\p{Han}+)", "\u4F60\u3001"), testing::ElementsAre("\u4F60"));
}

TEST(OnigPatternTest, WordsAndVerticalTabs) {
  EXPECT_THAT(Matches(R"(\w+)", "a\u0301_9\u24B6-\u2160\u00BD"),
              testing::ElementsAre("a\u0301_9\u24B6", "\u2160"));
  EXPECT_THAT(Matches(R"(\v|\u0041)", "\n\vA"), testing::ElementsAre("\v", "A"));
}

TEST(OnigPatternTest, CategoriesAreThoseOfUnicode16) {
  // A Garay letter and digit, of Unicode 16, and a letter of CJK extension H, of Unicode 15.
  const std::string newer = "\U00010D4A\U00010D40\U00031350";
  EXPECT_THAT(Matches(R"(\p{L}|\p{N}+)", newer),
              testing::ElementsAre("\U00010D4A", "\U00010D40", "\U00031350"));
  EXPECT_THAT(Matches(R"([^\p{L}\p{N}]|\P{L})", newer), testing::ElementsAre("\U00010D40"));
  EXPECT_THAT(Matches(R"(\d\D)", newer), testing::ElementsAre("\U00010D40\U00031350"));
}

TEST(OnigPatternTest, EmptyMatchesDoNotRepeat) {
  EXPECT_THAT(Matches("a*", "baa\u00E9"), testing::ElementsAre("", "aa", ""));
}

TEST(OnigPatternTest, RefusesWhatDiffers) {
  for (const char* pattern : {"^a",          "a$",         R"(\ba)",    R"(\h)",
                              "[[:alpha:]]", "[a&&b]",     "[a[b]]",    "[]a]",
                              "(?i)a",       "(?<n>a)",    R"((a)\1)",  "a{2}+",
                              "a{,3}",       R"(\p{Foo})", R"(\p{^L})", R"((?i:\p{Lu}))",
                              R"(\pL)",      R"([\P{L}])", R"(\p{Cn})", "(a",
                              "a)",          "[a",         "a\\",       R"(\u12)",
                              "(*UCP)a"}) {
    try {
      Pcre2FromOniguruma(pattern);
      ADD_FAILURE() << pattern;
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kUnsupported);
      EXPECT_THAT(error.what(), testing::HasSubstr("offset"));
    }
  }
}

TEST(OnigPatternTest, RunawayPatternsEndInAnError) {
  EXPECT_THROW(Matches("(?:a|aa)+[^a]", std::string(10'000, 'a')), Error);
}

}  // namespace
}  // namespace sluice
