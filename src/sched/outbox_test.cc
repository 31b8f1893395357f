#include "sched/outbox.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <functional>
#include <stdexcept>

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;

struct KeptFunctions : Executor {
  void Post(std::function<void()> function) override { functions.push_back(std::move(function)); }
  void Run() {
    for (const auto& function : std::exchange(functions, {})) function();
  }
  std::vector<std::function<void()>> functions;
};

class OutboxTest : public ::testing::Test {
 protected:
  OutputReceiver Receiver(std::shared_ptr<Executor> executor) {
    const auto take = [this](const Output& output) { taken_.push_back(output.index); };
    return {std::make_shared<const OutputCallback>(take), std::move(executor)};
  }

  Outbox outbox_;
  std::vector<int> taken_;
};

TEST_F(OutboxTest, EachThreadGetsItsReportsByOneFunctionInTheirOrder) {
  const auto first = std::make_shared<KeptFunctions>();
  const auto second = std::make_shared<KeptFunctions>();
  for (int i = 0; i < 6; ++i) outbox_.Put(Receiver(i % 2 == 0 ? first : second), {.index = i});
  EXPECT_THAT(first->functions, IsEmpty());
  outbox_.Flush();
  EXPECT_EQ(first->functions.size(), 1);
  EXPECT_EQ(second->functions.size(), 1);
  EXPECT_THAT(taken_, IsEmpty());
  second->Run();
  first->Run();
  EXPECT_THAT(taken_, ElementsAre(1, 3, 5, 0, 2, 4));
}

TEST_F(OutboxTest, NothingIsHandedOverTwice) {
  const auto thread = std::make_shared<KeptFunctions>();
  outbox_.Put(Receiver(thread), {.index = 1});
  outbox_.Flush();
  outbox_.Flush();
  outbox_.Put(Receiver(thread), {.index = 2});
  outbox_.Flush();
  EXPECT_EQ(thread->functions.size(), 2);
  thread->Run();
  EXPECT_THAT(taken_, ElementsAre(1, 2));
}

TEST_F(OutboxTest, WhatGoesToNoOtherThreadIsHandedOverAtOnce) {
  outbox_.Put(Receiver(nullptr), {.index = 3});
  EXPECT_THAT(taken_, ElementsAre(3));
  const auto fails = [](const Output&) { throw std::runtime_error("no"); };
  EXPECT_THROW(outbox_.Put({std::make_shared<const OutputCallback>(fails), nullptr}, {}),
               std::runtime_error);
}

}  // namespace
}  // namespace sluice
