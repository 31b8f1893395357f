#include "sched/waiting_line.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

namespace sluice {
namespace {

using testing::ElementsAre;

class WaitingLineTest : public testing::Test {
 protected:
  void Add(const std::string& client, int priority = 0) {
    auto sequence = std::make_unique<Sequence>();
    sequence->id = ++added_;
    sequence->client = client;
    sequence->priority = priority;
    line_.Add(std::move(sequence));
  }

  // Gives a place to the first, and says whose it is.
  SequenceId Take() {
    batch_.push_back(line_.TakeFirst());
    return batch_.back()->id;
  }
  std::vector<SequenceId> TakeAll() {
    std::vector<SequenceId> taken;
    while (!line_.empty()) taken.push_back(Take());
    return taken;
  }

  WaitingLine line_;
  std::vector<std::unique_ptr<Sequence>> batch_;
  SequenceId added_ = 0;
};

TEST_F(WaitingLineTest, OneClientIsServedAsItComes) {
  for (int i = 0; i < 4; ++i) Add("a");
  EXPECT_EQ(line_.size(), 4u);
  EXPECT_THAT(TakeAll(), ElementsAre(1, 2, 3, 4));
}

TEST_F(WaitingLineTest, PriorityGoesBeforeArrivalAndShares) {
  Add("a");
  Add("a", 5);
  Add("b", -1);
  Add("b", -1);
  Add("b", -2);
  EXPECT_THAT(TakeAll(), ElementsAre(5, 3, 4, 1, 2));
}

TEST_F(WaitingLineTest, ClientsShareTheBatch) {
  for (int i = 0; i < 5; ++i) Add("a");  // 1 to 5
  EXPECT_EQ(Take(), 1u);
  EXPECT_EQ(Take(), 2u);
  Add("b");  // 6
  Add("b");  // 7
  Add("c");  // 8
  EXPECT_THAT(TakeAll(), ElementsAre(6, 8, 7, 3, 4, 5));
}

TEST_F(WaitingLineTest, ABatchOfOneIsSharedByTurns) {
  for (int i = 0; i < 3; ++i) Add("a");
  std::vector<SequenceId> taken;
  for (int i = 0; i < 5; ++i) {
    taken.push_back(Take());
    if (i == 0) Add("b");  // 4
    if (i == 0) Add("b");  // 5
    line_.Leave(*batch_.back());
  }
  EXPECT_THAT(taken, ElementsAre(1, 2, 4, 3, 5));  // "a" was there first
}

TEST_F(WaitingLineTest, WhoGaveAPlaceUpComesFirstOfItsPriority) {
  Add("a");
  Add("a");
  Take();
  Take();
  Add("b");
  Add("b", -1);
  line_.PutBack(std::move(batch_[1]));
  line_.PutBack(std::move(batch_[0]));
  EXPECT_EQ(line_.size(), 4u);
  EXPECT_THAT(TakeAll(), ElementsAre(4, 1, 2, 3));
  EXPECT_EQ(batch_[3]->turn, 1u + 1u);  // still that of its first place; the client came before
}

TEST_F(WaitingLineTest, TakesOutWhatMatches) {
  Add("a");
  Add("b");
  Add("a");
  Take();
  line_.PutBack(std::move(batch_[0]));
  const auto taken =
      line_.TakeWhere([](const Sequence& sequence) { return sequence.client == "a"; });
  EXPECT_EQ(taken.size(), 2u);
  EXPECT_THAT(TakeAll(), ElementsAre(2));
}

}  // namespace
}  // namespace sluice
