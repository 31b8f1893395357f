#pragma once

#include "device/tensor.h"
#include "ops/attention/attention_batch.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// Multi-head latent attention (arXiv:2405.04434, section 2.1) with absorbed projections: all heads
// read one latent row a position. Its first latent_dim numbers are both what a head's query is
// compared with and what the head sums up; the rope_dim numbers behind them only join the score.
struct LatentAttentionDesc {
  int num_heads;
  int latent_dim;  // kv_lora_rank
  int rope_dim;    // qk_rope_head_dim
  float scale;     // of the scores
  int window = 0;  // above 0, causal rows at p see (p - window, p] alone
};

// Whether LatentAttention can run `desc`: latent_dim a multiple of 8 in [8, 1024], rope_dim one in
// [8, 256].
bool LatentAttentionSupports(const LatentAttentionDesc& desc);

// Writes this step's latent rows to their pages.
void LatentWrite(
    ConstTensorView latent,  // [T, latent_dim + rope_dim] f32, row stride free
    ConstTensorView slots,   // [T] i64: page * page_size + offset; negative: not written
    TensorView pages,        // [pages, page_size, latent_dim + rope_dim] f32 | bf16
    OpContext& context);

// Softmax attention of every query row and head over the pages' latent rows; masks, tiles, the
// order of sums, what a row that sees nothing gives and when pages are read are Attention's. With
// OpContext::batch_invariant CUDA has plain maths alone, many times slower.
void LatentAttention(const LatentAttentionDesc& desc,
                     ConstTensorView q_latent,  // [T, num_heads, latent_dim] f32, strides free
                     ConstTensorView q_rope,    // [T, num_heads, rope_dim] f32, strides free
                     const AttentionBatch& batch,
                     ConstTensorView pages,  // [pages, page_size, latent_dim + rope_dim]
                     TensorView out,  // [T, num_heads, latent_dim] f32, on CUDA bf16 | f16 too
                     OpContext& context);

}  // namespace sluice::ops
