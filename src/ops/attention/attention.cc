#include "ops/attention/attention.h"

#include <algorithm>
#include <vector>

#include "ops/attention/attention_kernels.h"
#include "ops/attention/attention_sequences.h"
#include "ops/common/checks.h"

namespace sluice::ops {
namespace {

// On CUDA, with so many rows of a KV head (queries times heads that share it) at most, a sequence
// is bound by reading its KV once, and is cut into splits.
constexpr int kDecodeRows = 64;

// A piece of work: query rows [begin, end) of a sequence against one KV head.
struct Block {
  const AttentionSequence* sequence;
  int64_t kv_head;
  int begin;
  int end;
};

// Cuts the call into blocks: the heads of one KV head by as many query rows as a block takes.
std::vector<Block> CutBlocks(std::span<const AttentionSequence> sequences, int64_t kv_heads,
                             int64_t group) {
  const int rows = static_cast<int>(std::max<int64_t>(1, kAttentionBlockRows / group));
  std::vector<Block> blocks;
  for (const AttentionSequence& sequence : sequences) {
    for (int begin = 0; begin < sequence.query_count; begin += rows) {
      const int end = std::min(begin + rows, sequence.query_count);
      for (int64_t head = 0; head < kv_heads; ++head) {
        blocks.push_back({&sequence, head, begin, end});
      }
    }
  }
  return blocks;
}

void RunBlock(const AttentionDesc& desc, const Block& block, ConstTensorView q,
              const KvPages& pages, TensorView out, float* scratch,
              void (*kernel)(const AttentionBlockParams&)) {
  const float* q_rows[kAttentionBlockRows];
  float* out_rows[kAttentionBlockRows];
  VisibleRange sees[kAttentionBlockRows];
  const int64_t group = desc.num_heads / desc.num_kv_heads;
  int64_t rows = 0;
  const int64_t head_bytes =
      pages.k.stride(1) * static_cast<int64_t>(SizeOf(pages.k.dtype())) * block.kv_head;
  const auto flush = [&] {
    kernel({.rows = rows,
            .q = q_rows,
            .out = out_rows,
            .sees = sees,
            .k = static_cast<const std::byte*>(pages.k.raw()) + head_bytes,
            .v = static_cast<const std::byte*>(pages.v.raw()) + head_bytes,
            .page_stride = pages.k.stride(0) * static_cast<int64_t>(SizeOf(pages.k.dtype())),
            .dtype = pages.k.dtype(),
            .pages = block.sequence->pages.data(),
            .page_size = pages.k.dim(2),
            .key_dim = desc.head_dim,
            .value_dim = desc.head_dim,
            .scale = desc.scale,
            .scratch = scratch});
    rows = 0;
  };
  for (int i = block.begin; i < block.end; ++i) {
    const VisibleRange range = VisibleRangeOf(*block.sequence, desc.window, i);
    CheckVisiblePages(*block.sequence, range, pages.k.dim(2), pages.k.dim(0));
    const int64_t token = block.sequence->query_begin + i;
    for (int64_t h = block.kv_head * group; h < (block.kv_head + 1) * group; ++h) {
      if (rows == kAttentionBlockRows) flush();
      q_rows[rows] = q.data<float>() + token * q.stride(0) + h * q.stride(1);
      out_rows[rows] = out.data<float>() + token * out.stride(0) + h * out.stride(1);
      sees[rows++] = range;
    }
  }
  flush();
}

void WriteToken(ConstTensorView source, int64_t token, int64_t slot, TensorView pages) {
  const int64_t page_size = pages.dim(2);
  const int64_t first = slot / page_size * pages.stride(0) + slot % page_size * pages.stride(2);
  for (int64_t h = 0; h < pages.dim(1); ++h) {
    const float* from = source.data<float>() + token * source.stride(0) + h * source.stride(1);
    StoreKvRow(from, pages.dim(3), pages.raw(), pages.dtype(), first + h * pages.stride(1));
  }
}

[[maybe_unused]] cuda::PreparePart PageWrite(ConstTensorView source, const TensorView& pages) {
  const auto width = static_cast<int32_t>(pages.dim(3));
  return {.x = source.data<float>(),
          .token_stride = source.stride(0),
          .head_stride = source.stride(1),
          .heads = static_cast<int32_t>(pages.dim(1)),
          .width = width,
          .pages = pages.raw(),
          .page_width = width};
}

[[maybe_unused]] void AttendOnCuda(const AttentionDesc& desc, ConstTensorView q,
                                   const AttentionBatch& batch, const KvPages& pages,
                                   TensorView out, OpContext& context) {
  const cuda::AttentionParams params{.tables = TablesOf(batch.placed),
                                     .q = q.data<float>(),
                                     .q_token_stride = q.stride(0),
                                     .q_head_stride = q.stride(1),
                                     .q_rope = nullptr,
                                     .q_rope_token_stride = 0,
                                     .q_rope_head_stride = 0,
                                     .k = pages.k.raw(),
                                     .v = pages.v.raw(),
                                     .dtype = pages.k.dtype(),
                                     .out = out.raw(),
                                     .out_dtype = out.dtype(),
                                     .out_token_stride = out.stride(0),
                                     .out_head_stride = out.stride(1),
                                     .num_heads = desc.num_heads,
                                     .num_kv_heads = desc.num_kv_heads,
                                     .page_size = static_cast<int32_t>(pages.k.dim(2)),
                                     .page_shift = PageShift(pages.k.dim(2)),
                                     .key_dim = desc.head_dim,
                                     .rope_dim = 0,
                                     .value_dim = desc.head_dim,
                                     .window = desc.window,
                                     .scale = desc.scale};
  if (!cuda::HasFastAttention(params)) {
    cuda::PlainAttention(params, *context.cuda);
    return;
  }
  const int group = desc.num_heads / desc.num_kv_heads;
  const bool fixed_splits =
      context.batch_invariant && cuda::HasAttentionWarpgroups(params, *context.cuda);
  // Where a row's sums are not to depend on how many others there are, splits are fixed, or there
  // are none and one form does for all.
  const int split_rows = context.batch_invariant && !fixed_splits ? 0 : kDecodeRows;
  int few = 0;  // sequences of that size, and the most rows of one
  int few_rows = 0;
  for (const AttentionSequence& sequence : batch.sequences) {
    const int rows = sequence.query_count * group;
    if (rows == 0 || rows > split_rows) continue;
    ++few;
    few_rows = std::max(few_rows, rows);
  }
  if (few > 0) {
    const int multiprocessors = context.cuda->device().multiprocessors;
    Arena::Scope scope(context.arena);
    const cuda::SplitPlan plan =
        fixed_splits ? cuda::PlanFixedSplits(params, split_rows, few, few_rows, multiprocessors)
                     : cuda::PlanDecode(params, split_rows, multiprocessors);
    float* partials = context.arena.Allocate(DType::kF32, {plan.partial_floats}).data<float>();
    float* states = context.arena.Allocate(DType::kF32, {plan.state_floats}).data<float>();
    const auto attend = fixed_splits ? &cuda::FixedSplitsAttention : &cuda::DecodeAttention;
    attend(params, plan, partials, states, *context.cuda);
  }
  if (batch.placed.max_query_count * group > split_rows) {
    cuda::PrefillAttention(params, split_rows, fixed_splits, *context.cuda);
  }
}

}  // namespace

bool AttentionSupports(const AttentionDesc& desc) {
  return desc.num_kv_heads >= 1 && desc.num_heads >= 1 && desc.num_heads % desc.num_kv_heads == 0 &&
         desc.head_dim >= 16 && desc.head_dim <= 256 && desc.head_dim % 8 == 0 &&
         desc.scale > 0.0f && desc.window >= 0;
}

void KvWrite(ConstTensorView k, ConstTensorView v, ConstTensorView slots, const KvPages& pages,
             OpContext& context) {
  // A token's keys and values are a few KB.
  constexpr int64_t kTokenGrain = 16;
  CheckKvPages(pages);
  CheckRank("kv_write k", k, 3);
  const int64_t tokens = k.dim(0);
  CheckTensor("kv_write k", k, DType::kF32, {tokens, pages.k.dim(1), pages.k.dim(3)});
  CheckTensor("kv_write v", v, DType::kF32, {tokens, pages.k.dim(1), pages.k.dim(3)});
  CheckTensor("kv_write slots", slots, DType::kI64, {tokens});
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::Prepare({.parts = {PageWrite(k, pages.k), PageWrite(v, pages.v)},
                     .part_count = 2,
                     .slots = slots.data<int64_t>(),
                     .page_dtype = pages.k.dtype(),
                     .page_size = static_cast<int32_t>(pages.k.dim(2)),
                     .tokens = tokens},
                    *context.cuda);
      return;
    }
  }
  CheckSlots(slots, pages.k.dim(0) * pages.k.dim(2));
  const int64_t* slot = slots.data<int64_t>();
  context.pool.ParallelFor(tokens, kTokenGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      if (slot[t] < 0) continue;
      WriteToken(k, t, slot[t], pages.k);
      WriteToken(v, t, slot[t], pages.v);
    }
  });
}

void Attention(const AttentionDesc& desc, ConstTensorView q, const AttentionBatch& batch,
               const KvPages& pages, TensorView out, OpContext& context) {
  SLUICE_CHECK(AttentionSupports(desc));
  CheckKvPages(pages);
  CheckRank("attention q", q, 3);
  const int64_t tokens = q.dim(0);
  CheckTensor("attention q", q, DType::kF32, {tokens, desc.num_heads, desc.head_dim});
  CheckProductInput("attention out", out, {tokens, desc.num_heads, desc.head_dim}, context);
  SLUICE_CHECK_EQ(pages.k.dim(1), desc.num_kv_heads);
  SLUICE_CHECK_EQ(pages.k.dim(3), desc.head_dim);
  CheckBatch(batch, desc.window, tokens, pages.k.dim(2), context);
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      AttendOnCuda(desc, q, batch, pages, out, context);
      return;
    }
  }
  const int64_t group = desc.num_heads / desc.num_kv_heads;
  const std::vector<Block> blocks = CutBlocks(batch.sequences, desc.num_kv_heads, group);

  Arena::Scope scope(context.arena);
  const int64_t scratch_floats =
      AttentionScratchFloats(pages.k.dim(2), desc.head_dim, desc.head_dim);
  float* scratch = context.arena.Allocate(DType::kF32, {context.pool.num_threads(), scratch_floats})
                       .data<float>();
  const auto kernel = context.reference ? &reference::AttentionBlock
                                        : SLUICE_TIER_FUNCTION(context.tier, AttentionBlock);
  const auto body = [&](int64_t begin, int64_t end, int thread) {
    for (int64_t i = begin; i < end; ++i) {
      RunBlock(desc, blocks[i], q, pages, out, scratch + thread * scratch_floats, kernel);
    }
  };
  context.pool.ParallelFor(static_cast<int64_t>(blocks.size()), 1, body);
}

}  // namespace sluice::ops
