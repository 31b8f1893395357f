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

  // A step begins; nothing is queued on the stream. The device gets there some microseconds later,
  // by which all of the step's spans stand too early.
  void Begin(const SpanFacts& facts);
  // What was queued since the last Mark, or Begin, is the span `name`, a literal. Not within what a
  // graph records.
  void Mark(const char* name);
  // The stream has passed the last Mark: the step and its parts go to the timeline.
  void End();

 private:
  Timeline::Clock::time_point TimeOf(size_t event) const;

  Timeline& timeline_;
  CudaStream& stream_;
  const int track_;
  SpanFacts facts_;
  Timeline::Clock::time_point begin_;
  std::vector<CudaEvent> events_;   // the first is Begin's; kept between steps
  std::vector<const char*> names_;  // of the spans that end at events 1, 2, ...
};

}  // namespace sluice
