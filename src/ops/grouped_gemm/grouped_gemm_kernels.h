#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cuda_stream.h"
#include "device/dtype.h"
#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

// Bounds of one call of a block kernel. Rows as in gemm_kernels.h; with the columns they keep the
// sums of a SwiGLU block (gate and up) at 32 KB, in the first-level cache.
inline constexpr int64_t kGroupedBlockRows = 128;
inline constexpr int64_t kGroupedBlockColumns = 32;

// A block of one group: `rows` rows of x against `columns` rows of the group's matrix and, for
// SwiGLU, the `columns` rows of its upper half beside them.
struct GroupedBlockParams {
  const float* const* x_rows;  // [rows] pointers to K values
  int64_t rows;                // at most kGroupedBlockRows
  const std::byte* w;          // [columns, depth], dense
  DType dtype;
  int64_t columns;  // at most kGroupedBlockColumns
  int64_t depth;    // K
  bool swiglu;
  int64_t up_distance;  // for SwiGLU: rows of w, columns of addend, from a gate to its up
  const float* addend;  // [rows, columns], or null
  int64_t addend_stride;
  float* out;  // [rows, columns]
  int64_t out_stride;
};

namespace reference {
void GroupedBlock(const GroupedBlockParams& params);
}
SLUICE_DECLARE_IN_TIERS(void GroupedBlock(const GroupedBlockParams& params))

namespace cuda {

// A whole call of GroupedGemm.
struct GroupedParams {
  const void* x;
  DType x_dtype;
  int64_t x_stride;
  const int32_t* gather;   // [rows], or null
  const int32_t* offsets;  // [groups + 1]
  const int32_t* slots;    // [groups]
  int groups;
  int active_groups;  // those that have a slot, at most
  int64_t rows;
  const std::byte* slab;  // of slot 0's matrix
  int64_t slot_stride;    // bytes
  DType dtype;
  int64_t depth;    // K
  int64_t columns;  // of out
  bool swiglu;      // the up rows stand `columns` behind the gate rows
  const float* addend;
  int64_t addend_stride;
  void* out;
  DType out_dtype;
  int64_t out_stride;
  bool batch_invariant;  // the order of a sum does not depend on the rows of groups
  // It is that of few rows then: K is shared out to PartsOfK, each summed up from zero, and the
  // parts are added in their order.
  bool in_parts;
};

inline constexpr int kChunkOfK = 64;  // elements that a part takes at a time

// The parts that K is shared out to: part i takes chunks i, i + parts, i + 2 parts, ...
inline int PartsOfK(int64_t depth) {
  constexpr int kMostParts = 8;
  constexpr int64_t kMinChunks = 3;  // of a part
  const int64_t chunks = (depth + kChunkOfK - 1) / kChunkOfK;
  int parts = kMostParts;
  while (parts > 1 && chunks < parts * kMinChunks) parts /= 2;
  return parts;
}
// x and out are f32 or of the weights' dtype.
void GroupedGemm(const GroupedParams& params, CudaStream& stream);

}  // namespace cuda

}  // namespace sluice::ops
