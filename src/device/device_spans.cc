#include "device/device_spans.h"

#include <algorithm>
#include <chrono>

namespace sluice {

DeviceSpans::DeviceSpans(Timeline& timeline, CudaStream& stream)
    : timeline_(timeline), stream_(stream), track_(timeline.AddTrack(stream.device().name)) {}

void DeviceSpans::Begin(const SpanFacts& facts, Step& step) {
  step.facts_ = facts;
  step.names_.clear();
  if (step.events_.empty()) step.events_.emplace_back();
  step.begin_ = Timeline::Clock::now();
  step.events_.front().Record(stream_);
}

void DeviceSpans::Mark(const char* name, Step& step) {
  step.names_.push_back(name);
  if (step.events_.size() <= step.names_.size()) step.events_.emplace_back();
  step.events_[step.names_.size()].Record(stream_);
}

void DeviceSpans::End(const Step& step) {
  if (step.names_.empty()) return;
  // One that was queued behind another began when that one was done.
  const Timeline::Clock::time_point begin = std::max(step.begin_, last_end_);
  const auto time_of = [&](size_t event) {
    const std::chrono::duration<double> after(
        step.events_[event].SecondsSince(step.events_.front()));
    return begin + std::chrono::duration_cast<Timeline::Clock::duration>(after);
  };
  last_end_ = time_of(step.names_.size());
  timeline_.Add(track_, "step", begin, last_end_, step.facts_);
  for (size_t i = 0; i < step.names_.size(); ++i) {
    timeline_.Add(track_, step.names_[i], time_of(i), time_of(i + 1), step.facts_);
  }
}

}  // namespace sluice
