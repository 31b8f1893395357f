#pragma once

#include <cstdint>

#include "base/error.h"

namespace sluice::jinja {

// What one rendering may cost, so that a hostile template ends. Not thread-safe; one per rendering.
class Budget {
 public:
  // Counts evaluated nodes and items looked at. The limit is about a second's work.
  void Step(uint64_t count = 1) {
    steps_ += count;
    if (steps_ > kMaxSteps) throw Exhausted("takes over 5 million steps");
  }

  // Counts the bytes of every string and list made, the output included.
  void Bytes(uint64_t count) {
    One(count);
    bytes_ += count;
    if (bytes_ > kMaxBytes) throw Exhausted("makes over 512 MB of text");
  }

  // Checks the size that one string or list has or would have.
  static void One(uint64_t size) {
    if (size > kMaxOne) throw Exhausted("makes a text or list of over 64 MB");
  }

 private:
  static constexpr uint64_t kMaxSteps = 5'000'000;
  static constexpr uint64_t kMaxBytes = uint64_t{512} << 20;
  static constexpr uint64_t kMaxOne = uint64_t{64} << 20;

  static Error Exhausted(const char* what) {
    return Error(ErrorCode::kResourceExhausted,
                 std::string("chat template: rendering ") + what + "; shorten the messages");
  }

  uint64_t steps_ = 0;
  uint64_t bytes_ = 0;
};

}  // namespace sluice::jinja
