#pragma once

#include <cstdint>
#include <span>

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// Which KV positions a query row at absolute position p sees.
enum class AttentionMask {
  kCausal,  // [0, p]
  kWindow,  // (p - window, p]
  kFull,    // [0, kv_length)
  kTree,    // all before the step's first slot, and the row's ancestors among the step's rows
};

struct AttentionDesc {
  int num_heads;
  int num_kv_heads;  // divides num_heads; query head h reads KV head h / (num_heads / num_kv_heads)
  int head_dim;      // a multiple of 8 in [16, 256]
  float scale;       // of the scores, 1 / sqrt(head_dim) as a rule
  int window = 0;    // for kWindow: how many positions a row sees, itself included
};

// One sequence's query rows of this step: rows [query_begin, query_begin + query_count) of q and
// out. The spans stay the caller's.
struct AttentionSequence {
  int query_begin;
  int query_count;
  std::span<const int32_t> positions;  // [query_count] absolute
  std::span<const int32_t> pages;      // page of KV positions [i * page_size, (i + 1) * page_size)
  int kv_length;  // KV positions [0, kv_length) are in the pages, this step's included
  AttentionMask mask;
  // For kTree, at most 64 rows: bit i says that the step's row i (the row itself included) is seen.
  std::span<const uint64_t> ancestors;  // [query_count]
  // KV position at which each row's K and V were written; kTree reads it.
  std::span<const int32_t> slots_of_queries;  // [query_count]
};

// The pages of one layer.
struct KvPages {
  TensorView k;  // [pages, num_kv_heads, page_size, head_dim] f32 | bf16, contiguous
  TensorView v;  // as k
};

// Whether Attention can run `desc`: head_dim, heads and window as said above.
bool AttentionSupports(const AttentionDesc& desc);

// Writes this step's keys and values to their pages.
void KvWrite(ConstTensorView k,      // [T, num_kv_heads, head_dim] f32, outer strides free
             ConstTensorView v,      // as k
             ConstTensorView slots,  // [T] i64: page * page_size + offset
             const KvPages& pages, OpContext& context);

// Scaled dot-product attention over pages with an online softmax (arXiv:1805.02867). KV is visited
// in tiles of one page at absolute multiples of the page size, in order; a tile that a row does not
// see is skipped for it and a hidden position contributes nothing, so that a row's bits depend only
// on its own visible positions and the page size. A row that sees nothing gives zeros. Pages that
// no row of the call sees are not read.
void Attention(const AttentionDesc& desc,
               ConstTensorView q,  // [T, num_heads, head_dim] f32, outer strides free
               std::span<const AttentionSequence> sequences, const KvPages& pages,
               TensorView out,  // [T, num_heads, head_dim] f32, outer strides free
               OpContext& context);

}  // namespace sluice::ops
