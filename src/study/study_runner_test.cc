#include "study/study_runner.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

// A study of a shell script in the binary's place.
class StudyRunnerTest : public ::testing::Test {
 protected:
  StudyRunnerTest()
      : dir_(fs::path(testing::TempDir()) /
             ::testing::UnitTest::GetInstance()->current_test_info()->name()) {
    fs::remove_all(dir_);
    fs::create_directories(dir_);
    Program("echo \"{\\\"speed\\\": $4$6, \\\"list\\\": [{\\\"n\\\": 5}]}\"");
  }
  ~StudyRunnerTest() override { fs::remove_all(dir_); }

  void Program(const std::string& script) {
    std::ofstream(dir_ / "program") << "#!/bin/sh\necho run >> " << (dir_ / "made").string() << "\n"
                                    << script << "\n";
    fs::permissions(dir_ / "program", fs::perms::owner_all);
  }
  int Made() {
    std::ifstream file(dir_ / "made");
    int lines = 0;
    for (std::string line; std::getline(file, line);) ++lines;
    return lines;
  }
  std::vector<StudyRecord> Run(const StudyPlan& plan, StudyRunOptions options = {}) {
    options.dir = dir_ / "results";
    options.program = (dir_ / "program").string();
    return RunStudy(plan, options, [](const StudyRecord&) {});
  }
  static StudyPlan Plan(const std::string& more = "") {
    return ParseStudy(
        "name: s\ncommand: bench latency\nfactors: {a: [1, 2], b: [3, 4]}\n"
        "responses: [speed, list.0.n]\nrepeats: 2\n" +
            more,
        "s.yaml");
  }

  fs::path dir_;
};

TEST_F(StudyRunnerTest, RecordsEveryRun) {
  const StudyPlan plan = Plan();
  const std::vector<StudyRecord> records = Run(plan);
  ASSERT_EQ(records.size(), 8u);
  for (const StudyRecord& record : records) {
    EXPECT_EQ(record.status, "ok") << record.error;
    const std::vector<int>& levels = plan.design.points[record.planned.point];
    EXPECT_EQ(record.responses[0], 10 * (1 + levels[0]) + 3 + levels[1]);
    EXPECT_EQ(record.responses[1], 5);
  }
  for (const PointSummary& point : Summarize(plan, records)) {
    EXPECT_EQ(point.runs, 2);
    EXPECT_EQ(point.deviation[0], 0.0);
  }
  std::ifstream csv(dir_ / "results/runs.csv");
  std::string head;
  std::getline(csv, head);
  EXPECT_EQ(head, "run,point,repeat,a,b,status,seconds,speed,list.0.n");
}

TEST_F(StudyRunnerTest, GoesOnWhereItWasStopped) {
  EXPECT_EQ(Run(Plan(), {.max_runs = 3}).size(), 3u);
  EXPECT_EQ(Made(), 3);
  EXPECT_EQ(Run(Plan()).size(), 8u);
  EXPECT_EQ(Made(), 8);
  EXPECT_EQ(Run(Plan()).size(), 8u);
  EXPECT_EQ(Made(), 8);
  EXPECT_THROW(Run(Plan("seed: 4\n")), Error);
}

TEST_F(StudyRunnerTest, AFailedRunIsRecordedAndTheStudyGoesOn) {
  Program(
      "[ $4 = 1 ] && { echo broken >&2; exit 7; }; echo '{\"speed\": 1, \"list\": [{\"n\": 2}]}'");
  std::vector<StudyRecord> records = Run(Plan());
  ASSERT_EQ(records.size(), 8u);
  int failed = 0;
  for (const StudyRecord& record : records) {
    if (record.status == "ok") continue;
    EXPECT_THAT(record.error, HasSubstr("exit code 7: broken"));
    ++failed;
  }
  EXPECT_EQ(failed, 4);
  Run(Plan());
  EXPECT_EQ(Made(), 8);
  Program("echo '{\"speed\": 1, \"list\": [{\"n\": 2}]}'");
  records = Run(Plan(), {.retry_failed = true});
  EXPECT_EQ(Made(), 12);
  for (const StudyRecord& record : records) EXPECT_EQ(record.status, "ok");
}

TEST_F(StudyRunnerTest, SaysWhyARunIsNoResult) {
  Program("echo nothing");
  EXPECT_THAT(Run(Plan(), {.max_runs = 1})[0].error, HasSubstr("not JSON"));
  fs::remove_all(dir_ / "results");
  Program("echo '{\"speed\": \"fast\"}'");
  EXPECT_THAT(Run(Plan(), {.max_runs = 1})[0].error, HasSubstr("no number at speed"));
  fs::remove_all(dir_ / "results");
  Program("exec sleep 60");
  EXPECT_EQ(Run(Plan("timeout-s: 1\n"), {.max_runs = 1})[0].status, "timed out");
}

TEST_F(StudyRunnerTest, RefusesADamagedRecord) {
  Run(Plan());
  std::ofstream(dir_ / "results/runs/00002.json") << "{\"status\": ";
  EXPECT_THROW(Run(Plan()), Error);
  std::ofstream(dir_ / "results/runs/00002.json") << "{\"status\": \"ok\"}";
  EXPECT_THROW(Run(Plan()), Error);
  fs::remove(dir_ / "results/runs/00002.json");
  EXPECT_EQ(Run(Plan()).size(), 8u);
  EXPECT_EQ(Made(), 9);
}

TEST(FindResponse, FollowsPaths) {
  const boost::json::value result = boost::json::parse(
      R"({"a": {"b": 2}, "l": [{"n": "x", "v": 1}, {"n": "y", "v": 2}, 7], "t": "3", "k": 4})");
  EXPECT_EQ(FindResponse(result, "k"), 4.0);
  EXPECT_EQ(FindResponse(result, "a.b"), 2.0);
  EXPECT_EQ(FindResponse(result, "l.2"), 7.0);
  EXPECT_EQ(FindResponse(result, "l.n=y.v"), 2.0);
  for (const char* path : {"", ".", "z", "a", "a.z", "a.b.c", "l.3", "l.x", "l.n=z.v", "t", "l."}) {
    EXPECT_FALSE(FindResponse(result, path)) << path;
  }
}

}  // namespace
}  // namespace sluice
