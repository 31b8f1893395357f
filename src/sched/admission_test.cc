#include "sched/admission.h"

#include <gtest/gtest.h>

#include "base/error.h"

namespace sluice {
namespace {

using Places = std::vector<Admission::Place>;

// The places of a request; none where it is refused.
Places Enter(Admission& admission, int sequences, int prompt_tokens) {
  try {
    return admission.Enter(sequences, prompt_tokens);
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kResourceExhausted);
    return {};
  }
}

bool HasRoom(const Admission& admission) {
  return !admission.Full().has_value();
}

TEST(Admission, BoundsTheSequencesThatWait) {
  Admission admission({.max_requests = 3, .max_tokens = 0});
  Places first = Enter(admission, 2, 1000);
  EXPECT_EQ(first.size(), 2u);
  EXPECT_TRUE(HasRoom(admission));
  const Places second = Enter(admission, 2, 1000);  // the place that is left is for a whole request
  EXPECT_EQ(second.size(), 2u);
  EXPECT_FALSE(HasRoom(admission));
  EXPECT_TRUE(Enter(admission, 1, 1).empty());
  EXPECT_EQ(admission.waiting_requests(), 4);
  first[0].OnTakenUp();
  first[0].OnTakenUp();  // again, in vain
  EXPECT_TRUE(Enter(admission, 1, 1).empty());
  first[1].OnTakenUp();
  EXPECT_EQ(Enter(admission, 1, 1).size(), 1u);
}

TEST(Admission, BoundsTheTokensOfPrompts) {
  Admission admission({.max_requests = 0, .max_tokens = 100});
  Places first = Enter(admission, 2, 40);
  EXPECT_TRUE(HasRoom(admission));
  EXPECT_TRUE(Enter(admission, 1, 21).empty());
  const Places second = Enter(admission, 1, 20);
  EXPECT_EQ(second.size(), 1u);
  EXPECT_FALSE(HasRoom(admission));
  first[0].OnTakenUp();
  EXPECT_FALSE(HasRoom(admission)) << "a prompt counts until it is computed";
  first[0].OnPrefilled();
  EXPECT_EQ(admission.waiting_tokens(), 60);
  EXPECT_EQ(Enter(admission, 1, 1).size(), 1u);
}

TEST(Admission, APromptLongerThanTheBoundComesInAlone) {
  Admission admission({.max_requests = 0, .max_tokens = 100});
  Places first = Enter(admission, 1, 500);
  EXPECT_EQ(first.size(), 1u);
  EXPECT_TRUE(Enter(admission, 1, 500).empty());
  first[0].OnPrefilled();
  EXPECT_EQ(Enter(admission, 1, 500).size(), 1u);
}

TEST(Admission, WhatGoesGivesItsPlaceBack) {
  Admission admission({.max_requests = 2, .max_tokens = 100});
  {
    Places places = Enter(admission, 2, 10);
    places[0].OnTakenUp();
    const Admission::Place moved = std::move(places[0]);
    EXPECT_EQ(admission.waiting_requests(), 1);
    EXPECT_EQ(admission.waiting_tokens(), 20);
  }
  EXPECT_EQ(admission.waiting_requests(), 0);
  EXPECT_EQ(admission.waiting_tokens(), 0);
}

TEST(Admission, ZeroIsNoBound) {
  Admission admission({});
  Places all;
  for (int i = 0; i < 10'000; ++i) {
    Places places = Enter(admission, 1, 100'000);
    ASSERT_EQ(places.size(), 1u);
    all.push_back(std::move(places[0]));
  }
}

}  // namespace
}  // namespace sluice
