#include "trace/trace_csv.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <fstream>
#include <iterator>

#include "base/error.h"
#include "trace/router_trace.h"
#include "trace/synthesize.h"

namespace sluice {
namespace {

namespace fs = std::filesystem;
using ::testing::HasSubstr;

std::string ReadAll(const fs::path& path) {
  std::ifstream file(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(file), {}};
}

class TraceCsv : public ::testing::Test {
 protected:
  TraceCsv() : dir_(fs::temp_directory_path() / ("sluice_trace_csv_" + std::to_string(getpid()))) {
    fs::create_directories(dir_);
  }
  ~TraceCsv() override { fs::remove_all(dir_); }

  // What CsvToTrace says of this text.
  std::string MessageOf(const std::string& text) {
    std::ofstream(dir_ / "bad.csv", std::ios::binary) << text;
    fs::remove(dir_ / "bad.trace");
    try {
      CsvToTrace(dir_ / "bad.csv", dir_ / "bad.trace");
    } catch (const Error& error) {
      EXPECT_EQ(error.code(), ErrorCode::kDataLoss);
      EXPECT_FALSE(fs::exists(dir_ / "bad.trace"));
      return error.what();
    }
    return "";
  }

  fs::path dir_;
};

TEST_F(TraceCsv, BothWaysLoseNothing) {
  RouterTraceHeader header{
      .model = "a, \"b\"", .num_layers = 3, .num_experts = 300, .top_k = 2, .seed = ~uint64_t{0}};
  {
    RouterTraceWriter writer(dir_ / "a.trace", header);
    writer.Append(std::vector<RouterRecord>{{.step = ~uint64_t{0},
                                             .sequence = 7,
                                             .position = 2147483647,
                                             .layer = 2,
                                             .experts = {299, 0},
                                             .weights = {0.1f, 1e-38f}},
                                            {.experts = {1, 2}, .weights = {1.0f / 3, -0.0f}}});
    writer.Close();
  }
  TraceToCsv(dir_ / "a.trace", dir_ / "a.csv");
  EXPECT_THAT(ReadAll(dir_ / "a.csv"),
              HasSubstr("\nstep,sequence,position,layer,expert_0,expert_1,weight_0,weight_1\n"
                        "18446744073709551615,7,2147483647,2,299,0,0.1,1e-38\n"
                        "0,0,0,0,1,2,0.33333334,-0\n"));
  CsvToTrace(dir_ / "a.csv", dir_ / "b.trace");
  EXPECT_EQ(ReadAll(dir_ / "a.trace"), ReadAll(dir_ / "b.trace"));
}

TEST_F(TraceCsv, LongTracesToo) {
  SynthesizeTrace({.kind = SyntheticKind::kZipf, .parameter = 1.0, .seed = 3},
                  {.num_layers = 5, .num_experts = 60, .top_k = 4, .sequences = 30, .steps = 70},
                  dir_ / "a.trace");
  TraceToCsv(dir_ / "a.trace", dir_ / "a.csv");
  CsvToTrace(dir_ / "a.csv", dir_ / "b.trace");
  EXPECT_EQ(ReadAll(dir_ / "a.trace"), ReadAll(dir_ / "b.trace"));
  EXPECT_EQ(RouterTraceReader(dir_ / "b.trace").num_records(), 5u * 30 * 70);
}

TEST_F(TraceCsv, SaysWhichLineIsWrong) {
  const std::string header =
      R"(# {"model":"m","layers":2,"experts":8,"top_k":2,"seed":0,"source":"model"})"
      "\n";
  const std::string names = "step,sequence,position,layer,expert_0,expert_1,weight_0,weight_1\n";
  EXPECT_EQ(MessageOf(header + names + "1,2,3,1,5,6,0.5,0.5\r\n"), "");
  EXPECT_THAT(MessageOf(""), HasSubstr("is not the header"));
  EXPECT_THAT(MessageOf("step\n"), HasSubstr("line 1 is not the header"));
  EXPECT_THAT(MessageOf("# {\"model\": 1}\n"), HasSubstr("line 1 has no usable header"));
  EXPECT_THAT(MessageOf(header), HasSubstr("not the names of the columns"));
  EXPECT_THAT(MessageOf(header + "a,b\n"), HasSubstr("line 2 is not the names"));
  EXPECT_THAT(MessageOf(header + names + "1,2,3,1,5,6,0.5,0.5\n1,2,3\n"),
              HasSubstr("line 4 has \"\" where a layer"));
  EXPECT_THAT(MessageOf(header + names + "1,2,3,1,5,8,0.5,0.5\n"), HasSubstr("expert 8 of 8"));
  EXPECT_THAT(MessageOf(header + names + "1,2,3,2,5,6,0.5,0.5\n"), HasSubstr("layer 2"));
  EXPECT_THAT(MessageOf(header + names + "1,2,-3,1,5,6,0.5,0.5\n"), HasSubstr("position -3"));
  EXPECT_THAT(MessageOf(header + names + "-1,2,3,1,5,6,0.5,0.5\n"), HasSubstr("\"-1\" where a st"));
  EXPECT_THAT(MessageOf(header + names + "1,2,3,1,5,6,0.5,x\n"), HasSubstr("where a weight"));
  EXPECT_THAT(MessageOf(header + names + "1,2,3,1,5,6,0.5,0.5,9\n"), HasSubstr("more fields"));
  EXPECT_THROW(CsvToTrace(dir_ / "absent.csv", dir_ / "x"), Error);
  EXPECT_THROW(CsvToTrace(dir_, dir_ / "x"), Error);
}

TEST_F(TraceCsv, LeavesNothingOfADamagedTrace) {
  RouterTraceHeader header{.num_layers = 1, .num_experts = 300, .top_k = 1};
  {
    RouterTraceWriter writer(dir_ / "a.trace", header);
    writer.Append(std::vector<RouterRecord>{{.experts = {299}, .weights = {1.0f}}});
    writer.Close();
  }
  std::string bytes = ReadAll(dir_ / "a.trace");
  bytes[bytes.size() - 5] = '\x7f';  // the expert's high byte
  std::ofstream(dir_ / "a.trace", std::ios::binary) << bytes;
  EXPECT_THROW(TraceToCsv(dir_ / "a.trace", dir_ / "a.csv"), Error);
  EXPECT_THROW(TraceToCsv(dir_ / "a.trace", dir_ / "absent" / "a.csv"), Error);
  EXPECT_EQ(std::distance(fs::directory_iterator(dir_), fs::directory_iterator()), 1);
}

}  // namespace
}  // namespace sluice
