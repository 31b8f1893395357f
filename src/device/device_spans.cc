#include "device/device_spans.h"

namespace sluice {

DeviceSpans::DeviceSpans(Timeline& timeline, CudaStream& stream)
    : timeline_(timeline), stream_(stream), track_(timeline.AddTrack(stream.device().name)) {}

void DeviceSpans::Begin(const SpanFacts& facts) {
  facts_ = facts;
  names_.clear();
  if (events_.empty()) events_.emplace_back();
  begin_ = Timeline::Clock::now();
  events_.front().Record(stream_);
}

void DeviceSpans::Mark(const char* name) {
  names_.push_back(name);
  if (events_.size() <= names_.size()) events_.emplace_back();
  events_[names_.size()].Record(stream_);
}

void DeviceSpans::End() {
  if (names_.empty()) return;
  timeline_.Add(track_, "step", begin_, TimeOf(names_.size()), facts_);
  for (size_t i = 0; i < names_.size(); ++i) {
    timeline_.Add(track_, names_[i], TimeOf(i), TimeOf(i + 1), facts_);
  }
}

Timeline::Clock::time_point DeviceSpans::TimeOf(size_t event) const {
  const std::chrono::duration<double> after(events_[event].SecondsSince(events_.front()));
  return begin_ + std::chrono::duration_cast<Timeline::Clock::duration>(after);
}

}  // namespace sluice
