#include "tokenizer/stop_matcher.h"

#include <gtest/gtest.h>

#include <random>

#include "base/error.h"

namespace sluice {
namespace {

struct Outcome {
  std::string text;
  std::optional<size_t> stop;
  bool operator==(const Outcome&) const = default;
};

Outcome Feed(const std::vector<std::string>& stops, bool include_stop,
             const std::vector<std::string>& pieces) {
  StopMatcher matcher(stops, include_stop);
  std::string text;
  for (const std::string& piece : pieces) text += matcher.Push(piece);
  text += matcher.Finish();
  return {text, matcher.matched()};
}

TEST(StopMatcherTest, HoldsBackWhatMayBecomeAStop) {
  StopMatcher matcher({"END", "\n\n"}, /*include_stop=*/false);
  EXPECT_EQ(matcher.Push("story\n"), "story");
  EXPECT_EQ(matcher.Push("goes EN"), "\ngoes ");
  EXPECT_EQ(matcher.Push("EN"), "EN");
  EXPECT_EQ(matcher.matched(), std::nullopt);
  EXPECT_EQ(matcher.Push("D of it"), "");
  EXPECT_EQ(matcher.matched(), 0u);
  EXPECT_EQ(matcher.Push("more"), "");
  EXPECT_EQ(matcher.Finish(), "");
}

TEST(StopMatcherTest, FinishReturnsWhatWasHeldBack) {
  EXPECT_EQ(Feed({"END"}, false, {"the E", "N"}), (Outcome{"the EN", std::nullopt}));
  EXPECT_EQ(Feed({}, false, {"a", "b"}), (Outcome{"ab", std::nullopt}));
}

TEST(StopMatcherTest, IncludesTheStopOnRequest) {
  EXPECT_EQ(Feed({"END"}, true, {"the E", "ND of"}), (Outcome{"the END", 0}));
}

TEST(StopMatcherTest, TheEarliestStartWins) {
  EXPECT_EQ(Feed({"bc", "abcd"}, false, {"xab", "c", "de"}), (Outcome{"x", 1}));
  EXPECT_EQ(Feed({"bc", "abcd"}, false, {"xab", "c", "ee"}), (Outcome{"xa", 0}));
  EXPECT_EQ(Feed({"bc", "abcd"}, false, {"xabc"}), (Outcome{"xa", 0}));
  EXPECT_EQ(Feed({"abc", "ab"}, true, {"abc"}), (Outcome{"ab", 1}));
}

TEST(StopMatcherTest, RefusesAnEmptyStop) {
  EXPECT_THROW(StopMatcher({"a", ""}, false), Error);
}

Outcome Expected(const std::vector<std::string>& stops, bool include_stop,
                 const std::string& text) {
  size_t begin = text.npos;
  size_t stop = 0;
  for (size_t i = 0; i < stops.size(); ++i) {
    const size_t at = text.find(stops[i]);
    if (at == text.npos || at > begin) continue;
    if (at == begin && stops[i].size() >= stops[stop].size()) continue;
    begin = at;
    stop = i;
  }
  if (begin == text.npos) return {text, std::nullopt};
  return {text.substr(0, begin + (include_stop ? stops[stop].size() : 0)), stop};
}

TEST(StopMatcherTest, CuttingTheTextChangesNothing) {
  std::mt19937 random(11);
  const auto word = [&](size_t size) {
    std::string text;
    while (text.size() < size) text.push_back("aab"[random() % 3]);
    return text;
  };
  for (int round = 0; round < 5000; ++round) {
    std::vector<std::string> stops;
    for (size_t i = 0; i < 1 + random() % 3; ++i) stops.push_back(word(2 + random() % 5));
    const std::string text = word(20);
    std::vector<std::string> pieces;
    for (size_t i = 0; i < text.size();) {
      pieces.push_back(text.substr(i, 1 + random() % 4));
      i += pieces.back().size();
    }
    const bool include_stop = round % 2 == 0;
    ASSERT_EQ(Feed(stops, include_stop, pieces), Expected(stops, include_stop, text)) << text;
  }
}

}  // namespace
}  // namespace sluice
