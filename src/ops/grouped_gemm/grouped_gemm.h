#pragma once

#include <cstddef>
#include <cstdint>

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

enum class GroupedEpilogue {
  kNone,
  kSwiGlu,  // silu(gate) * up, halving the width
};

// One matrix of every expert of a layer, as it lies in the slots of a slab. Slot s holds its
// [rows, cols] matrix, dense, at slab + s * slot_stride + offset.
struct ExpertMatrix {
  const std::byte* slab;
  int64_t slot_stride;  // bytes
  int64_t offset;       // bytes within the slot
  DType dtype;          // f32, bf16 or f16; the address of a matrix is a multiple of its size
  int64_t rows;         // N; for kSwiGlu 2F: F gate rows, then F up rows
  int64_t cols;         // K
};

struct GroupedGemmDesc {
  GroupedEpilogue epilogue;
  int active_groups = 0;  // groups that have a slot, at most; 0 = all. A device is filled by it.
};

// out[r] = epilogue(matrix(slot of r's group) x[gather[r]] + addend[r]) for the rows of each group.
// Sums run as in Gemm. Each active group's weights are read from memory once a call; a group
// without rows costs nothing.
//
// On CUDA x and out may also be bf16 or f16, the inputs of products, if the matrix has that dtype;
// nothing is read on the host: there gather, offsets and slots are trusted, and out of their ranges
// read wrong memory.
void GroupedGemm(const GroupedGemmDesc& desc,
                 ConstTensorView x,        // [*, K] f32, row stride free
                 ConstTensorView gather,   // [R] i32 row of x, or empty(): row r itself
                 ConstTensorView offsets,  // [G + 1] i32 ascending from 0 to R; rows of each group
                 ConstTensorView slots,    // [G] i32 slot, or -1: the group's rows are skipped
                 const ExpertMatrix& matrix,
                 ConstTensorView addend,  // [R, N] f32, added before the epilogue; or empty()
                 TensorView out,          // [R, N] f32, for kSwiGlu [R, N / 2]; row stride free
                 OpContext& context);

}  // namespace sluice::ops
