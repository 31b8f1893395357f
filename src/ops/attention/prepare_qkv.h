#pragma once

#include <optional>

#include "device/tensor.h"
#include "ops/attention/attention.h"
#include "ops/common/op_context.h"
#include "ops/rope/rope.h"

namespace sluice::ops {

enum class QkNorm {
  kNone,
  kPerHead,    // RMS norm over each head's head_dim, after the projection and before rope
  kFullWidth,  // RMS norm over all heads together
};

struct PrepareQkvDesc {
  int num_heads;
  int num_kv_heads;
  int head_dim;
  QkNorm norm = QkNorm::kNone;
  float norm_eps = 0.0f;
  std::optional<float> clip;  // clamps q, k and v to [-clip, clip], after the norm, before rope
  RopePairing pairing = RopePairing::kHalves;
};

// All that stands between the product of queries, keys and values, and Attention: norms q and k,
// clips, rotates q and k, and writes k and v to their pages, as RmsNorm, Clip, Rope and KvWrite do
// one after the other. On CUDA one launch; a head's norms stand in a block's shared memory, which
// 12,000 numbers of q or k under kFullWidth fit.
void PrepareQkv(const PrepareQkvDesc& desc,
                ConstTensorView cos_sin,  // [T, 2, rotary_dim / 2] f32, contiguous
                ConstTensorView q_norm,   // f32 [head_dim], [num_heads * head_dim], or empty
                ConstTensorView k_norm,   // f32 [head_dim], [num_kv_heads * head_dim], or empty
                ConstTensorView slots,    // [T] i64, as KvWrite's
                TensorView qkv,  // [T, (num_heads + 2 num_kv_heads) * head_dim] f32, row stride
                                 // free: q, k, v. Then q is what Attention takes; the rest is of
                                 // no more use
                const KvPages& pages, OpContext& context);

struct PrepareLatentDesc {
  int num_heads;
  int latent_dim;
  int rope_dim;
  float norm_eps;
  RopePairing pairing = RopePairing::kHalves;
};

// The same for LatentAttention: norms the latents, rotates the queries' and the keys' parts that
// have a position, and writes latent rows to their pages, as RmsNorm, Rope and LatentWrite do.
void PrepareLatent(const PrepareLatentDesc& desc,
                   ConstTensorView cos_sin,  // [T, 2, rope_dim / 2] f32, contiguous
                   ConstTensorView norm,     // [latent_dim] f32
                   ConstTensorView slots,    // [T] i64, as LatentWrite's
                   TensorView q_rope,        // [T, num_heads, rope_dim] f32, strides free: rotated
                   TensorView latent,  // [T, latent_dim + rope_dim] f32, row stride free; of no
                                       // more use then
                   TensorView pages,   // [pages, page_size, latent_dim + rope_dim] f32 | bf16
                   OpContext& context);

}  // namespace sluice::ops
