#pragma once

#include <cstddef>
#include <cstdint>
#include <limits>

#include "device/cuda_stream.h"
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

// Positions that the softmax advances by in the vectorised tiers: enough to hide the latency of
// its exponentials. Tiles begin at multiples of a tile, whatever a step's rows are, so that a row's
// sums do not depend on its company.
inline constexpr int64_t kAttentionTilePositions = 64;

// Pages of one tile: as many as hold kAttentionTilePositions, or one.
inline constexpr int64_t AttentionTilePages(int64_t page_size) {
  return page_size < kAttentionTilePositions ? kAttentionTilePositions / page_size : 1;
}

// Floats of scratch that a block needs in any tier: a page of k and of v, scores of a tile, sums.
inline constexpr int64_t AttentionScratchFloats(int64_t page_size, int64_t key_dim,
                                                int64_t value_dim) {
  const int64_t key_width = (key_dim + 15) / 16 * 16;
  const int64_t value_width = (value_dim + 15) / 16 * 16;
  const int64_t tile = (AttentionTilePages(page_size) * page_size + 15) / 16 * 16;
  return page_size * (key_width + value_width) + kAttentionBlockRows * (tile + value_width);
}

namespace reference {
void AttentionBlock(const AttentionBlockParams& params);
}
SLUICE_DECLARE_IN_TIERS(void AttentionBlock(const AttentionBlockParams& params))

namespace cuda {

// Counters of a sequence in SequenceTables: each is used by one KV head and tile of rows.
inline constexpr int kAttentionCounters = 64;

// PlacedSequences as kernels take it.
struct SequenceTables {
  const int32_t* query_begin;
  const int32_t* sequence_of_row;
  const int32_t* positions;
  const int32_t* page_table;
  const int32_t* kv_lengths;
  const int32_t* masks;
  const int64_t* ancestors;
  const int32_t* slots_of_queries;
  int32_t* counters;
  int32_t sequences;
  int32_t rows;
  int32_t max_pages;
  int32_t max_query_count;
  int32_t max_kv_length;
};

// What is done to `heads` rows of `width` numbers of each token on their way to attention: an RMS
// norm, a clip, a rotation, and then they go to the pages' columns [page_column, page_column +
// width) or, where there is `out`, to a place like that which they came from.
struct PreparePart {
  const float* x;  // token t's head h at x + t * token_stride + h * head_stride
  int64_t token_stride;
  int64_t head_stride;
  int32_t heads;
  int32_t width;
  const float* norm = nullptr;  // weight [width], of all heads together [heads * width]; or null
  bool joint = false;           // the norm is over all heads together
  bool rotates = false;
  float* out = nullptr;   // as x, maybe x itself
  void* pages = nullptr;  // [pages, heads, page_size, page_width]
  int32_t page_width = 0;
  int32_t page_column = 0;
};

inline constexpr int kPrepareParts = 3;

struct PrepareParams {
  PreparePart parts[kPrepareParts];
  int32_t part_count;
  const float* cos_sin = nullptr;  // [tokens, 2, half]
  int32_t half = 0;
  bool adjacent = false;  // pairs are (2i, 2i + 1), else (i, i + half)
  float norm_eps = 0.0f;
  float clip = std::numeric_limits<float>::infinity();
  const int64_t* slots;  // [tokens]; where negative, nothing goes to pages
  DType page_dtype;
  int32_t page_size;
  int64_t tokens;
};
void Prepare(const PrepareParams& params, CudaStream& stream);

// A call of Attention, or of LatentAttention: one KV head, v null, and a second part of the query.
struct AttentionParams {
  SequenceTables tables;
  const float* q;  // [T, num_heads, key_dim - rope_dim], dense rows
  int64_t q_token_stride;
  int64_t q_head_stride;
  const float* q_rope;  // [T, num_heads, rope_dim], or null
  int64_t q_rope_token_stride;
  int64_t q_rope_head_stride;
  const void* k;  // [pages, num_kv_heads, page_size, key_dim]
  const void* v;  // [pages, num_kv_heads, page_size, value_dim], or null: the front of the keys
  DType dtype;    // of the pages
  void* out;      // [T, num_heads, value_dim]
  DType out_dtype;
  int64_t out_token_stride;
  int64_t out_head_stride;
  int32_t num_heads;
  int32_t num_kv_heads;
  int32_t page_size;
  int32_t page_shift;  // page_size is 1 << page_shift, or -1
  int32_t key_dim;
  int32_t rope_dim;
  int32_t value_dim;
  int32_t window;  // 0: none
  float scale;
};
// Any shape, by plain maths in f32.
void PlainAttention(const AttentionParams& params, CudaStream& stream);

// Whether the kernels below take the call: bf16 pages, and a head_dim of 64, 80, 96, 128, 192, 256.
// They round queries and weights to bf16. What a row does not see below kv_length must be finite:
// it is multiplied by zero.
bool HasFastAttention(const AttentionParams& params);

// How few rows are worked on: their tiles' positions are cut into splits, whose sums are kept in
// between.
struct SplitPlan {
  int32_t max_rows;    // sequences of more rows of a KV head are left out
  int32_t splits;      // of a tile, at most
  int32_t row_blocks;  // tiles of a sequence's rows of a KV head
  int32_t rows;        // of a tile, at most
  int64_t partial_floats;
  int64_t state_floats;
};

// How many positions a tile's rows see at most, counted from a multiple of `unit` on.
int LongestTile(const AttentionParams& params, int unit);

// For tiles of 16 rows, splits of multiples of `unit` positions, and one block a multiprocessor at
// a time.
SplitPlan PlanSplits(const AttentionParams& params, int max_rows, int unit, int multiprocessors);
SplitPlan PlanDecode(const AttentionParams& params, int max_rows, int multiprocessors);

// The sequences of at most plan.max_rows rows of a KV head, bound by reading KV once.
void DecodeAttention(const AttentionParams& params, const SplitPlan& plan, float* partials,
                     float* states, CudaStream& stream);

// Latent attention of 512 + 64 numbers over bf16 pages, as exact as the kernels above.
bool HasFastLatentAttention(const AttentionParams& params);
SplitPlan PlanLatent(const AttentionParams& params, int multiprocessors);
void FastLatentAttention(const AttentionParams& params, const SplitPlan& plan, float* partials,
                         float* states, CudaStream& stream);

// The same by products of warpgroups, where there are rows enough to fill the device with blocks of
// 64 of them.
bool HasLatentTiles(const AttentionParams& params, CudaStream& stream);
void LatentTiles(const AttentionParams& params, CudaStream& stream);

// The sequences of more than `max_rows` rows of a KV head, bound by tensor cores. Takes
// `fixed_splits` where HasAttentionWarpgroups says so: a row's bits are then those of
// FixedSplitsAttention. Without, they depend on nothing but the row either.
void PrefillAttention(const AttentionParams& params, int max_rows, bool fixed_splits,
                      CudaStream& stream);

// Whether there are kernels by products of warpgroups: fast attention with a head_dim of 128, on
// devices of compute capability 9.0.
bool HasAttentionWarpgroups(const AttentionParams& params, CudaStream& stream);

// As DecodeAttention where there are warpgroups, with splits of a fixed number of positions: a
// row's bits do not depend on its company. For at most 64 rows.
// `few` of the call's sequences have no more rows, the largest of them `few_rows`.
SplitPlan PlanFixedSplits(const AttentionParams& params, int max_rows, int few, int few_rows,
                          int multiprocessors);
void FixedSplitsAttention(const AttentionParams& params, const SplitPlan& plan, float* partials,
                          float* states, CudaStream& stream);

}  // namespace cuda

}  // namespace sluice::ops
