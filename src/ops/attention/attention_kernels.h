#pragma once

#include <cstddef>
#include <cstdint>

#include "device/dtype.h"
#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

// Query rows x heads of one KV head that a block kernel takes at most: what one unpacked tile of
// KV is used for.
inline constexpr int64_t kAttentionBlockRows = 64;

// What one query row sees of KV positions [0, kv_length): [begin, end), and of the positions from
// tree_begin on only those whose bit is set in tree_bits (bit i is tree_begin + i).
struct VisibleRange {
  int32_t begin;
  int32_t end;
  int32_t tree_begin;
  uint64_t tree_bits;
};

// The rows of one KV head's group of query heads and some query rows of one sequence. Rows of a
// block are in any order; each is worked on by itself.
struct AttentionBlockParams {
  int64_t rows;              // at most kAttentionBlockRows
  const float* const* q;     // [rows] pointers to key_dim values
  float* const* out;         // [rows] pointers to value_dim values
  const VisibleRange* sees;  // [rows]
  const std::byte* k;        // page 0 of this KV head, rows of key_dim
  // As k, rows of value_dim; or null: a value is the first value_dim <= key_dim numbers of its key.
  const std::byte* v;
  int64_t page_stride;  // bytes from a page to the next
  DType dtype;          // of the pages
  const int32_t* pages;
  int64_t page_size;
  int64_t key_dim;
  int64_t value_dim;
  float scale;
  float* scratch;  // AttentionScratchFloats(page_size, key_dim, value_dim), aligned to 64 bytes
};

// Floats of scratch that a block needs in any tier: a tile of k and of v, scores, sums.
inline constexpr int64_t AttentionScratchFloats(int64_t page_size, int64_t key_dim,
                                                int64_t value_dim) {
  const int64_t key_width = (key_dim + 15) / 16 * 16;
  const int64_t value_width = (value_dim + 15) / 16 * 16;
  const int64_t tile = (page_size + 15) / 16 * 16;
  return tile * (key_width + value_width) + kAttentionBlockRows * (tile + value_width);
}

namespace reference {
void AttentionBlock(const AttentionBlockParams& params);
}
SLUICE_DECLARE_IN_TIERS(void AttentionBlock(const AttentionBlockParams& params))

}  // namespace sluice::ops
