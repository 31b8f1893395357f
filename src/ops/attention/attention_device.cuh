#pragma once

#include <cstdint>
#include <type_traits>

#include "ops/attention/attention_kernels.h"
#include "ops/common/cuda/math.cuh"

// What the attention kernels share: what a row sees, and where a position lies.
namespace sluice::ops::cuda {

// AttentionMask's values as they stand in the tables.
enum : int32_t { kMaskCausal = 0, kMaskFull = 1, kMaskTree = 2 };

// Shared memory that a block of any supported device can have (of sm_86 and sm_89).
inline constexpr int kPortableShared = 99 * 1024;

inline constexpr int32_t kNoTree = 0x7fffffff;

// What row `row` of sequence `s` sees: VisibleRangeOf of the host.
__device__ __forceinline__ VisibleRange RangeOfRow(const SequenceTables& t, int s, int row,
                                                   int window) {
  const int32_t kv_length = t.kv_lengths[s];
  const int32_t mask = t.masks[s];
  if (mask == kMaskFull) return {0, kv_length, kNoTree, 0};
  if (mask == kMaskTree) {
    return {0, kv_length, t.slots_of_queries[t.query_begin[s]],
            static_cast<uint64_t>(t.ancestors[row])};
  }
  const int32_t position = t.positions[row];
  return {window == 0 ? 0 : max(0, position - window + 1), min(position + 1, kv_length), kNoTree,
          0};
}

__device__ __forceinline__ bool Sees(const VisibleRange& range, int32_t position) {
  if (position < range.begin || position >= range.end) return false;
  if (position < range.tree_begin) return true;
  const int32_t bit = position - range.tree_begin;
  return bit < 64 && ((range.tree_bits >> bit) & 1u) != 0;
}

// Where the row of `position` stands among those of pages [pages, heads, page_size] rows.
__device__ __forceinline__ int32_t RowOfPosition(const AttentionParams& p, int s, int kv_head,
                                                 int32_t position) {
  const int32_t index = p.page_shift >= 0 ? position >> p.page_shift : position / p.page_size;
  const int32_t page = p.tables.page_table[static_cast<int64_t>(s) * p.tables.max_pages + index];
  return (page * p.num_kv_heads + kv_head) * p.page_size + position - index * p.page_size;
}

// Calls `function` with the width as a constant, where there are kernels of it.
template <class Function>
bool WithFastDim(int dim, Function function) {
  switch (dim) {
    case 64:
      return function(std::integral_constant<int, 64>()), true;
    case 80:
      return function(std::integral_constant<int, 80>()), true;
    case 96:
      return function(std::integral_constant<int, 96>()), true;
    case 128:
      return function(std::integral_constant<int, 128>()), true;
    case 192:
      return function(std::integral_constant<int, 192>()), true;
    case 256:
      return function(std::integral_constant<int, 256>()), true;
    default:
      return false;
  }
}

}  // namespace sluice::ops::cuda
