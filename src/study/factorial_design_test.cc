#include "study/factorial_design.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <set>

#include "base/error.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

Factor Of(const std::string& name, int levels) {
  Factor factor{.name = name};
  for (int level = 0; level < levels; ++level) factor.levels.push_back({.value = level});
  return factor;
}

std::vector<Factor> TwoLevel(const std::string& letters) {
  std::vector<Factor> factors;
  for (const char letter : letters) factors.push_back(Of(std::string(1, letter), 2));
  return factors;
}

std::string MessageOf(std::vector<Factor> factors, std::vector<DesignGenerator> generators) {
  try {
    MakeDesign(std::move(factors), std::move(generators));
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    return error.what();
  }
  return "";
}

int Sign(const FactorialDesign& design, size_t point, const std::string& word) {
  int sign = 1;
  for (const char letter : word) {
    for (size_t f = 0; f < design.factors.size(); ++f) {
      if (design.factors[f].name == std::string(1, letter)) {
        sign *= design.points[point][f] == 0 ? -1 : 1;
      }
    }
  }
  return sign;
}

TEST(FactorialDesign, FullHasEveryCombinationOnce) {
  const FactorialDesign design = MakeDesign({Of("a", 3), Of("b", 2), Of("c", 4)}, {});
  EXPECT_EQ(design.points.size(), 24u);
  const std::set<std::vector<int>> distinct(design.points.begin(), design.points.end());
  EXPECT_EQ(distinct.size(), 24u);
  EXPECT_THAT(design.points[0], ElementsAre(0, 0, 0));
  EXPECT_THAT(design.points[1], ElementsAre(1, 0, 0));
  EXPECT_THAT(design.points[3], ElementsAre(0, 1, 0));
  EXPECT_EQ(design.resolution, 0);
  EXPECT_TRUE(Aliases(design).empty());
}

// The 2^(7-4) design of resolution III and the 2^(5-1) of resolution V of the textbook.
TEST(FactorialDesign, FractionsOfTheTextbook) {
  const FactorialDesign saturated =
      MakeDesign(TwoLevel("abcdefg"),
                 {{"d", {"a", "b"}}, {"e", {"a", "c"}}, {"f", {"b", "c"}}, {"g", {"a", "b", "c"}}});
  EXPECT_EQ(saturated.points.size(), 8u);
  EXPECT_EQ(saturated.resolution, 3);
  EXPECT_EQ(saturated.defining_words.size(), 15u);
  const FactorialDesign half = MakeDesign(TwoLevel("abcde"), {{"e", {"a", "b", "c", "d"}}});
  EXPECT_EQ(half.points.size(), 16u);
  EXPECT_EQ(half.resolution, 5);
  EXPECT_THAT(half.defining_words, ElementsAre("a*b*c*d*e"));
  EXPECT_TRUE(Aliases(half).empty());
}

TEST(FactorialDesign, EveryDefiningWordIsConstantAndColumnsAreOrthogonal) {
  const FactorialDesign design =
      MakeDesign(TwoLevel("abcdef"), {{"e", {"a", "b", "c"}}, {"f", {"b", "c", "d"}}});
  EXPECT_EQ(design.resolution, 4);
  for (const std::string word : {"abce", "bcdf", "adef"}) {
    for (size_t p = 0; p < design.points.size(); ++p) EXPECT_EQ(Sign(design, p, word), 1);
  }
  for (const std::string pair : {"ab", "ae", "ef", "df", "cf"}) {
    int sum = 0;
    for (size_t p = 0; p < design.points.size(); ++p) sum += Sign(design, p, pair);
    EXPECT_EQ(sum, 0) << pair;
  }
}

TEST(FactorialDesign, SaysWhatAFractionMixesUp) {
  const FactorialDesign three = MakeDesign(TwoLevel("abc"), {{"c", {"a", "b"}}});
  EXPECT_THAT(Aliases(three), ElementsAre("a = b*c", "b = a*c", "c = a*b"));
  const FactorialDesign four = MakeDesign(TwoLevel("abcd"), {{"d", {"a", "b", "c"}}});
  EXPECT_THAT(Aliases(four), ElementsAre("a*b = c*d", "a*c = b*d", "a*d = b*c"));
}

TEST(FactorialDesign, RefusesWhatCannotBeRun) {
  EXPECT_THAT(MessageOf({}, {}), HasSubstr("at least one factor"));
  EXPECT_THAT(MessageOf({Of("a", 1)}, {}), HasSubstr("factor a has 1 level"));
  EXPECT_THAT(MessageOf({Of("a", 2), Of("a", 2)}, {}), HasSubstr("two factors are named a"));
  Factor twice = Of("a", 2);
  twice.levels[1] = twice.levels[0];
  EXPECT_THAT(MessageOf({twice}, {}), HasSubstr("the level 0 twice"));
  EXPECT_THAT(MessageOf(TwoLevel("ab"), {{"z", {"a", "b"}}}), HasSubstr("z, which is no factor"));
  EXPECT_THAT(MessageOf(TwoLevel("abc"), {{"c", {"a", "z"}}}), HasSubstr("z, which is no factor"));
  EXPECT_THAT(MessageOf(TwoLevel("ab"), {{"b", {"a"}}}), HasSubstr("same factor over again"));
  EXPECT_THAT(MessageOf(TwoLevel("abc"), {{"c", {"a", "a"}}}), HasSubstr("a twice"));
  EXPECT_THAT(MessageOf(TwoLevel("abc"), {{"c", {"a", "c"}}}), HasSubstr("has a generator itself"));
  EXPECT_THAT(MessageOf(TwoLevel("abc"), {{"c", {"a", "b"}}, {"c", {"a", "b"}}}),
              HasSubstr("two generators"));
  EXPECT_THAT(MessageOf(TwoLevel("abcd"), {{"c", {"a", "b"}}, {"d", {"a", "b"}}}),
              HasSubstr("c*d is constant"));
  EXPECT_THAT(MessageOf({Of("a", 2), Of("b", 3), Of("c", 2)}, {{"c", {"a", "b"}}}),
              HasSubstr("b has 3 levels"));
  EXPECT_THAT(MessageOf({Of("a", 1000), Of("b", 1000)}, {}), HasSubstr("more than 100000 points"));
}

TEST(FactorialDesign, OrdersAreRandomAndRepeatable) {
  const FactorialDesign design = MakeDesign(TwoLevel("abcd"), {});
  const std::vector<PlannedRun> runs = RandomOrder(design, 3, 7);
  ASSERT_EQ(runs.size(), 48u);
  std::vector<std::vector<int>> blocks(3);
  for (size_t r = 0; r < runs.size(); ++r) {
    EXPECT_EQ(runs[r].repeat, static_cast<int>(r / 16));
    blocks[r / 16].push_back(runs[r].point);
  }
  for (const std::vector<int>& block : blocks) {
    EXPECT_EQ(std::set<int>(block.begin(), block.end()).size(), 16u);
    EXPECT_FALSE(std::is_sorted(block.begin(), block.end()));
  }
  EXPECT_NE(blocks[0], blocks[1]);
  const std::vector<PlannedRun> again = RandomOrder(design, 3, 7);
  const std::vector<PlannedRun> other = RandomOrder(design, 3, 8);
  bool differs = false;
  for (size_t r = 0; r < runs.size(); ++r) {
    EXPECT_EQ(again[r].point, runs[r].point);
    differs = differs || other[r].point != runs[r].point;
  }
  EXPECT_TRUE(differs);
}

}  // namespace
}  // namespace sluice
