#include "device/device_spans.h"

#include <gtest/gtest.h>

#include <boost/json/parse.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>

#include "device/buffer.h"

namespace sluice {
namespace {

// By name, of the spans in `file`, which goes.
std::map<std::string, boost::json::value> LastSpans(const std::filesystem::path& file) {
  std::ifstream in(file);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  std::filesystem::remove(file);
  std::map<std::string, boost::json::value> last;
  const boost::json::value parsed = boost::json::parse(text);
  for (const auto& event : parsed.at("traceEvents").as_array()) {
    if (event.at("ph").as_string() == "X") last[std::string(event.at("name").as_string())] = event;
  }
  return last;
}

double Number(const boost::json::value& event, const char* key) {
  return event.at(key).to_number<double>();
}

TEST(DeviceSpansCuda, PartsOfAStepFollowEachOtherWithinIt) {
  if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
  constexpr size_t kBytes = size_t{1} << 30;
  const std::filesystem::path file = testing::TempDir() + "/device_spans_test.json";
  {
    Timeline timeline(file);
    CudaStream stream;
    const Buffer memory(kBytes, MemoryKind::kCuda);
    DeviceSpans spans(timeline, stream);
    DeviceSpans::Step device;
    for (int step = 0; step < 3; ++step) {
      const TimelineSpan host(&timeline, "host", {.step = step});
      spans.Begin({.step = step}, device);
      stream.Fill(memory.data(), 1, kBytes);
      spans.Mark("long", device);
      stream.Fill(memory.data(), 1, kBytes / 64);
      spans.Mark("short", device);
      stream.Synchronize();
      spans.End(device);
    }
  }
  const std::map<std::string, boost::json::value> last = LastSpans(file);
  const boost::json::value& step = last.at("step");
  EXPECT_EQ(step.at("args").at("step").as_int64(), 2);
  EXPECT_GT(Number(last.at("long"), "dur"), Number(last.at("short"), "dur"));
  EXPECT_NEAR(Number(last.at("long"), "ts"), Number(step, "ts"), 0.002);
  EXPECT_NEAR(Number(last.at("long"), "dur") + Number(last.at("short"), "dur"), Number(step, "dur"),
              0.01);
  // A step lies within what the host did, on the host's clock.
  const boost::json::value& host = last.at("host");
  EXPECT_GE(Number(step, "ts"), Number(host, "ts"));
  EXPECT_LE(Number(step, "ts") + Number(step, "dur"),
            Number(host, "ts") + Number(host, "dur") + 0.01);
}

TEST(DeviceSpansCuda, AStepBehindAnotherBeginsWhenThatEnds) {
  if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
  constexpr size_t kBytes = size_t{1} << 30;
  const std::filesystem::path file = testing::TempDir() + "/device_spans_behind_test.json";
  {
    Timeline timeline(file);
    CudaStream stream;
    const Buffer memory(kBytes, MemoryKind::kCuda);
    DeviceSpans spans(timeline, stream);
    DeviceSpans::Step steps[2];
    for (int step = 0; step < 2; ++step) {
      spans.Begin({.step = step}, steps[step]);
      stream.Fill(memory.data(), 1, kBytes);
      spans.Mark(step == 0 ? "first" : "second", steps[step]);
    }
    stream.Synchronize();
    for (const DeviceSpans::Step& step : steps) spans.End(step);
  }
  const std::map<std::string, boost::json::value> last = LastSpans(file);
  const boost::json::value& first = last.at("first");
  EXPECT_GT(Number(first, "dur"), 10);
  EXPECT_NEAR(Number(last.at("second"), "ts"), Number(first, "ts") + Number(first, "dur"), 0.002);
}

}  // namespace
}  // namespace sluice
