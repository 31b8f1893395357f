#include "device/timeline.h"

#include <gtest/gtest.h>

#include <barrier>
#include <boost/json/parse.hpp>
#include <boost/json/serialize.hpp>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <string>
#include <thread>
#include <vector>

#include "base/error.h"

namespace sluice {
namespace {

class TimelineTest : public ::testing::Test {
 protected:
  TimelineTest() : file_(testing::TempDir() + "/timeline_test.json") {}
  ~TimelineTest() override { std::filesystem::remove(file_); }

  // The file's events of a phase.
  boost::json::array Events(const std::string& phase) const {
    std::ifstream in(file_);
    const std::string text(std::istreambuf_iterator<char>(in), {});
    boost::json::array events;
    const boost::json::value parsed = boost::json::parse(text);
    for (const auto& event : parsed.at("traceEvents").as_array()) {
      if (event.at("ph").as_string() == phase) events.push_back(event);
    }
    return events;
  }
  static double Begin(const boost::json::value& span) { return span.at("ts").to_number<double>(); }
  static double End(const boost::json::value& span) {
    return Begin(span) + span.at("dur").to_number<double>();
  }

  const std::filesystem::path file_;
};

TEST_F(TimelineTest, SpansLieInEachOtherWithTheirFacts) {
  {
    Timeline timeline(file_);
    timeline.NameThread("the \"main\" one");
    TimelineSpan step(&timeline, "step", {.step = 7});
    { const TimelineSpan inner(&timeline, "prepare", {.step = 7}); }
    { const TimelineSpan inner(&timeline, "wait"); }
    step.Describe({.step = 7, .sequences = 2, .tokens = 30});
  }
  const boost::json::array spans = Events("X");
  ASSERT_EQ(spans.size(), 3u);
  const boost::json::value& step = spans[2];  // it ended last
  EXPECT_EQ(step.at("name").as_string(), "step");
  EXPECT_EQ(serialize(step.at("args")), R"({"step":7,"sequences":2,"tokens":30})");
  EXPECT_EQ(serialize(spans[0].at("args")), R"({"step":7})");
  EXPECT_EQ(serialize(spans[1].at("args")), "{}");
  EXPECT_LE(Begin(step), Begin(spans[0]));
  EXPECT_LE(End(spans[0]), Begin(spans[1]) + 0.002);
  EXPECT_LE(End(spans[1]), End(step) + 0.002);
  const boost::json::array names = Events("M");
  ASSERT_EQ(names.size(), 1u);
  EXPECT_EQ(names[0].at("args").at("name").as_string(), "the \"main\" one");
  EXPECT_EQ(names[0].at("tid").as_int64(), step.at("tid").as_int64());
}

TEST_F(TimelineTest, EveryThreadHasATrack) {
  constexpr int kSpans = 100;
  {
    Timeline timeline(file_);
    std::barrier together(3);  // or one thread gets the identity of another that has ended
    std::vector<std::thread> threads;
    for (const char* name : {"a", "b", "c"}) {
      threads.emplace_back([&, name] {
        together.arrive_and_wait();
        timeline.NameThread(name);
        for (int i = 0; i < kSpans; ++i) const TimelineSpan span(&timeline, name);
      });
    }
    for (std::thread& thread : threads) thread.join();
    const auto now = Timeline::Clock::now();
    timeline.Add(timeline.AddTrack("GPU"), "layers", now, now, {});
  }
  std::map<int64_t, std::string> tracks;
  for (const auto& name : Events("M")) {
    tracks[name.at("tid").as_int64()] = name.at("args").at("name").as_string();
  }
  std::map<std::string, int> counts;
  for (const auto& span : Events("X")) {
    const std::string track = tracks.at(span.at("tid").as_int64());
    EXPECT_EQ(span.at("name").as_string(), track == "GPU" ? "layers" : track);
    ++counts[track];
  }
  EXPECT_EQ(counts,
            (std::map<std::string, int>{{"a", kSpans}, {"b", kSpans}, {"c", kSpans}, {"GPU", 1}}));
}

TEST_F(TimelineTest, TheLastSpansAreKept) {
  {
    Timeline timeline(file_, 3);
    for (int step = 0; step < 10; ++step) {
      const TimelineSpan span(&timeline, "step", {.step = step});
    }
  }
  const boost::json::array spans = Events("X");
  ASSERT_EQ(spans.size(), 3u);
  EXPECT_EQ(spans[0].at("args").at("step").as_int64(), 7);
}

TEST_F(TimelineTest, TheFileIsWholeBeforeTheEnd) {
  Timeline timeline(file_);
  const TimelineSpan span(&timeline, "step");
  EXPECT_TRUE(Events("X").empty());
  EXPECT_FALSE(std::filesystem::exists(file_.string() + ".part"));
}

TEST(Timeline, WhatCannotBeWrittenIsSaidAtTheStart) {
  EXPECT_THROW(Timeline("/nowhere/timeline.json"), Error);
}

TEST(TimelineSpan, IsNothingWithoutATimeline) {
  TimelineSpan span(nullptr, "step");
  span.Describe({.step = 1});
}

}  // namespace
}  // namespace sluice
