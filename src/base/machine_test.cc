#include "base/machine.h"

#include <gtest/gtest.h>

#include "base/check.h"

namespace sluice {
namespace {

TEST(Machine, FormatsBytesWithThreeFigures) {
  EXPECT_EQ(FormatBytes(0), "0 B");
  EXPECT_EQ(FormatBytes(999), "999 B");
  EXPECT_EQ(FormatBytes(1000), "1.00 KB");
  EXPECT_EQ(FormatBytes(12'340'000), "12.3 MB");
  EXPECT_EQ(FormatBytes(999'600'000), "1.00 GB");
  EXPECT_EQ(FormatBytes(61'200'000'000), "61.2 GB");
}

TEST(Machine, ReportsWhatTheSystemHas) {
  EXPECT_GE(AvailableCores(), 1);
  const double stolen = StolenSeconds();
  EXPECT_GE(stolen, 0.0);
  EXPECT_GE(StolenSeconds(), stolen);
  EXPECT_GT(QueryMemory().total_bytes, 0u);
  EXPECT_GE(QueryMemory().total_bytes, QueryMemory().available_bytes);
  EXPECT_GT(ResidentBytes(), 0u);
  EXPECT_LT(LastLevelCacheBytes(), QueryMemory().total_bytes);
  EXPECT_EQ(ParseCpuTier(CpuTierName(DetectCpuTier())), DetectCpuTier());
  EXPECT_EQ(ParseCpuTier("sse9"), std::nullopt);
}

TEST(Check, NamesExpressionValuesAndPlace) {
  try {
    const int expected = 2;
    SLUICE_CHECK_EQ(expected, 3);
    FAIL();
  } catch (const InternalError& error) {
    const std::string message = error.what();
    EXPECT_NE(message.find("expected == 3 (2 against 3)"), std::string::npos) << message;
    EXPECT_NE(message.find("machine_test.cc"), std::string::npos) << message;
  }
}

}  // namespace
}  // namespace sluice
