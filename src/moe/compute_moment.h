#pragma once

#include <chrono>
#include <optional>

#include "device/cuda_stream.h"
#include "ops/common/op_context.h"

namespace sluice {

// When what was computed or queued until a point was done: on a device by its clock, else by this
// thread's.
class ComputeMoment {
 public:
  void Mark(const ops::OpContext& ctx) {
    if (ctx.OnCuda()) {
      if (!event_) event_.emplace();
      event_->Record(*ctx.cuda);
    } else {
      time_ = std::chrono::steady_clock::now();
    }
  }
  // Waits until it is there.
  void Await() const {
    if (event_) event_->Synchronize();
  }
  // Both are there.
  double SecondsSince(const ComputeMoment& earlier) const {
    if (event_) return event_->SecondsSince(*earlier.event_);
    return std::chrono::duration<double>(time_ - earlier.time_).count();
  }

 private:
  std::optional<CudaEvent> event_;
  std::chrono::steady_clock::time_point time_;
};

}  // namespace sluice
