#include "ops/attention/attention_sequences.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "ops/common/checks.h"
#include "quant/float_formats.h"

namespace sluice::ops {
namespace {

constexpr int64_t kMaxTreeRows = 64;
constexpr int32_t kNoTree = std::numeric_limits<int32_t>::max();

void CheckSequence(const AttentionSequence& sequence, int window, int64_t tokens,
                   int64_t page_size) {
  SLUICE_CHECK_GE(sequence.query_begin, 0);
  SLUICE_CHECK_GE(sequence.query_count, 0);
  SLUICE_CHECK_LE(sequence.query_begin + sequence.query_count, tokens);
  SLUICE_CHECK_EQ(static_cast<int>(sequence.positions.size()), sequence.query_count);
  const int64_t capacity = static_cast<int64_t>(sequence.pages.size()) * page_size;
  SLUICE_CHECK_LE(sequence.kv_length, capacity);
  SLUICE_CHECK(window == 0 || sequence.mask == AttentionMask::kCausal);
  CheckTree(sequence);
}

}  // namespace

void CheckBatch(const AttentionBatch& batch, int window, int64_t tokens, int64_t page_size,
                const OpContext& context) {
  for (const AttentionSequence& sequence : batch.sequences) {
    CheckSequence(sequence, window, tokens, page_size);
  }
  if (!context.OnCuda()) return;
  SLUICE_CHECK_EQ(batch.placed.kv_lengths.NumElements(), std::ssize(batch.sequences));
  SLUICE_CHECK_LE(batch.placed.positions.NumElements(), tokens);
}

cuda::SequenceTables TablesOf(const PlacedSequences& placed) {
  return {.query_begin = placed.query_begin.data<int32_t>(),
          .sequence_of_row = placed.sequence_of_row.data<int32_t>(),
          .positions = placed.positions.data<int32_t>(),
          .page_table = placed.page_table.data<int32_t>(),
          .kv_lengths = placed.kv_lengths.data<int32_t>(),
          .masks = placed.masks.data<int32_t>(),
          .ancestors = placed.ancestors.data<int64_t>(),
          .slots_of_queries = placed.slots_of_queries.data<int32_t>(),
          .counters = placed.counters.data<int32_t>(),
          .sequences = static_cast<int32_t>(placed.kv_lengths.NumElements()),
          .rows = static_cast<int32_t>(placed.positions.NumElements()),
          .max_pages = static_cast<int32_t>(placed.page_table.dim(1)),
          .max_query_count = placed.max_query_count,
          .max_kv_length = placed.max_kv_length};
}

void CheckTree(const AttentionSequence& sequence) {
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

uint64_t TreeBits(const AttentionSequence& sequence, int row) {
  uint64_t bits = 0;
  for (int i = 0; i < sequence.query_count; ++i) {
    if (((sequence.ancestors[row] >> i) & 1u) == 0) continue;
    bits |= uint64_t{1} << (sequence.slots_of_queries[i] - sequence.slots_of_queries[0]);
  }
  return bits;
}

VisibleRange VisibleRangeOf(const AttentionSequence& sequence, int window, int row) {
  const int32_t position = sequence.positions[row];
  const int32_t causal_end = std::min(position + 1, sequence.kv_length);
  switch (sequence.mask) {
    case AttentionMask::kCausal:
      return {window == 0 ? 0 : std::max(0, position - window + 1), causal_end, kNoTree, 0};
    case AttentionMask::kFull:
      return {0, sequence.kv_length, kNoTree, 0};
    case AttentionMask::kTree:
      return {0, sequence.kv_length, sequence.slots_of_queries[0], TreeBits(sequence, row)};
  }
  return {0, 0, kNoTree, 0};
}

void CheckVisiblePages(const AttentionSequence& sequence, const VisibleRange& range,
                       int64_t page_size, int64_t num_pages) {
  for (int64_t i = range.begin / page_size; i * page_size < range.end; ++i) {
    SLUICE_CHECK_GE(sequence.pages[i], 0);
    SLUICE_CHECK_LT(sequence.pages[i], num_pages);
  }
}

int32_t PageShift(int64_t page_size) {
  const auto size = static_cast<uint64_t>(page_size);
  return std::has_single_bit(size) ? std::countr_zero(size) : -1;
}

void CheckKvPages(const KvPages& pages) {
  CheckRank("attention k pages", pages.k, 4);
  SLUICE_CHECK(pages.k.dtype() == DType::kF32 || pages.k.dtype() == DType::kBF16);
  SLUICE_CHECK_EQ(pages.k.dtype(), pages.v.dtype());
  SLUICE_CHECK_EQ(pages.k.shape(), pages.v.shape());
  SLUICE_CHECK(pages.k.IsContiguous() && pages.v.IsContiguous());
}

void CheckLatentPages(ConstTensorView pages, int64_t width) {
  CheckRank("latent pages", pages, 3);
  SLUICE_CHECK(pages.dtype() == DType::kF32 || pages.dtype() == DType::kBF16);
  SLUICE_CHECK_EQ(pages.dim(2), width);
  SLUICE_CHECK(pages.IsContiguous());
}

void CheckSlots(ConstTensorView slots, int64_t num_slots) {
  const int64_t* slot = slots.data<int64_t>();
  for (int64_t t = 0; t < slots.dim(0); ++t) {
    SLUICE_CHECK_LT(slot[t], num_slots);
  }
}

void StoreKvRow(const float* from, int64_t count, void* memory, DType dtype, int64_t first) {
  if (dtype == DType::kF32) {
    std::copy_n(from, count, static_cast<float*>(memory) + first);
    return;
  }
  SLUICE_CHECK(dtype == DType::kBF16);
  Bf16* to = static_cast<Bf16*>(memory) + first;
  for (int64_t i = 0; i < count; ++i) to[i] = ToBf16(from[i]);
}

}  // namespace sluice::ops
