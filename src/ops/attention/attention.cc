#include "ops/attention/attention.h"

#include <algorithm>
#include <limits>
#include <type_traits>
#include <vector>

#include "ops/attention/attention_kernels.h"
#include "ops/common/checks.h"
#include "quant/float_formats.h"

namespace sluice::ops {
namespace {

constexpr int64_t kMaxTreeRows = 64;
constexpr int32_t kNoTree = std::numeric_limits<int32_t>::max();

// A piece of work: query rows [begin, end) of a sequence against one KV head.
struct Block {
  const AttentionSequence* sequence;
  int64_t kv_head;
  int begin;
  int end;
};

void CheckPages(const KvPages& pages) {
  CheckRank("attention k pages", pages.k, 4);
  SLUICE_CHECK(pages.k.dtype() == DType::kF32 || pages.k.dtype() == DType::kBF16);
  SLUICE_CHECK_EQ(pages.k.dtype(), pages.v.dtype());
  SLUICE_CHECK_EQ(pages.k.shape(), pages.v.shape());
  SLUICE_CHECK(pages.k.IsContiguous() && pages.v.IsContiguous());
}

void CheckSequence(const AttentionSequence& sequence, int64_t tokens, const KvPages& pages) {
  SLUICE_CHECK_GE(sequence.query_begin, 0);
  SLUICE_CHECK_GE(sequence.query_count, 0);
  SLUICE_CHECK_LE(sequence.query_begin + sequence.query_count, tokens);
  SLUICE_CHECK_EQ(static_cast<int>(sequence.positions.size()), sequence.query_count);
  const int64_t capacity = static_cast<int64_t>(sequence.pages.size()) * pages.k.dim(2);
  SLUICE_CHECK_LE(sequence.kv_length, capacity);
  if (sequence.mask != AttentionMask::kTree || sequence.query_count == 0) return;
  SLUICE_CHECK_LE(sequence.query_count, kMaxTreeRows);
  SLUICE_CHECK_EQ(static_cast<int>(sequence.ancestors.size()), sequence.query_count);
  SLUICE_CHECK_EQ(static_cast<int>(sequence.slots_of_queries.size()), sequence.query_count);
  for (const int32_t slot : sequence.slots_of_queries) {
    SLUICE_CHECK_GE(slot, sequence.slots_of_queries.front());
    SLUICE_CHECK_LT(slot - sequence.slots_of_queries.front(), kMaxTreeRows);
    SLUICE_CHECK_LT(slot, sequence.kv_length);
  }
}

// The row's ancestors as bits of KV positions from the first slot on.
uint64_t TreeBits(const AttentionSequence& sequence, int row) {
  uint64_t bits = 0;
  for (int i = 0; i < sequence.query_count; ++i) {
    if (((sequence.ancestors[row] >> i) & 1u) == 0) continue;
    bits |= uint64_t{1} << (sequence.slots_of_queries[i] - sequence.slots_of_queries[0]);
  }
  return bits;
}

VisibleRange RangeOf(const AttentionDesc& desc, const AttentionSequence& sequence, int row) {
  const int32_t position = sequence.positions[row];
  const int32_t causal_end = std::min(position + 1, sequence.kv_length);
  switch (sequence.mask) {
    case AttentionMask::kCausal:
      return {0, causal_end, kNoTree, 0};
    case AttentionMask::kWindow:
      return {std::max(0, position - desc.window + 1), causal_end, kNoTree, 0};
    case AttentionMask::kFull:
      return {0, sequence.kv_length, kNoTree, 0};
    case AttentionMask::kTree:
      return {0, sequence.kv_length, sequence.slots_of_queries[0], TreeBits(sequence, row)};
  }
  return {0, 0, kNoTree, 0};
}

// The pages that the block's rows see are in the pool; others may be gone from the block table.
void CheckVisiblePages(const AttentionSequence& sequence, const VisibleRange& range,
                       const KvPages& pages) {
  const int64_t page_size = pages.k.dim(2);
  for (int64_t i = range.begin / page_size; i * page_size < range.end; ++i) {
    SLUICE_CHECK_GE(sequence.pages[i], 0);
    SLUICE_CHECK_LT(sequence.pages[i], pages.k.dim(0));
  }
}

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
            .head_dim = desc.head_dim,
            .scale = desc.scale,
            .scratch = scratch});
    rows = 0;
  };
  for (int i = block.begin; i < block.end; ++i) {
    const VisibleRange range = RangeOf(desc, *block.sequence, i);
    CheckVisiblePages(*block.sequence, range, pages);
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

template <class T>
void WriteRow(const float* from, T* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) {
    if constexpr (std::is_same_v<T, Bf16>) {
      to[i] = ToBf16(from[i]);
    } else {
      to[i] = from[i];
    }
  }
}

template <class T>
void WriteToken(ConstTensorView source, int64_t token, int64_t slot, TensorView pages) {
  const int64_t page_size = pages.dim(2);
  T* page = pages.data<T>() + slot / page_size * pages.stride(0);
  for (int64_t h = 0; h < pages.dim(1); ++h) {
    const float* from = source.data<float>() + token * source.stride(0) + h * source.stride(1);
    WriteRow(from, page + h * pages.stride(1) + slot % page_size * pages.dim(3), pages.dim(3));
  }
}

}  // namespace

bool AttentionSupports(const AttentionDesc& desc) {
  return desc.num_kv_heads >= 1 && desc.num_heads >= 1 && desc.num_heads % desc.num_kv_heads == 0 &&
         desc.head_dim >= 16 && desc.head_dim <= 256 && desc.head_dim % 8 == 0 && desc.window >= 0;
}

void KvWrite(ConstTensorView k, ConstTensorView v, ConstTensorView slots, const KvPages& pages,
             OpContext& context) {
  // A token's keys and values are a few KB.
  constexpr int64_t kTokenGrain = 16;
  CheckPages(pages);
  CheckRank("kv_write k", k, 3);
  const int64_t tokens = k.dim(0);
  CheckTensor("kv_write k", k, DType::kF32, {tokens, pages.k.dim(1), pages.k.dim(3)});
  CheckTensor("kv_write v", v, DType::kF32, {tokens, pages.k.dim(1), pages.k.dim(3)});
  CheckTensor("kv_write slots", slots, DType::kI64, {tokens});
  const int64_t* slot = slots.data<int64_t>();
  for (int64_t t = 0; t < tokens; ++t) {
    SLUICE_CHECK_GE(slot[t], 0);
    SLUICE_CHECK_LT(slot[t], pages.k.dim(0) * pages.k.dim(2));
  }
  context.pool.ParallelFor(tokens, kTokenGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      if (pages.k.dtype() == DType::kBF16) {
        WriteToken<Bf16>(k, t, slot[t], pages.k);
        WriteToken<Bf16>(v, t, slot[t], pages.v);
      } else {
        WriteToken<float>(k, t, slot[t], pages.k);
        WriteToken<float>(v, t, slot[t], pages.v);
      }
    }
  });
}

void Attention(const AttentionDesc& desc, ConstTensorView q,
               std::span<const AttentionSequence> sequences, const KvPages& pages, TensorView out,
               OpContext& context) {
  SLUICE_CHECK(AttentionSupports(desc));
  CheckPages(pages);
  CheckRank("attention q", q, 3);
  const int64_t tokens = q.dim(0);
  CheckTensor("attention q", q, DType::kF32, {tokens, desc.num_heads, desc.head_dim});
  CheckTensor("attention out", out, DType::kF32, {tokens, desc.num_heads, desc.head_dim});
  SLUICE_CHECK_EQ(pages.k.dim(1), desc.num_kv_heads);
  SLUICE_CHECK_EQ(pages.k.dim(3), desc.head_dim);
  for (const AttentionSequence& sequence : sequences) {
    CheckSequence(sequence, tokens, pages);
    if (sequence.mask == AttentionMask::kWindow) SLUICE_CHECK_GE(desc.window, 1);
  }
  const int64_t group = desc.num_heads / desc.num_kv_heads;
  const std::vector<Block> blocks = CutBlocks(sequences, desc.num_kv_heads, group);

  Arena::Scope scope(context.arena);
  const int64_t scratch_floats = AttentionScratchFloats(pages.k.dim(2), desc.head_dim);
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
