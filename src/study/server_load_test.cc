#include "study/server_load.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <string>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

using std::chrono::duration;
using ::testing::ElementsAre;

std::string Line(const std::string& name, int layer, int expert, uint64_t count) {
  return name + "{model_name=\"a \\\"b\\\\\",layer=\"" + std::to_string(layer) + "\",expert=\"" +
         std::to_string(expert) + "\"} " + std::to_string(count) + "\n";
}

// Of a model whose second layer of three routes to two experts.
std::string Page(uint64_t steps, std::vector<uint64_t> tokens, std::vector<uint64_t> uses) {
  std::string page =
      "# HELP sluice:expert_steps_total Steps\n# TYPE sluice:expert_steps_total counter\n"
      "sluice:expert_steps_total{model_name=\"a \\\"b\\\\\"} " +
      std::to_string(steps) + "\nvllm:num_requests_running{model_name=\"x\"} 3\n";
  for (int e = 0; e < 2; ++e) {
    page += Line("sluice:expert_tokens_total", 1, e, tokens[static_cast<size_t>(e)]);
    page += Line("sluice:expert_uses_total", 1, e, uses[static_cast<size_t>(e)]);
  }
  return page;
}

TEST(ServerLoad, IsReadFromMetrics) {
  const ServerLoad load = ParseServerLoad(Page(7, {12, 0}, {5, 0}));
  EXPECT_EQ(load.model, "a \"b\\");
  EXPECT_EQ(load.steps, 7u);
  EXPECT_EQ(load.counts.num_layers, 2);
  EXPECT_EQ(load.counts.num_experts, 2);
  EXPECT_THAT(load.counts.counts, ElementsAre(0, 0, 12, 0));
  EXPECT_THAT(load.counts.uses, ElementsAre(0, 0, 5, 0));
}

ErrorCode CodeOf(const std::string& page) {
  try {
    ParseServerLoad(page);
  } catch (const Error& error) {
    return error.code();
  }
  ADD_FAILURE() << "it was read: " << page;
  return ErrorCode::kInternal;
}

TEST(ServerLoad, RefusesOtherPages) {
  EXPECT_EQ(CodeOf(""), ErrorCode::kUnsupported);
  EXPECT_EQ(CodeOf("sluice:expert_steps_total{} 3\n"), ErrorCode::kUnsupported);
  EXPECT_EQ(CodeOf("<html>sluice:expert_tokens_total{"), ErrorCode::kUnsupported);
  const std::string page = Page(7, {12, 3}, {5, 2});
  const std::string name = "sluice:expert_tokens_total";
  for (const std::string& damage :
       {name + "{layer=\"1\",expert=\"0\"} -1", name + "{layer=\"1\",expert=\"0\"} 1.5",
        name + "{layer=\"1\",expert=\"0\"} nan", name + "{layer=\"1\",expert=\"0\"} 1e300",
        name + "{layer=\"-1\",expert=\"0\"} 1", name + "{layer=\"1\",expert=\"99999\"} 1",
        name + "{layer=\"1\"} 1", name + "{layer=\"1\",expert=\"0", name + "{layer=\"1\\", name}) {
    EXPECT_EQ(CodeOf(page + damage), ErrorCode::kDataLoss) << damage;
  }
  // A page that was cut off.
  EXPECT_EQ(CodeOf(page.substr(0, page.rfind("sluice:"))), ErrorCode::kDataLoss);
}

// Gives one page after the other.
WatchedLoad Watch(std::vector<std::string> pages) {
  size_t next = 0;
  const WatchOptions options{.windows = static_cast<int>(pages.size()) - 1,
                             .window = duration<double>(1e-3)};
  return WatchServer([&] { return pages.at(next++); }, options);
}

TEST(WatchServer, GivesWhatWasCountedInEachWindow) {
  const WatchedLoad watched = Watch({Page(10, {5, 5}, {3, 3}), Page(12, {9, 5}, {5, 3}),
                                     Page(12, {9, 6}, {5, 3}), Page(13, {9, 8}, {5, 4})});
  EXPECT_EQ(watched.model, "a \"b\\");
  ASSERT_EQ(watched.windows.size(), 2u);  // the second had no step of its own
  EXPECT_THAT(watched.windows[0].counts, ElementsAre(0, 0, 4, 0));
  EXPECT_EQ(watched.windows[0].first_step, 10u);
  EXPECT_EQ(watched.windows[0].last_step, 11u);
  EXPECT_THAT(watched.windows[1].counts, ElementsAre(0, 0, 0, 3));
  EXPECT_THAT(watched.windows[1].uses, ElementsAre(0, 0, 0, 1));
  EXPECT_EQ(watched.windows[1].first_step, 12u);
  EXPECT_EQ(watched.windows[1].last_step, 12u);
}

TEST(WatchServer, SaysWhenThereIsNothingToStudy) {
  EXPECT_THROW(Watch({Page(3, {1, 1}, {1, 1}), Page(3, {1, 1}, {1, 1})}), Error);  // idle
  EXPECT_THROW(Watch({Page(3, {4, 1}, {1, 1}), Page(4, {2, 3}, {1, 1})}), Error);  // started again
  EXPECT_THROW(FetchMetrics("nowhere"), Error);
}

}  // namespace
}  // namespace sluice
