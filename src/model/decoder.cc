#include "model/decoder.h"

#include <algorithm>

#include "base/check.h"
#include "ops/attention/latent_attention.h"
#include "ops/attention/prepare_qkv.h"
#include "ops/embedding/embedding.h"
#include "ops/embedding/take_rows.h"
#include "ops/gemm/gemm.h"
#include "ops/gemm/head_gemm.h"
#include "ops/gemm/norm_gemm.h"
#include "ops/norm/norm.h"
#include "ops/rope/rope.h"

namespace sluice {
namespace {

// Elements [begin, begin + width) of each of a matrix's heads, as [T, heads, width].
TensorView HeadParts(const TensorView& matrix, int64_t begin, int64_t heads, int64_t head_dim,
                     int64_t width) {
  const int64_t strides[] = {matrix.stride(0), head_dim, 1};
  return TensorView(matrix.data<float>() + begin, DType::kF32, {matrix.dim(0), heads, width},
                    strides);
}

// Columns [begin, begin + width) of a matrix.
TensorView Columns(const TensorView& matrix, int64_t begin, int64_t width) {
  const int64_t strides[] = {matrix.stride(0), 1};
  return TensorView(matrix.data<float>() + begin, DType::kF32, {matrix.dim(0), width}, strides);
}

}  // namespace

Decoder::Stream Decoder::Embed(const DecoderInput& input, ops::OpContext& ctx) const {
  const int64_t tokens = input.tokens.dim(0);
  const ops::RopeDesc& rope = spec_.attention.rope;
  const Stream rows{
      .x = ctx.arena.Allocate(DType::kF32, {tokens, spec_.hidden_size}),
      .cos_sin = ctx.arena.Allocate(DType::kF32, {tokens, 2, rope.rotary_dim / 2}),
  };
  ops::RopeAngles(rope, input.positions, rows.cos_sin, ctx);
  ops::Embedding(weights_.embedding(), input.tokens, rows.x, ctx);
  return rows;
}

void Decoder::RunLayers(int begin, int end, const DecoderInput& input, const Stream& rows,
                        const PagePool& pages, MoeContext* moe, ops::OpContext& ctx) const {
  for (int layer = begin; layer < end; ++layer) {
    if (spec_.ffn[layer] == FfnKind::kMoe) {
      SLUICE_CHECK(moe != nullptr);
      AttendAndMoe(layer, input, rows.cos_sin, pages, rows.x, *moe, ctx);
    } else {
      AttentionLayer(layer, input, rows.cos_sin, pages, rows.x, ctx);
      FeedForward(layer, rows.x, ctx);
    }
  }
}

void Decoder::AttentionLayer(int layer, const DecoderInput& input, ConstTensorView cos_sin,
                             const PagePool& pages, TensorView x, ops::OpContext& ctx) const {
  if (spec_.attention.kind == AttentionKind::kLatent) {
    AttendLatent(layer, input, cos_sin, pages, x, ctx);
  } else {
    Attend(layer, input, cos_sin, pages, x, ctx);
  }
}

// x += o_proj(attention(norm(x)))
void Decoder::Attend(int layer, const DecoderInput& input, ConstTensorView cos_sin,
                     const PagePool& pages, TensorView x, ops::OpContext& ctx) const {
  Arena::Scope scope(ctx.arena);
  const AttentionSpec& a = spec_.attention;
  const LayerWeights& w = weights_.layer(layer);
  const int64_t tokens = x.dim(0);
  const int64_t q_width = int64_t{a.num_heads} * a.head_dim;
  const int64_t kv_width = int64_t{a.num_kv_heads} * a.head_dim;
  const ops::KvPages kv{.k = pages.Keys(layer), .v = pages.Values(layer)};

  const DType product = ctx.ProductDType(w.qkv.dtype());
  const TensorView qkv = ctx.arena.Allocate(DType::kF32, {tokens, q_width + 2 * kv_width});
  const TensorView attended = ctx.arena.Allocate(product, {tokens, a.num_heads, a.head_dim});
  const TensorView q = HeadParts(qkv, 0, a.num_heads, a.head_dim, a.head_dim);

  ops::NormGemm({.norm = norm_}, x, w.input_norm, w.qkv, w.qkv_bias, qkv, ctx);
  ops::PrepareQkv({.num_heads = a.num_heads,
                   .num_kv_heads = a.num_kv_heads,
                   .head_dim = a.head_dim,
                   .norm = a.qk_norm,
                   .norm_eps = spec_.norm_eps,
                   .clip = a.clip_qkv,
                   .pairing = a.rope.pairing},
                  cos_sin, w.q_norm, w.k_norm, input.kv_slots, qkv, kv, ctx);
  ops::Attention({.num_heads = a.num_heads,
                  .num_kv_heads = a.num_kv_heads,
                  .head_dim = a.head_dim,
                  .scale = a.scale,
                  .window = spec_.IsWindowed(layer) ? a.window : 0},
                 q, input.attention, kv, attended, ctx);
  ops::Gemm({.accumulate = true}, attended.Reshape({tokens, q_width}), w.o, w.o_bias, x, ctx);
}

// As Attend, in the latent's space: a head's query q and position p's latent row c score
// q . (k_up c) = (k_up^T q) . c, and the sum of v_up c over positions is v_up of the sum of c.
void Decoder::AttendLatent(int layer, const DecoderInput& input, ConstTensorView cos_sin,
                           const PagePool& pages, TensorView x, ops::OpContext& ctx) const {
  Arena::Scope scope(ctx.arena);
  const AttentionSpec& a = spec_.attention;
  const LatentSpec& l = a.latent;
  const LatentWeights& w = weights_.layer(layer).latent;
  const int64_t tokens = x.dim(0);
  const int64_t values = int64_t{a.num_heads} * l.value_dim;
  const auto allocate = [&](const Shape& shape) { return ctx.arena.Allocate(DType::kF32, shape); };

  const int64_t q_width = int64_t{a.num_heads} * a.head_dim;
  const int64_t q_columns = l.q_rank == 0 ? q_width : l.q_rank;
  const TensorView q_kv = allocate({tokens, q_columns + l.kv_rank + l.rope_dim});
  const TensorView q_low = Columns(q_kv, 0, q_columns);
  const TensorView q = l.q_rank == 0 ? q_low : allocate({tokens, q_width});
  const TensorView kv = Columns(q_kv, q_columns, l.kv_rank + l.rope_dim);
  const TensorView q_latent = allocate({tokens, a.num_heads, l.kv_rank});
  const TensorView attended =
      ctx.arena.Allocate(ctx.ProductDType(w.v_up.dtype()), {tokens, a.num_heads, l.kv_rank});
  const TensorView out = allocate({tokens, a.num_heads, l.value_dim});
  const TensorView q_nope = HeadParts(q, 0, a.num_heads, a.head_dim, l.nope_dim);
  const TensorView q_rope = HeadParts(q, l.nope_dim, a.num_heads, a.head_dim, l.rope_dim);

  ops::NormGemm({.norm = norm_}, x, weights_.layer(layer).input_norm, w.q_kv_a, w.q_kv_a_bias, q_kv,
                ctx);
  if (l.q_rank > 0) {
    ops::NormGemm({.norm = {.eps = l.norm_eps}}, q_low, w.q_a_norm, w.q_b, {}, q, ctx);
  }
  ops::PrepareLatent({.num_heads = a.num_heads,
                      .latent_dim = l.kv_rank,
                      .rope_dim = l.rope_dim,
                      .norm_eps = l.norm_eps,
                      .pairing = a.rope.pairing},
                     cos_sin, w.kv_a_norm, input.kv_slots, q_rope, kv, pages.Latents(layer), ctx);
  ops::HeadGemm(q_nope, w.k_up, q_latent, ctx);
  ops::LatentAttention(
      {.num_heads = a.num_heads, .latent_dim = l.kv_rank, .rope_dim = l.rope_dim, .scale = a.scale},
      q_latent, q_rope, input.attention, pages.Latents(layer), attended, ctx);
  ops::HeadGemm(attended, w.v_up, out, ctx);
  ops::Gemm({.accumulate = true}, out.Reshape({tokens, values}), weights_.layer(layer).o,
            weights_.layer(layer).o_bias, x, ctx);
}

// A layer with experts: x += attention(norm(x)), then x += moe(norm(x)).
void Decoder::AttendAndMoe(int layer, const DecoderInput& input, ConstTensorView cos_sin,
                           const PagePool& pages, TensorView x, MoeContext& moe,
                           ops::OpContext& ctx) const {
  Arena::Scope scope(ctx.arena);
  const LayerWeights& w = weights_.layer(layer);
  const TensorView h = ctx.arena.Allocate(ctx.ProductDType(moe.experts.layout().dtype), x.shape());
  MoeLayer experts(spec_.moe, layer, norm_, w.post_attention_norm, w.moe, moe, ctx);
  const std::span<const DecoderInput> parts =
      input.parts.empty() ? std::span(&input, 1) : std::span(input.parts);
  const auto choose = [&] {
    int64_t begin = 0;
    for (const DecoderInput& part : parts) {
      const int64_t end = begin + part.tokens.dim(0);
      AttentionLayer(layer, part, cos_sin.Slice(begin, end), pages, x.Slice(begin, end), ctx);
      experts.Route(x, begin, end, h);
      begin = end;
    }
  };
  if (input.recorder != nullptr) {
    SLUICE_CHECK(input.parts.empty());
    input.recorder->Run(layer, choose);
  } else {
    choose();
  }
  experts.RunExperts(h, x);
}

// x += ffn(norm(x)) of a layer without experts
void Decoder::FeedForward(int layer, TensorView x, ops::OpContext& ctx) const {
  Arena::Scope scope(ctx.arena);
  const LayerWeights& w = weights_.layer(layer);
  const DType product = ctx.ProductDType(weights_.embedding().dtype());
  const TensorView inner = ctx.arena.Allocate(product, {x.dim(0), w.down.dim(1)});
  ops::NormGemm({.norm = norm_, .epilogue = ops::GemmEpilogue::kSwiGlu}, x, w.post_attention_norm,
                w.gate_up, w.gate_up_bias, inner, ctx);
  ops::Gemm({.accumulate = true}, inner, w.down, w.down_bias, x, ctx);
}

TensorView Decoder::Logits(ConstTensorView hidden, ConstTensorView rows,
                           ops::OpContext& ctx) const {
  const int64_t count = rows.dim(0);
  const TensorView logits = ctx.arena.Allocate(DType::kF32, {count, spec_.vocab_size});
  Arena::Scope scope(ctx.arena);
  const TensorView picked = ctx.arena.Allocate(DType::kF32, {count, spec_.hidden_size});
  ops::TakeRows(hidden, rows, picked, ctx);
  ops::NormGemm({.norm = norm_}, picked, weights_.final_norm(), weights_.lm_head(), {}, logits,
                ctx);
  return logits;
}

}  // namespace sluice
