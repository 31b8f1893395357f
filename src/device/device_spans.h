#pragma once

#include <vector>

#include "device/cuda_stream.h"
#include "device/timeline.h"

namespace sluice {

// What a stream's device does in each step, on a track of its own. Events are recorded between the
// parts of the step's queue; their times are the device's, laid on the host's clock at each Begin.
// One thread.
class DeviceSpans {
 public:
  // Both outlive it.
  DeviceSpans(Timeline& timeline, CudaStream& stream);

  // A step's events on their way: the caller's, because one may be queued behind another. Used
  // again for its events.
  class Step {
   private:
    friend class DeviceSpans;
    SpanFacts facts_;
    Timeline::Clock::time_point begin_;
    std::vector<CudaEvent> events_;   // the first is Begin's
    std::vector<const char*> names_;  // of the spans that end at events 1, 2, ...
  };

  // A step begins, behind those that began before. Where the stream has nothing to do, the device
  // gets there some microseconds later, by which all of the step's spans stand too early.
  void Begin(const SpanFacts& facts, Step& step);
  // What was queued since the last Mark, or Begin, is the span `name`, a literal. Not within what a
  // graph records.
  void Mark(const char* name, Step& step);
  // The stream has passed the last Mark: the step and its parts go to the timeline. In the order in
  // which steps began.
  void End(const Step& step);

 private:
  Timeline& timeline_;
  CudaStream& stream_;
  const int track_;
  Timeline::Clock::time_point last_end_;  // of a step, on the device
};

}  // namespace sluice
