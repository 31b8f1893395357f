#pragma once

#include <cstdint>

#include "device/tensor.h"
#include "ops/attention/attention.h"
#include "ops/attention/attention_batch.h"
#include "ops/attention/attention_kernels.h"

// What the attention ops share: what a sequence's query rows see, and writing to pages.
namespace sluice::ops {

// Checks what only kTree reads.
void CheckTree(const AttentionSequence& sequence);

// The row's ancestors as bits of KV positions from the sequence's first slot on.
uint64_t TreeBits(const AttentionSequence& sequence, int row);

// What the sequence's row `row` sees in a layer with `window` (0: none).
VisibleRange VisibleRangeOf(const AttentionSequence& sequence, int window, int row);

// The pages that a row sees are among the pool's `num_pages`; others may be gone from the block
// table.
void CheckVisiblePages(const AttentionSequence& sequence, const VisibleRange& range,
                       int64_t page_size, int64_t num_pages);

// Checks the sequences of a call with `tokens` query rows, and that the batch was placed for the
// device where there is one. `window` is the layer's.
void CheckBatch(const AttentionBatch& batch, int window, int64_t tokens, int64_t page_size,
                const OpContext& context);

// The batch as kernels take it.
cuda::SequenceTables TablesOf(const PlacedSequences& placed);

// The logarithm of a page size that is a power of two, or -1.
int32_t PageShift(int64_t page_size);

// f32 or bf16, contiguous, and alike: what a KvPages promises.
void CheckKvPages(const KvPages& pages);

// Latent pages of rows of `width` numbers.
void CheckLatentPages(ConstTensorView pages, int64_t width);

// Slots are those of `num_slots` positions, or negative.
void CheckSlots(ConstTensorView slots, int64_t num_slots);  // [T] i64

// Stores `count` floats as f32 or bf16 from element `first` of `memory` on.
void StoreKvRow(const float* from, int64_t count, void* memory, DType dtype, int64_t first);

}  // namespace sluice::ops
