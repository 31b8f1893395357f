#pragma once

#include <cstdint>

namespace sluice {

// Which way of getting keys and values back costs less time, once their pages are needed: to
// compute them again, or to copy them to host memory and back. What a computed token takes is
// learned from steps.
class SwapPolicy {
 public:
  // What one page takes one way. Measured where the pages are.
  explicit SwapPolicy(double seconds_per_page) : seconds_per_page_(seconds_per_page) {}

  // A step of so many rows took so long. Only steps of many rows say what one more would take.
  void Observe(int64_t rows, double seconds) {
    if (rows < kManyRows) return;
    seconds_per_token_ += kWeight * (seconds / static_cast<double>(rows) - seconds_per_token_);
  }

  // Of a sequence whose pages are all copied out; of them so many would have to come back, or else
  // so many tokens to be computed: those in pages that others hold too stay known.
  bool SwapIsCheaper(int pages_out, int pages_back, int tokens) const {
    return (pages_out + pages_back) * seconds_per_page_ < tokens * seconds_per_token_;
  }

  double seconds_per_token() const { return seconds_per_token_; }

 private:
  static constexpr int64_t kManyRows = 64;
  static constexpr double kWeight = 0.1;  // of the latest step

  double seconds_per_page_;
  double seconds_per_token_ = 1e-4;  // until the first such step
};

}  // namespace sluice
