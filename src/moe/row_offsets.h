#pragma once

#include <cstdint>
#include <numeric>
#include <span>
#include <vector>

namespace sluice {

// Where the rows of each expert begin, and how many there are [experts + 1]. Rows are sorted by
// expert, those of an expert by token and choice.
inline std::vector<int32_t> RowOffsets(std::span<const int32_t> counts) {
  std::vector<int32_t> offsets(counts.size() + 1);
  std::partial_sum(counts.begin(), counts.end(), offsets.begin() + 1);
  return offsets;
}

}  // namespace sluice
