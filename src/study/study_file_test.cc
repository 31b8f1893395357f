#include "study/study_file.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <iterator>

#include "base/error.h"

namespace sluice {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr const char* kStudy = R"(
name: a-study
command: bench latency
fixed: {model: some/model, output-len: 8}
factors:
  threads: [1, 2]
  workload:
    short: {input-len: 16, batch-size: 4}
    long: {input-len: 64, batch-size: 1}
  dtype: [float32, bfloat16]
responses: [tpot_ms]
repeats: 2
seed: 5
)";

std::string With(const std::string& what, const std::string& by) {
  std::string text = kStudy;
  const size_t at = text.find(what);
  EXPECT_NE(at, std::string::npos) << what;
  return text.replace(at, what.size(), by);
}

std::string MessageOf(const std::string& text) {
  try {
    ParseStudy(text, "s.yaml");
  } catch (const Error& error) {
    EXPECT_EQ(error.code(), ErrorCode::kInvalidArgument);
    EXPECT_THAT(error.what(), HasSubstr("s.yaml: "));
    return error.what();
  }
  return "";
}

TEST(StudyFile, SaysWhatIsRun) {
  const StudyPlan plan = ParseStudy(kStudy, "s.yaml");
  EXPECT_EQ(plan.name, "a-study");
  EXPECT_EQ(plan.repeats, 2);
  EXPECT_EQ(plan.seed, 5u);
  ASSERT_EQ(plan.design.points.size(), 8u);
  EXPECT_EQ(plan.design.factors[0].levels[1].value.to_number<int>(), 2);
  EXPECT_EQ(plan.design.factors[1].levels[0].value.as_string(), "short");
  EXPECT_THAT(
      RunArguments(plan, 0),
      ElementsAre("bench", "latency", "some/model", "--output-len", "8", "--threads", "1",
                  "--input-len", "16", "--batch-size", "4", "--dtype", "float32", "--json"));
}

TEST(StudyFile, TakesAFraction) {
  const StudyPlan plan =
      ParseStudy(With("repeats: 2", "generators: {dtype: [threads, workload]}"), "s.yaml");
  EXPECT_EQ(plan.design.points.size(), 4u);
  EXPECT_EQ(plan.design.resolution, 3);
  EXPECT_EQ(ToJson(plan).at("resolution").to_number<int>(), 3);
}

TEST(StudyFile, RefusesWhatIsNotOne) {
  EXPECT_THAT(MessageOf("- 1"), HasSubstr("should be a map with the keys name"));
  EXPECT_THAT(MessageOf("name: [x"), HasSubstr("YAML"));
  EXPECT_THAT(MessageOf(With("repeats", "repeat")), HasSubstr("key 'repeat' is not known"));
  EXPECT_THAT(MessageOf(With("name: a-study", "")), HasSubstr("has no 'name'"));
  EXPECT_THAT(MessageOf(With("a-study", "../up")), HasSubstr("'name' should be a word"));
  EXPECT_THAT(MessageOf(With("bench latency", "serve")), HasSubstr("prints JSON"));
  EXPECT_THAT(MessageOf(With("bench latency", "study run x.yaml")), HasSubstr("prints JSON"));
  EXPECT_THAT(MessageOf(With("repeats: 2", "repeats: 0")), HasSubstr("'repeats' should be"));
  EXPECT_THAT(MessageOf(With("[tpot_ms]", "[]")), HasSubstr("'responses' should be a list"));
  EXPECT_THAT(MessageOf(With("[1, 2]", "[1]")), HasSubstr("factor threads has 1 level"));
  EXPECT_THAT(MessageOf(With("[1, 2]", "3")), HasSubstr("a list of values, or a map"));
  EXPECT_THAT(MessageOf(With("output-len: 8", "threads: 8")),
              HasSubstr("--threads is given by factor threads"));
  EXPECT_THAT(MessageOf(With("repeats: 2", "generators: {dtype: [threads]}")),
              HasSubstr("same factor over again"));
}

TEST(StudyFile, ThoseOfTheRepositoryAreSound) {
  int files = 0;
  const std::filesystem::path dir = std::string(SLUICE_SOURCE_DIR) + "/configs/studies";
  for (const auto& entry : std::filesystem::directory_iterator(dir)) {
    std::ifstream file(entry.path());
    const std::string text((std::istreambuf_iterator<char>(file)), {});
    const StudyPlan plan = ParseStudy(text, entry.path().filename().string());
    EXPECT_EQ(entry.path().stem().string(), plan.name);
    EXPECT_FALSE(plan.description.empty()) << plan.name;
    ++files;
  }
  EXPECT_GE(files, 8);
}

}  // namespace
}  // namespace sluice
