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

TEST(DeviceSpansCuda, PartsOfAStepFollowEachOtherWithinIt) {
  if (CudaDevices().empty()) GTEST_SKIP() << "no CUDA device";
  constexpr size_t kBytes = size_t{1} << 30;
  const std::filesystem::path file = testing::TempDir() + "/device_spans_test.json";
  {
    Timeline timeline(file);
    CudaStream stream;
    const Buffer memory(kBytes, MemoryKind::kCuda);
    DeviceSpans spans(timeline, stream);
    for (int step = 0; step < 3; ++step) {
      const TimelineSpan host(&timeline, "host", {.step = step});
      spans.Begin({.step = step});
      stream.Fill(memory.data(), 1, kBytes);
      spans.Mark("long");
      stream.Fill(memory.data(), 1, kBytes / 64);
      spans.Mark("short");
      stream.Synchronize();
      spans.End();
    }
  }
  std::ifstream in(file);
  const std::string text(std::istreambuf_iterator<char>(in), {});
  std::filesystem::remove(file);
  const auto number = [](const boost::json::value& event, const char* key) {
    return event.at(key).to_number<double>();
  };
  std::map<std::string, boost::json::value> last;
  const boost::json::value parsed = boost::json::parse(text);
  for (const auto& event : parsed.at("traceEvents").as_array()) {
    if (event.at("ph").as_string() == "X") last[std::string(event.at("name").as_string())] = event;
  }
  const boost::json::value& step = last.at("step");
  EXPECT_EQ(step.at("args").at("step").as_int64(), 2);
  EXPECT_GT(number(last.at("long"), "dur"), number(last.at("short"), "dur"));
  EXPECT_NEAR(number(last.at("long"), "ts"), number(step, "ts"), 0.002);
  EXPECT_NEAR(number(last.at("long"), "dur") + number(last.at("short"), "dur"), number(step, "dur"),
              0.01);
  // A step lies within what the host did, on the host's clock.
  const boost::json::value& host = last.at("host");
  EXPECT_GE(number(step, "ts"), number(host, "ts"));
  EXPECT_LE(number(step, "ts") + number(step, "dur"),
            number(host, "ts") + number(host, "dur") + 0.01);
}

}  // namespace
}  // namespace sluice
