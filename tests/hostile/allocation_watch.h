#pragma once

#include <cstddef>

namespace sluice::testing {

// Watches the program's operator new from construction on: the largest block asked for, and the
// most bytes held at once beyond those held at its start. One at a time.
class AllocationWatch {
 public:
  AllocationWatch();

  size_t largest() const;
  size_t peak() const;
};

}  // namespace sluice::testing
