#include "study/load_counts.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>

#include "base/error.h"
#include "study/testing.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

TEST(LoadCounts, CountsByLayer) {
  LoadCounts counts = LoadCounts::Zero(3, 4);
  counts.Add(MakeBatch(5, 0, {{0, 1}, {0, 3}}));
  counts.Add(MakeBatch(6, 2, {{3, 2}}));
  EXPECT_THAT(counts.Layer(0), ElementsAre(2, 1, 0, 1));
  EXPECT_THAT(counts.Loads(2), ElementsAre(0, 0, 1, 1));
  EXPECT_THAT(counts.Costs(0, 5.0, 1.0), ElementsAre(5, 5, 0, 5));
  EXPECT_THAT(counts.Costs(0, 1.0, 3.0), ElementsAre(6, 3, 0, 3));
  EXPECT_TRUE(counts.HasLoad(0));
  EXPECT_FALSE(counts.HasLoad(1));
  EXPECT_EQ(counts.last_step, 6u);
}

TEST(WindowedCounts, CutsBySteps) {
  WindowedCounts windows(2, 2, 3);
  for (uint64_t step = 10; step < 17; ++step) {
    windows.Add(MakeBatch(step, 0, {{0}}));
    windows.Add(MakeBatch(step, 1, {{1}}));
    windows.Add(MakeBatch(step, 1, {{1}}));  // a second part of the same step and layer
  }
  ASSERT_EQ(windows.windows().size(), 3u);
  EXPECT_EQ(windows.windows()[1].first_step, 13u);
  EXPECT_EQ(windows.windows()[1].last_step, 15u);
  EXPECT_THAT(windows.windows()[1].counts, ElementsAre(3, 0, 0, 6));
  EXPECT_THAT(windows.windows()[2].counts, ElementsAre(1, 0, 0, 2));
  EXPECT_THAT(windows.Total().counts, ElementsAre(7, 0, 0, 14));
  EXPECT_EQ(windows.Total().first_step, 10u);
  EXPECT_EQ(windows.Total().last_step, 16u);
}

TEST(WindowedCounts, AreNeverMoreThanTheirBound) {
  WindowedCounts windows(1, 3, 1);
  for (uint64_t step = 0; step < 1000; ++step) {
    windows.Add(MakeBatch(step, 0, {{static_cast<uint16_t>(step % 3)}}));
    ASSERT_LE(windows.windows().size(), WindowedCounts::kMaxWindows);
  }
  EXPECT_EQ(windows.steps_per_window(), 16u);
  uint64_t next = 0;
  for (const LoadCounts& window : windows.windows()) {
    EXPECT_EQ(window.first_step, next);
    next = window.last_step + 1;
    const uint64_t steps = window.last_step - window.first_step + 1;
    EXPECT_EQ(window.counts[0] + window.counts[1] + window.counts[2], steps);
    EXPECT_LE(steps, 16u);
  }
  EXPECT_EQ(next, 1000u);
  EXPECT_THAT(windows.Total().counts, ElementsAre(334, 333, 333));
}

TEST(ReadCountsCsv, ReadsALineForEachLayer) {
  const auto path =
      std::filesystem::temp_directory_path() / ("sluice_counts_" + std::to_string(getpid()));
  const auto read = [&](const std::string& text) {
    std::ofstream(path, std::ios::binary) << text;
    return ReadCountsCsv(path);
  };
  const LoadCounts counts = read("# layer a\n1,2,3\r\n\n4,5,9007199254740992");
  EXPECT_EQ(counts.num_layers, 2);
  EXPECT_EQ(counts.num_experts, 3);
  EXPECT_THAT(counts.counts, ElementsAre(1, 2, 3, 4, 5, 9007199254740992));
  EXPECT_EQ(read("").num_layers, 0);
  const auto message = [&](const std::string& text) -> std::string {
    try {
      read(text);
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
      return error.what();
    }
    return "";
  };
  EXPECT_THAT(message("1,2\n1,2,3\n"), HasSubstr("line 2 is not 2 counts"));
  EXPECT_THAT(message("1,x\n"), HasSubstr("line 1 is not counts"));
  EXPECT_THAT(message("1,-2\n"), HasSubstr("line 1"));
  EXPECT_THAT(message("1,2,\n"), HasSubstr("line 1"));
  EXPECT_THAT(message("1.5\n"), HasSubstr("line 1"));
  EXPECT_THAT(message("9007199254740993\n"), HasSubstr("line 1"));
  std::filesystem::remove(path);
  EXPECT_THROW(ReadCountsCsv(path), Error);
}

}  // namespace
}  // namespace sluice
