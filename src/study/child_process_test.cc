#include "study/child_process.h"

#include <gtest/gtest.h>

#include <csignal>

namespace sluice {
namespace {

ChildResult Shell(const std::string& script, double timeout_s = 20) {
  return RunChild("/bin/sh", {"-c", script}, timeout_s);
}

TEST(ChildProcess, GivesWhatItSaidAndHowItEnded) {
  const ChildResult result = Shell("echo out; echo err >&2; cat; exit 3");
  EXPECT_EQ(result.exit_code, 3);
  EXPECT_EQ(result.output, "out\n");
  EXPECT_EQ(result.diagnostics, "err\n");
  EXPECT_FALSE(result.timed_out);
  EXPECT_EQ(Shell("kill -9 $$").signal, SIGKILL);
}

TEST(ChildProcess, ReadsMoreThanAPipeHolds) {
  const ChildResult result = Shell("head -c 3000000 /dev/zero; head -c 3000000 /dev/zero >&2");
  EXPECT_EQ(result.exit_code, 0);
  EXPECT_EQ(result.output.size(), 3000000u);
  EXPECT_LE(result.diagnostics.size(), 64u << 10);
  EXPECT_GE(result.diagnostics.size(), 16u << 10);
}

TEST(ChildProcess, IsKilledPastItsTimeAndItsBound) {
  const ChildResult late = Shell("exec sleep 60", 0.2);
  EXPECT_TRUE(late.timed_out);
  EXPECT_EQ(late.signal, SIGKILL);
  EXPECT_LT(late.seconds, 30);
  const ChildResult loud = Shell("exec cat /dev/zero");
  EXPECT_TRUE(loud.too_long);
}

TEST(ChildProcess, AProgramThatIsNotThereFails) {
  EXPECT_EQ(RunChild("/absent/program", {}, 5).exit_code, 127);
}

}  // namespace
}  // namespace sluice
