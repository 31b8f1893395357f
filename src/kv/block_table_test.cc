#include "kv/block_table.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice {
namespace {

using testing::ElementsAre;
using testing::IsEmpty;

TEST(BlockTable, ACopyStaysAsItWas) {
  BlockTable table{1, 2};
  const BlockTable taken = table;
  EXPECT_EQ(taken.begin(), table.begin()) << "in common until one of them changes";
  table.push_back(3);
  const BlockTable longer = table;
  table.Replace(0, 9);
  const BlockTable replaced = table;
  table.pop_back();
  EXPECT_THAT(taken, ElementsAre(1, 2));
  EXPECT_THAT(longer, ElementsAre(1, 2, 3));
  EXPECT_THAT(replaced, ElementsAre(9, 2, 3));
  EXPECT_THAT(table, ElementsAre(9, 2));
}

TEST(BlockTable, AloneItGrowsWhereItIs) {
  BlockTable table;
  EXPECT_THAT(table, IsEmpty());
  EXPECT_EQ(table, BlockTable());
  for (PageId id = 0; id < 1000; ++id) table.push_back(id);
  const PageId* const before = table.begin();
  table.Replace(999, 7);
  EXPECT_EQ(table.begin(), before);
  EXPECT_EQ(table.back(), 7);
}

}  // namespace
}  // namespace sluice
