#pragma once

#include <cstdint>

#include "device/tensor.h"
#include "ops/attention/attention_batch.h"
#include "ops/attention/attention_kernels.h"

// What the attention ops share: what a sequence's query rows see, and writing to pages.
namespace sluice::ops {

// Checks a sequence of a call with `tokens` query rows over pages of `page_size` positions.
// `window` is the layer's.
void CheckSequence(const AttentionSequence& sequence, int window, int64_t tokens,
                   int64_t page_size);

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

// Slots are those of `num_slots` positions.
void CheckSlots(ConstTensorView slots, int64_t num_slots);  // [T] i64

// Stores `count` floats as f32 or bf16 from element `first` of `memory` on.
void StoreKvRow(const float* from, int64_t count, void* memory, DType dtype, int64_t first);

}  // namespace sluice::ops
