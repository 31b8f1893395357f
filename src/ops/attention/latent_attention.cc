#include "ops/attention/latent_attention.h"

#include <algorithm>
#include <vector>

#include "ops/attention/attention_kernels.h"
#include "ops/attention/attention_sequences.h"
#include "ops/common/checks.h"

namespace sluice::ops {
namespace {

// Heads that share one unpacked tile at least, so that unpacking stays a small part of the work.
constexpr int kMinBlockHeads = 16;
// Blocks a thread should find, so that an uneven start evens out.
constexpr int64_t kBlocksPerThread = 2;

// A piece of work: heads [head_begin, head_end) of query rows [begin, end) of a sequence.
struct Block {
  const AttentionSequence* sequence;
  int head_begin;
  int head_end;
  int begin;
  int end;
};

int CeilDiv(int a, int b) {
  return (a + b - 1) / b;
}

// Heads of a block: as many as a kernel takes, fewer where there would not be enough blocks.
int BlockHeads(int num_heads, std::span<const AttentionSequence> sequences, int threads) {
  int64_t rows = 0;
  for (const AttentionSequence& sequence : sequences) rows += sequence.query_count;
  int heads = std::min<int>(num_heads, kAttentionBlockRows);
  while (heads > kMinBlockHeads && rows * CeilDiv(num_heads, heads) < kBlocksPerThread * threads) {
    heads = CeilDiv(heads, 2);
  }
  return heads;
}

std::vector<Block> CutBlocks(std::span<const AttentionSequence> sequences, int num_heads,
                             int block_heads) {
  const int rows = static_cast<int>(kAttentionBlockRows) / block_heads;
  std::vector<Block> blocks;
  for (const AttentionSequence& sequence : sequences) {
    for (int begin = 0; begin < sequence.query_count; begin += rows) {
      const int end = std::min(begin + rows, sequence.query_count);
      for (int head = 0; head < num_heads; head += block_heads) {
        blocks.push_back({&sequence, head, std::min(head + block_heads, num_heads), begin, end});
      }
    }
  }
  return blocks;
}

// `scratch` holds the block's queries, each head's two parts joined, then the kernel's floats.
void RunBlock(const LatentAttentionDesc& desc, const Block& block, ConstTensorView q_latent,
              ConstTensorView q_rope, ConstTensorView pages, TensorView out, float* scratch,
              void (*kernel)(const AttentionBlockParams&)) {
  const float* q_rows[kAttentionBlockRows];
  float* out_rows[kAttentionBlockRows];
  VisibleRange sees[kAttentionBlockRows];
  const int64_t width = pages.dim(2);
  int64_t rows = 0;
  for (int i = block.begin; i < block.end; ++i) {
    const VisibleRange range = VisibleRangeOf(*block.sequence, desc.window, i);
    CheckVisiblePages(*block.sequence, range, pages.dim(1), pages.dim(0));
    const int64_t token = block.sequence->query_begin + i;
    for (int64_t h = block.head_begin; h < block.head_end; ++h) {
      float* q = scratch + rows * width;
      std::copy_n(q_latent.data<float>() + token * q_latent.stride(0) + h * q_latent.stride(1),
                  desc.latent_dim, q);
      std::copy_n(q_rope.data<float>() + token * q_rope.stride(0) + h * q_rope.stride(1),
                  desc.rope_dim, q + desc.latent_dim);
      q_rows[rows] = q;
      out_rows[rows] = out.data<float>() + token * out.stride(0) + h * out.stride(1);
      sees[rows++] = range;
    }
  }
  kernel({.rows = rows,
          .q = q_rows,
          .out = out_rows,
          .sees = sees,
          .k = static_cast<const std::byte*>(pages.raw()),
          .v = nullptr,
          .page_stride = pages.stride(0) * static_cast<int64_t>(SizeOf(pages.dtype())),
          .dtype = pages.dtype(),
          .pages = block.sequence->pages.data(),
          .page_size = pages.dim(1),
          .key_dim = width,
          .value_dim = desc.latent_dim,
          .scale = desc.scale,
          .scratch = scratch + kAttentionBlockRows * width});
}

[[maybe_unused]] void AttendOnCuda(const LatentAttentionDesc& desc, ConstTensorView q_latent,
                                   ConstTensorView q_rope, const AttentionBatch& batch,
                                   ConstTensorView pages, TensorView out, OpContext& context) {
  const cuda::AttentionParams params{.tables = TablesOf(batch.placed),
                                     .q = q_latent.data<float>(),
                                     .q_token_stride = q_latent.stride(0),
                                     .q_head_stride = q_latent.stride(1),
                                     .q_rope = q_rope.data<float>(),
                                     .q_rope_token_stride = q_rope.stride(0),
                                     .q_rope_head_stride = q_rope.stride(1),
                                     .k = pages.raw(),
                                     .v = nullptr,
                                     .dtype = pages.dtype(),
                                     .out = out.raw(),
                                     .out_dtype = out.dtype(),
                                     .out_token_stride = out.stride(0),
                                     .out_head_stride = out.stride(1),
                                     .num_heads = desc.num_heads,
                                     .num_kv_heads = 1,
                                     .page_size = static_cast<int32_t>(pages.dim(1)),
                                     .page_shift = PageShift(pages.dim(1)),
                                     .key_dim = desc.latent_dim + desc.rope_dim,
                                     .rope_dim = desc.rope_dim,
                                     .value_dim = desc.latent_dim,
                                     .window = desc.window,
                                     .scale = desc.scale};
  if (context.batch_invariant || !cuda::HasFastLatentAttention(params)) {
    cuda::PlainAttention(params, *context.cuda);
    return;
  }
  if (cuda::HasLatentTiles(params, *context.cuda)) {
    cuda::LatentTiles(params, *context.cuda);
    return;
  }
  Arena::Scope scope(context.arena);
  const cuda::SplitPlan plan = cuda::PlanLatent(params, context.cuda->device().multiprocessors);
  const TensorView partials = context.arena.Allocate(DType::kF32, {plan.partial_floats});
  const TensorView states = context.arena.Allocate(DType::kF32, {plan.state_floats});
  cuda::FastLatentAttention(params, plan, partials.data<float>(), states.data<float>(),
                            *context.cuda);
}

}  // namespace

bool LatentAttentionSupports(const LatentAttentionDesc& desc) {
  return desc.num_heads >= 1 && desc.latent_dim >= 8 && desc.latent_dim <= 1024 &&
         desc.latent_dim % 8 == 0 && desc.rope_dim >= 8 && desc.rope_dim <= 256 &&
         desc.rope_dim % 8 == 0 && desc.window >= 0;
}

void LatentWrite(ConstTensorView latent, ConstTensorView slots, TensorView pages,
                 OpContext& context) {
  // A token's row is a few KB.
  constexpr int64_t kTokenGrain = 64;
  CheckRank("latent_write latent", latent, 2);
  const int64_t tokens = latent.dim(0);
  const int64_t width = latent.dim(1);
  CheckTensor("latent_write latent", latent, DType::kF32, {tokens, width});
  CheckTensor("latent_write slots", slots, DType::kI64, {tokens});
  CheckLatentPages(pages, width);
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      const auto page_width = static_cast<int32_t>(width);
      cuda::Prepare({.parts = {{.x = latent.data<float>(),
                                .token_stride = latent.stride(0),
                                .head_stride = width,
                                .heads = 1,
                                .width = page_width,
                                .pages = pages.raw(),
                                .page_width = page_width}},
                     .part_count = 1,
                     .slots = slots.data<int64_t>(),
                     .page_dtype = pages.dtype(),
                     .page_size = static_cast<int32_t>(pages.dim(1)),
                     .tokens = tokens},
                    *context.cuda);
      return;
    }
  }
  CheckSlots(slots, pages.dim(0) * pages.dim(1));
  context.pool.ParallelFor(tokens, kTokenGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      if (slots.data<int64_t>()[t] < 0) continue;
      StoreKvRow(latent.data<float>() + t * latent.stride(0), width, pages.raw(), pages.dtype(),
                 slots.data<int64_t>()[t] * width);
    }
  });
}

void LatentAttention(const LatentAttentionDesc& desc, ConstTensorView q_latent,
                     ConstTensorView q_rope, const AttentionBatch& batch, ConstTensorView pages,
                     TensorView out, OpContext& context) {
  SLUICE_CHECK(LatentAttentionSupports(desc));
  const int64_t width = int64_t{desc.latent_dim} + desc.rope_dim;
  CheckLatentPages(pages, width);
  CheckRank("latent_attention q_latent", q_latent, 3);
  const int64_t tokens = q_latent.dim(0);
  CheckTensor("latent_attention q_latent", q_latent, DType::kF32,
              {tokens, desc.num_heads, desc.latent_dim});
  CheckTensor("latent_attention q_rope", q_rope, DType::kF32,
              {tokens, desc.num_heads, desc.rope_dim});
  CheckProductInput("latent_attention out", out, {tokens, desc.num_heads, desc.latent_dim},
                    context);
  CheckBatch(batch, desc.window, tokens, pages.dim(1), context);
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      AttendOnCuda(desc, q_latent, q_rope, batch, pages, out, context);
      return;
    }
  }
  const std::vector<Block> blocks =
      CutBlocks(batch.sequences, desc.num_heads,
                BlockHeads(desc.num_heads, batch.sequences, context.pool.num_threads()));

  Arena::Scope scope(context.arena);
  const int64_t scratch_floats =
      kAttentionBlockRows * width + AttentionScratchFloats(pages.dim(1), width, desc.latent_dim);
  float* scratch = context.arena.Allocate(DType::kF32, {context.pool.num_threads(), scratch_floats})
                       .data<float>();
  const auto kernel = context.reference ? &reference::AttentionBlock
                                        : SLUICE_TIER_FUNCTION(context.tier, AttentionBlock);
  const auto body = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      RunBlock(desc, blocks[i], q_latent, q_rope, pages, out, scratch + thread * scratch_floats,
               kernel);
    }
  };
  context.pool.ParallelFor(static_cast<int64_t>(blocks.size()), 1, body);
}

}  // namespace sluice::ops
