#include "device/timeline.h"

#include <fmt/format.h>
#include <spdlog/spdlog.h>

#include <algorithm>
#include <boost/json/serialize.hpp>
#include <boost/json/string.hpp>
#include <fstream>
#include <iterator>
#include <utility>

#include "base/error.h"

#if defined(SLUICE_CUDA)
#include <nvtx3/nvToolsExt.h>
#endif

namespace sluice {
namespace {

std::string Quoted(const std::string& text) {
  return boost::json::serialize(boost::json::string(text));
}

std::string FactsJson(const SpanFacts& facts) {
  std::string json;
  const auto add = [&](const char* key, int64_t value) {
    if (value < 0) return;
    fmt::format_to(std::back_inserter(json), "{}\"{}\":{}", json.empty() ? "" : ",", key, value);
  };
  add("step", facts.step);
  add("sequences", facts.sequences);
  add("tokens", facts.tokens);
  add("layer", facts.layer);
  add("expert", facts.expert);
  return json;
}

}  // namespace

Timeline::Timeline(std::filesystem::path file, size_t most_spans)
    : file_(std::move(file)), most_spans_(most_spans) {
  Write();
}

Timeline::~Timeline() {
  try {
    const std::lock_guard lock(mutex_);
    Write();
  } catch (const std::exception& error) {
    spdlog::error("the timeline is lost: {}", error.what());
  }
}

int Timeline::AddTrack(const std::string& name) {
  const std::lock_guard lock(mutex_);
  tracks_.push_back(name);
  threads_.emplace_back();
  return static_cast<int>(tracks_.size()) - 1;
}

void Timeline::NameThread(const std::string& name) {
  const std::lock_guard lock(mutex_);
  tracks_[TrackOfThread()] = name;
}

int Timeline::TrackOfThread() {
  const std::thread::id self = std::this_thread::get_id();
  const auto found = std::find(threads_.begin(), threads_.end(), self);
  if (found != threads_.end()) return static_cast<int>(found - threads_.begin());
  tracks_.push_back(fmt::format("thread {}", tracks_.size()));
  threads_.push_back(self);
  return static_cast<int>(tracks_.size()) - 1;
}

void Timeline::Add(int track, const char* name, Clock::time_point begin, Clock::time_point end,
                   const SpanFacts& facts) {
  const std::lock_guard lock(mutex_);
  if (spans_.size() == most_spans_) spans_.pop_front();
  spans_.push_back({name, track, begin, end, facts});
}

void Timeline::AddOfThread(const char* name, Clock::time_point begin, const SpanFacts& facts) {
  const Clock::time_point end = Clock::now();
  int track = 0;
  {
    const std::lock_guard lock(mutex_);
    track = TrackOfThread();
  }
  Add(track, name, begin, end, facts);
}

// The whole file is there or the one before.
void Timeline::Write() {
  const std::filesystem::path part = file_.string() + ".part";
  std::ofstream out(part, std::ios::binary | std::ios::trunc);
  out << "{\"traceEvents\":[";
  const char* comma = "\n";
  for (size_t track = 0; track < tracks_.size(); ++track) {
    out << fmt::format(
        "{}{{\"ph\":\"M\",\"name\":\"thread_name\",\"pid\":1,\"tid\":{},\"args\":{{\"name\":{}}}}}",
        std::exchange(comma, ",\n"), track, Quoted(tracks_[track]));
  }
  using Microseconds = std::chrono::duration<double, std::micro>;
  for (const Span& span : spans_) {
    out << fmt::format(
        "{}{{\"ph\":\"X\",\"name\":\"{}\",\"pid\":1,\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f},"
        "\"args\":{{{}}}}}",
        std::exchange(comma, ",\n"), span.name, span.track,
        Microseconds(span.begin - start_).count(), Microseconds(span.end - span.begin).count(),
        FactsJson(span.facts));
  }
  out << "\n]}\n";
  out.close();
  std::error_code failed;
  if (out) std::filesystem::rename(part, file_, failed);
  if (!out || failed) {
    throw Error(ErrorCode::kResourceExhausted,
                file_.string() + ": the timeline cannot be written there");
  }
}

#if defined(SLUICE_CUDA)
void Timeline::BeginRange(const char* name) {
  nvtxRangePushA(name);
}
void Timeline::EndRange() {
  nvtxRangePop();
}
#else
void Timeline::BeginRange(const char* /*name*/) {}
void Timeline::EndRange() {}
#endif

void TimelineSpan::Begin(const char* name, const SpanFacts& facts) {
  name_ = name;
  facts_ = facts;
  Timeline::BeginRange(name);
  begin_ = Timeline::Clock::now();
}

void TimelineSpan::End() {
  timeline_->AddOfThread(name_, begin_, facts_);
  Timeline::EndRange();
}

}  // namespace sluice
