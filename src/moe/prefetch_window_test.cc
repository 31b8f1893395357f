#include "moe/prefetch_window.h"

#include <gtest/gtest.h>

namespace sluice {
namespace {

TEST(PrefetchWindow, WhatLiesInTheWindowIsWorthBringing) {
  PrefetchWindow window(2);
  window.NoteTransfers(0.4, 4);
  for (int i = 0; i < 2; ++i) window.NoteWindow(1, 0.25);
  EXPECT_DOUBLE_EQ(window.Transfers(1), 2.5);
  EXPECT_TRUE(window.Worth(1, 0, 0.01));  // wholly inside: nothing is lost
  EXPECT_TRUE(window.Worth(1, 1, 0.01));
  EXPECT_TRUE(window.Worth(1, 2, 0.51));  // half inside: if it is likelier needed than not
  EXPECT_FALSE(window.Worth(1, 2, 0.49));
  EXPECT_FALSE(window.Worth(1, 3, 0.99));  // outside: nothing is gained
}

TEST(PrefetchWindow, OneLongPauseIsNotTakenForTheRule) {
  PrefetchWindow window(1);
  window.NoteTransfers(0.1, 1);
  EXPECT_DOUBLE_EQ(window.Transfers(0), 1.0);  // not measured
  for (const double seconds : {0.2, 0.2, 60.0, 0.3}) window.NoteWindow(0, seconds);
  EXPECT_NEAR(window.Transfers(0), 3.0, 1e-9);
  window.NoteWindow(0, 0.1);
  EXPECT_NEAR(window.Transfers(0), 1.0, 1e-9);
}

TEST(PrefetchWindow, ChancesCountForWhatTheyCameTo) {
  PrefetchWindow window(1);
  window.NoteTransfers(1.0, 1);
  for (int i = 0; i < 2; ++i) window.NoteWindow(0, 0.7);
  EXPECT_DOUBLE_EQ(window.Trust(), 1.0);
  EXPECT_TRUE(window.Worth(0, 0, 0.5));
  for (int i = 0; i < 40; ++i) window.NoteGuesses(0.5, 0);
  EXPECT_NEAR(window.Trust(), 1.0 / 21.0, 1e-2);
  EXPECT_FALSE(window.Worth(0, 0, 0.9));
  for (int i = 0; i < 2; ++i) window.NoteWindow(0, 1.0);
  EXPECT_TRUE(window.Worth(0, 0, 0.01));  // wholly inside: nothing is lost
  for (int i = 0; i < 2; ++i) window.NoteWindow(0, 0.7);
  for (int i = 0; i < 5000; ++i) window.NoteGuesses(0.0, 0);
  EXPECT_TRUE(window.Worth(0, 0, 0.5));  // tried again
  for (int i = 0; i < 40; ++i) window.NoteGuesses(0.5, 1);
  EXPECT_DOUBLE_EQ(window.Trust(), 1.0);  // never surer than the forecast
}

TEST(PrefetchWindow, ManyExpectedTokensAreNearlyCertainToNeedAnExpert) {
  EXPECT_DOUBLE_EQ(PrefetchWindow::ChanceOfUse(0.0), 0.0);
  EXPECT_NEAR(PrefetchWindow::ChanceOfUse(0.01), 0.01, 1e-4);
  EXPECT_GT(PrefetchWindow::ChanceOfUse(8.0), 0.999);
}

}  // namespace
}  // namespace sluice
