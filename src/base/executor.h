#pragma once

#include <functional>

namespace sluice {

// A way to have functions run on some thread, in the order in which they are posted.
class Executor {
 public:
  virtual ~Executor() = default;

  // From any thread. A function that can no longer run is dropped.
  virtual void Post(std::function<void()> function) = 0;
};

}  // namespace sluice
