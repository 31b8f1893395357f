#pragma once

#include "device/tensor.h"
#include "ops/attention/attention_batch.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

struct AttentionDesc {
  int num_heads;
  int num_kv_heads;  // divides num_heads; query head h reads KV head h / (num_heads / num_kv_heads)
  int head_dim;      // a multiple of 8 in [16, 256]
  float scale;       // of the scores, above 0; 1 / sqrt(head_dim) as a rule
  int window = 0;    // above 0, causal rows at p see (p - window, p] alone
};

// The pages of one layer.
struct KvPages {
  TensorView k;  // [pages, num_kv_heads, page_size, head_dim] f32 | bf16, contiguous
  TensorView v;  // as k
};

// Whether Attention can run `desc`: head_dim, heads, scale and window as said above.
bool AttentionSupports(const AttentionDesc& desc);

// Writes this step's keys and values to their pages.
void KvWrite(ConstTensorView k,      // [T, num_kv_heads, head_dim] f32, outer strides free
             ConstTensorView v,      // as k
             ConstTensorView slots,  // [T] i64: page * page_size + offset; negative: not written
             const KvPages& pages, OpContext& context);

// Scaled dot-product attention over pages with an online softmax (arXiv:1805.02867). KV is visited
// in tiles of one page at absolute multiples of the page size, in order; a tile that a row does not
// see is skipped for it and a hidden position contributes nothing, so that on the CPU a row's bits
// depend only on its own visible positions and the page size. A row that sees nothing gives zeros.
// Pages that no row of the call sees are not read. With a window every sequence's mask is kCausal.
//
// On CUDA, over bf16 pages and with a head_dim of 64, 80, 96, 128, 192 or 256, products run on
// tensor cores: queries and weights are rounded to bf16, and what a row does not see below
// kv_length must be finite. Everything else runs in f32, slowly. Where a causal sequence has one
// row, positions before it may be read while kernels queued before this one still run: they were
// written before the step.
void Attention(
    const AttentionDesc& desc,
    ConstTensorView q,  // [T, num_heads, head_dim] f32, outer strides free
    const AttentionBatch& batch, const KvPages& pages,
    TensorView out,  // [T, num_heads, head_dim] f32, on CUDA bf16 | f16 too, outer strides free
    OpContext& context);

}  // namespace sluice::ops
