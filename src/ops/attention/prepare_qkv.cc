#include "ops/attention/prepare_qkv.h"

#include <limits>

#include "ops/activation/clip.h"
#include "ops/attention/attention_kernels.h"
#include "ops/attention/attention_sequences.h"
#include "ops/attention/latent_attention.h"
#include "ops/common/checks.h"
#include "ops/norm/rms_norm.h"

namespace sluice::ops {
namespace {

// Columns [begin, begin + heads * width) of a matrix, as [T, heads, width].
TensorView Heads(const TensorView& matrix, int64_t begin, int64_t heads, int64_t width) {
  const int64_t strides[] = {matrix.stride(0), width, 1};
  return TensorView(matrix.data<float>() + begin, DType::kF32, {matrix.dim(0), heads, width},
                    strides);
}

// q, k and v within the matrix, as heads.
struct Parts {
  TensorView q;
  TensorView k;
  TensorView v;
};

Parts PartsOf(const PrepareQkvDesc& desc, const TensorView& qkv) {
  const int64_t dim = desc.head_dim;
  const int64_t first_v = desc.num_heads + desc.num_kv_heads;
  return {.q = Heads(qkv, 0, desc.num_heads, dim),
          .k = Heads(qkv, desc.num_heads * dim, desc.num_kv_heads, dim),
          .v = Heads(qkv, first_v * dim, desc.num_kv_heads, dim)};
}

// All heads of a part as one.
TensorView Joined(const TensorView& part) {
  const int64_t width = part.dim(1) * part.dim(2);
  const int64_t strides[] = {part.stride(0), width, 1};
  return TensorView(part.data<float>(), DType::kF32, {part.dim(0), 1, width}, strides);
}

void CheckArguments(const PrepareQkvDesc& desc, ConstTensorView cos_sin, ConstTensorView q_norm,
                    ConstTensorView k_norm, ConstTensorView slots, ConstTensorView qkv,
                    const KvPages& pages) {
  CheckRank("prepare_qkv qkv", qkv, 2);
  CheckRank("prepare_qkv cos_sin", cos_sin, 3);
  const int64_t tokens = qkv.dim(0);
  const int64_t dim = desc.head_dim;
  CheckTensor("prepare_qkv qkv", qkv, DType::kF32,
              {tokens, (desc.num_heads + 2 * desc.num_kv_heads) * dim});
  CheckTensor("prepare_qkv cos_sin", cos_sin, DType::kF32, {tokens, 2, cos_sin.dim(2)});
  SLUICE_CHECK(cos_sin.IsContiguous());
  SLUICE_CHECK_LE(2 * cos_sin.dim(2), dim);
  CheckTensor("prepare_qkv slots", slots, DType::kI64, {tokens});
  if (desc.norm != QkNorm::kNone) {
    const bool joint = desc.norm == QkNorm::kFullWidth;
    CheckTensor("prepare_qkv q_norm", q_norm, DType::kF32, {joint ? desc.num_heads * dim : dim});
    CheckTensor("prepare_qkv k_norm", k_norm, DType::kF32, {joint ? desc.num_kv_heads * dim : dim});
  }
  CheckKvPages(pages);
  SLUICE_CHECK_EQ(pages.k.dim(1), desc.num_kv_heads);
  SLUICE_CHECK_EQ(pages.k.dim(3), dim);
}

[[maybe_unused]] cuda::PreparePart PartOnCuda(const TensorView& x) {
  return {.x = x.data<float>(),
          .token_stride = x.stride(0),
          .head_stride = x.stride(1),
          .heads = static_cast<int32_t>(x.dim(1)),
          .width = static_cast<int32_t>(x.dim(2))};
}

[[maybe_unused]] void PrepareOnCuda(const PrepareQkvDesc& desc, ConstTensorView cos_sin,
                                    ConstTensorView q_norm, ConstTensorView k_norm,
                                    ConstTensorView slots, const Parts& parts, const KvPages& pages,
                                    OpContext& context) {
  cuda::PrepareParams params{
      .parts = {PartOnCuda(parts.q), PartOnCuda(parts.k), PartOnCuda(parts.v)},
      .part_count = 3,
      .cos_sin = cos_sin.data<float>(),
      .half = static_cast<int32_t>(cos_sin.dim(2)),
      .adjacent = desc.pairing == RopePairing::kAdjacent,
      .norm_eps = desc.norm_eps,
      .clip = desc.clip.value_or(std::numeric_limits<float>::infinity()),
      .slots = slots.data<int64_t>(),
      .page_dtype = pages.k.dtype(),
      .page_size = static_cast<int32_t>(pages.k.dim(2)),
      .tokens = parts.q.dim(0)};
  cuda::PreparePart& q = params.parts[0];
  cuda::PreparePart& k = params.parts[1];
  cuda::PreparePart& v = params.parts[2];
  if (desc.norm != QkNorm::kNone) {
    q.norm = q_norm.data<float>();
    k.norm = k_norm.data<float>();
    q.joint = k.joint = desc.norm == QkNorm::kFullWidth;
  }
  q.rotates = k.rotates = true;
  q.out = parts.q.data<float>();
  k.pages = pages.k.raw();
  v.pages = pages.v.raw();
  k.page_width = v.page_width = desc.head_dim;
  cuda::Prepare(params, *context.cuda);
}

}  // namespace

void PrepareQkv(const PrepareQkvDesc& desc, ConstTensorView cos_sin, ConstTensorView q_norm,
                ConstTensorView k_norm, ConstTensorView slots, TensorView qkv, const KvPages& pages,
                OpContext& context) {
  CheckArguments(desc, cos_sin, q_norm, k_norm, slots, qkv, pages);
  const Parts parts = PartsOf(desc, qkv);
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      PrepareOnCuda(desc, cos_sin, q_norm, k_norm, slots, parts, pages, context);
      return;
    }
  }
  if (desc.norm != QkNorm::kNone) {
    const bool joint = desc.norm == QkNorm::kFullWidth;
    const TensorView q = joint ? Joined(parts.q) : parts.q;
    const TensorView k = joint ? Joined(parts.k) : parts.k;
    RmsNorm({.eps = desc.norm_eps}, q, q_norm, q, context);
    RmsNorm({.eps = desc.norm_eps}, k, k_norm, k, context);
  }
  if (desc.clip) Clip(*desc.clip, qkv, context);
  Rope(desc.pairing, cos_sin, parts.q, context);
  Rope(desc.pairing, cos_sin, parts.k, context);
  KvWrite(parts.k, parts.v, slots, pages, context);
}

void PrepareLatent(const PrepareLatentDesc& desc, ConstTensorView cos_sin, ConstTensorView norm,
                   ConstTensorView slots, TensorView q_rope, TensorView latent, TensorView pages,
                   OpContext& context) {
  CheckRank("prepare_latent latent", latent, 2);
  const int64_t tokens = latent.dim(0);
  const int64_t width = int64_t{desc.latent_dim} + desc.rope_dim;
  CheckTensor("prepare_latent latent", latent, DType::kF32, {tokens, width});
  CheckTensor("prepare_latent q_rope", q_rope, DType::kF32,
              {tokens, desc.num_heads, desc.rope_dim});
  CheckTensor("prepare_latent cos_sin", cos_sin, DType::kF32, {tokens, 2, desc.rope_dim / 2});
  SLUICE_CHECK(cos_sin.IsContiguous());
  CheckTensor("prepare_latent norm", norm, DType::kF32, {desc.latent_dim});
  CheckTensor("prepare_latent slots", slots, DType::kI64, {tokens});
  CheckLatentPages(pages, width);
  const TensorView c = Heads(latent, 0, 1, desc.latent_dim);
  const TensorView k_rope = Heads(latent, desc.latent_dim, 1, desc.rope_dim);
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::PrepareParams params{.parts = {PartOnCuda(c), PartOnCuda(k_rope), PartOnCuda(q_rope)},
                                 .part_count = 3,
                                 .cos_sin = cos_sin.data<float>(),
                                 .half = desc.rope_dim / 2,
                                 .adjacent = desc.pairing == RopePairing::kAdjacent,
                                 .norm_eps = desc.norm_eps,
                                 .slots = slots.data<int64_t>(),
                                 .page_dtype = pages.dtype(),
                                 .page_size = static_cast<int32_t>(pages.dim(1)),
                                 .tokens = tokens};
      params.parts[0].norm = norm.data<float>();
      params.parts[1].rotates = params.parts[2].rotates = true;
      params.parts[2].out = q_rope.data<float>();
      params.parts[0].pages = params.parts[1].pages = pages.raw();
      params.parts[0].page_width = params.parts[1].page_width = static_cast<int32_t>(width);
      params.parts[1].page_column = desc.latent_dim;
      cuda::Prepare(params, *context.cuda);
      return;
    }
  }
  RmsNorm({.eps = desc.norm_eps}, c, norm, c, context);
  Rope(desc.pairing, cos_sin, q_rope, context);
  Rope(desc.pairing, cos_sin, k_rope, context);
  LatentWrite(latent, slots, pages, context);
}

}  // namespace sluice::ops
