#pragma once

#include <cstdint>
#include <span>

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// Which KV positions a query row at absolute position p sees.
enum class AttentionMask {
  kCausal,  // [0, p]; in layers with a window (p - window, p]
  kFull,    // [0, kv_length)
  kTree,    // all before the step's first slot, and the row's ancestors among the step's rows
};

// One sequence's query rows of this step: rows [query_begin, query_begin + query_count) of q and
// out. The spans stay the caller's.
struct AttentionSequence {
  int query_begin;
  int query_count;
  std::span<const int32_t> positions;  // [query_count] absolute
  std::span<const int32_t> pages;      // page of KV positions [i * page_size, (i + 1) * page_size)
  int kv_length;  // KV positions [0, kv_length) are in the pages, this step's included
  AttentionMask mask;
  // For kTree, at most 64 rows: bit i says that the step's row i (the row itself included) is seen.
  std::span<const uint64_t> ancestors;  // [query_count]
  // KV position at which each row's K and V were written; kTree reads it.
  std::span<const int32_t> slots_of_queries;  // [query_count]
};

// The sequences as kernels read them: S of them with T rows together. They are copied before the
// step's first kernel, so that attention kernels may read them before WaitForEarlier.
struct PlacedSequences {
  ConstTensorView query_begin;      // [S + 1] i32; the last entry is T
  ConstTensorView sequence_of_row;  // [T] i32
  ConstTensorView positions;        // [T] i32
  ConstTensorView page_table;       // [S, max_pages] i32; what lies behind a sequence's pages is 0
  ConstTensorView kv_lengths;       // [S] i32
  ConstTensorView masks;            // [S] i32, AttentionMask
  // [T] i64 bits, of kTree rows: bit i says that KV position i + the sequence's first slot is seen.
  ConstTensorView ancestors;
  ConstTensorView slots_of_queries;  // [T] i32; 0 where the mask is not kTree
  TensorView counters;               // [S, n] i32 zeros: kernels count up in them and leave zeros
  int max_query_count = 0;
  int max_kv_length = 0;
  bool any_tree = false;
};

// What a step's attention calls run over, the same for every layer. The span stays the caller's.
struct AttentionBatch {
  std::span<const AttentionSequence> sequences;
  PlacedSequences placed;  // filled on CUDA alone
};

// The sequences as a batch, made once a step. Behind each other they must cover rows [0, T). On
// CUDA the tables are a piece of the context's inbox; page tables are cut to their width's next
// power of two, so that addresses stay the same while the batch's size and that width do.
AttentionBatch PlaceSequences(std::span<const AttentionSequence> sequences, OpContext& context);

}  // namespace sluice::ops
