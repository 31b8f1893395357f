#include "ops/grouped_gemm/grouped_gemm.h"

#include <algorithm>

#include "ops/common/checks.h"
#include "ops/grouped_gemm/grouped_gemm_kernels.h"

namespace sluice::ops {
namespace {

int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

// A call whose arguments were checked.
struct Call {
  ConstTensorView x;
  const int32_t* gather;   // [rows], or null
  const int32_t* offsets;  // [groups + 1]
  const int32_t* slots;    // [groups]
  int64_t groups;
  int active_groups;
  const ExpertMatrix& matrix;
  ConstTensorView addend;
  TensorView out;
  bool swiglu;
  int64_t columns;  // of out
};

// What offsets, slots and gather hold: for host memory alone.
void CheckIndices(const Call& call) {
  const int64_t rows = call.out.dim(0);
  SLUICE_CHECK_EQ(call.offsets[0], 0);
  SLUICE_CHECK_EQ(call.offsets[call.groups], rows);
  for (int64_t g = 0; g < call.groups; ++g) {
    SLUICE_CHECK_LE(call.offsets[g], call.offsets[g + 1]);
    SLUICE_CHECK_GE(call.slots[g], -1);
  }
  for (int64_t r = 0; call.gather != nullptr && r < rows; ++r) {
    SLUICE_CHECK_GE(call.gather[r], 0);
    SLUICE_CHECK_LT(call.gather[r], call.x.dim(0));
  }
}

void CheckShapes(const Call& call, const OpContext& context) {
  const ExpertMatrix& matrix = call.matrix;
  const int64_t rows = call.out.dim(0);
  SLUICE_CHECK(matrix.dtype == DType::kF32 || matrix.dtype == DType::kBF16 ||
               matrix.dtype == DType::kF16);
  if (call.swiglu) SLUICE_CHECK_EQ(matrix.rows % 2, 0);
  CheckProductInput("grouped_gemm x", call.x, {call.x.dim(0), matrix.cols}, context);
  CheckProductInput("grouped_gemm out", call.out, {rows, call.columns}, context);
  if (call.gather == nullptr) SLUICE_CHECK_LE(rows, call.x.dim(0));
  if (!call.addend.empty()) {
    CheckTensor("grouped_gemm addend", call.addend, DType::kF32, {rows, matrix.rows});
  }
}

Call CheckedCall(const GroupedGemmDesc& desc, ConstTensorView x, ConstTensorView gather,
                 ConstTensorView offsets, ConstTensorView slots, const ExpertMatrix& matrix,
                 ConstTensorView addend, TensorView out, const OpContext& context) {
  CheckRank("grouped_gemm x", x, 2);
  CheckRank("grouped_gemm out", out, 2);
  CheckRank("grouped_gemm slots", slots, 1);
  const int64_t groups = slots.dim(0);
  CheckTensor("grouped_gemm slots", slots, DType::kI32, {groups});
  CheckTensor("grouped_gemm offsets", offsets, DType::kI32, {groups + 1});
  if (!gather.empty()) CheckTensor("grouped_gemm gather", gather, DType::kI32, {out.dim(0)});
  const bool swiglu = desc.epilogue == GroupedEpilogue::kSwiGlu;
  const Call call{
      .x = x,
      .gather = gather.empty() ? nullptr : gather.data<int32_t>(),
      .offsets = offsets.data<int32_t>(),
      .slots = slots.data<int32_t>(),
      .groups = groups,
      .active_groups = desc.active_groups > 0 ? desc.active_groups : static_cast<int>(groups),
      .matrix = matrix,
      .addend = addend,
      .out = out,
      .swiglu = swiglu,
      .columns = swiglu ? matrix.rows / 2 : matrix.rows};
  CheckShapes(call, context);
  return call;
}

[[maybe_unused]] cuda::GroupedParams CudaParams(const Call& call, const OpContext& context) {
  const bool added = !call.addend.empty();
  return {.x = call.x.raw(),
          .x_dtype = call.x.dtype(),
          .x_stride = call.x.stride(0),
          .gather = call.gather,
          .offsets = call.offsets,
          .slots = call.slots,
          .groups = static_cast<int>(call.groups),
          .active_groups = call.active_groups,
          .rows = call.out.dim(0),
          .slab = call.matrix.slab + call.matrix.offset,
          .slot_stride = call.matrix.slot_stride,
          .dtype = call.matrix.dtype,
          .depth = call.matrix.cols,
          .columns = call.columns,
          .swiglu = call.swiglu,
          .addend = added ? call.addend.data<float>() : nullptr,
          .addend_stride = added ? call.addend.stride(0) : 0,
          .out = call.out.raw(),
          .out_dtype = call.out.dtype(),
          .out_stride = call.out.stride(0),
          .batch_invariant = context.batch_invariant,
          .in_parts = context.batch_invariant && context.decoding_first};
}

// All rows of one group against one block of columns: the block's weights come from memory for the
// first rows and from cache for the others.
void RunBlock(const Call& call, int32_t group, int64_t column,
              void (*kernel)(const GroupedBlockParams&)) {
  const ExpertMatrix& matrix = call.matrix;
  const int64_t weight_stride = matrix.cols * static_cast<int64_t>(SizeOf(matrix.dtype));
  const std::byte* weights =
      matrix.slab + call.slots[group] * matrix.slot_stride + matrix.offset + column * weight_stride;
  const int64_t end = call.offsets[group + 1];
  for (int64_t row = call.offsets[group]; row < end; row += kGroupedBlockRows) {
    const int64_t row_count = std::min(kGroupedBlockRows, end - row);
    const float* x_rows[kGroupedBlockRows];
    for (int64_t i = 0; i < row_count; ++i) {
      const int64_t source = call.gather == nullptr ? row + i : call.gather[row + i];
      x_rows[i] = call.x.data<float>() + source * call.x.stride(0);
    }
    const float* addend = nullptr;
    if (!call.addend.empty()) {
      addend = call.addend.data<float>() + row * call.addend.stride(0) + column;
    }
    kernel({.x_rows = x_rows,
            .rows = row_count,
            .w = weights,
            .dtype = matrix.dtype,
            .columns = std::min(kGroupedBlockColumns, call.columns - column),
            .depth = matrix.cols,
            .swiglu = call.swiglu,
            .up_distance = call.swiglu ? call.columns : 0,
            .addend = addend,
            .addend_stride = addend == nullptr ? 0 : call.addend.stride(0),
            .out = call.out.data<float>() + row * call.out.stride(0) + column,
            .out_stride = call.out.stride(0)});
  }
}

}  // namespace

void GroupedGemm(const GroupedGemmDesc& desc, ConstTensorView x, ConstTensorView gather,
                 ConstTensorView offsets, ConstTensorView slots, const ExpertMatrix& matrix,
                 ConstTensorView addend, TensorView out, OpContext& context) {
  const Call call = CheckedCall(desc, x, gather, offsets, slots, matrix, addend, out, context);
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      SLUICE_CHECK(x.dtype() == DType::kF32 || x.dtype() == matrix.dtype);
      SLUICE_CHECK(out.dtype() == DType::kF32 || out.dtype() == matrix.dtype);
      cuda::GroupedGemm(CudaParams(call, context), *context.cuda);
      return;
    }
  }
  CheckIndices(call);
  Arena::Scope scope(context.arena);
  int32_t* active = context.arena.Allocate(DType::kI32, {call.groups}).data<int32_t>();
  int64_t active_count = 0;
  for (int32_t g = 0; g < call.groups; ++g) {
    if (call.slots[g] >= 0 && call.offsets[g + 1] > call.offsets[g]) active[active_count++] = g;
  }
  const auto kernel = context.reference ? &reference::GroupedBlock
                                        : SLUICE_TIER_FUNCTION(context.tier, GroupedBlock);
  const int64_t column_blocks = CeilDiv(call.columns, kGroupedBlockColumns);
  context.pool.ParallelFor(active_count * column_blocks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block) {
      RunBlock(call, active[block / column_blocks], block % column_blocks * kGroupedBlockColumns,
               kernel);
    }
  });
}

}  // namespace sluice::ops
