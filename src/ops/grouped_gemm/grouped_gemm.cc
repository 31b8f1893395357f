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
  std::span<const int32_t> gather;
  std::span<const int32_t> offsets;
  std::span<const int32_t> slots;
  const ExpertMatrix& matrix;
  ConstTensorView addend;
  TensorView out;
  bool swiglu;
  int64_t columns;  // of out
};

void CheckSpans(const Call& call, int64_t rows) {
  SLUICE_CHECK_EQ(call.offsets.size(), call.slots.size() + 1);
  SLUICE_CHECK_EQ(call.offsets.front(), 0);
  SLUICE_CHECK_EQ(call.offsets.back(), rows);
  for (size_t g = 0; g < call.slots.size(); ++g) {
    SLUICE_CHECK_LE(call.offsets[g], call.offsets[g + 1]);
    SLUICE_CHECK_GE(call.slots[g], -1);
  }
  if (call.gather.empty()) {
    SLUICE_CHECK_LE(rows, call.x.dim(0));
    return;
  }
  SLUICE_CHECK_EQ(static_cast<int64_t>(call.gather.size()), rows);
  for (const int32_t row : call.gather) {
    SLUICE_CHECK_GE(row, 0);
    SLUICE_CHECK_LT(row, call.x.dim(0));
  }
}

void CheckCall(const Call& call) {
  const ExpertMatrix& matrix = call.matrix;
  const int64_t rows = call.out.dim(0);
  SLUICE_CHECK(matrix.dtype == DType::kF32 || matrix.dtype == DType::kBF16 ||
               matrix.dtype == DType::kF16);
  if (call.swiglu) SLUICE_CHECK_EQ(matrix.rows % 2, 0);
  CheckTensor("grouped_gemm x", call.x, DType::kF32, {call.x.dim(0), matrix.cols});
  CheckTensor("grouped_gemm out", call.out, DType::kF32, {rows, call.columns});
  if (!call.addend.empty()) {
    CheckTensor("grouped_gemm addend", call.addend, DType::kF32, {rows, matrix.rows});
  }
  CheckSpans(call, rows);
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
      const int64_t source = call.gather.empty() ? row + i : call.gather[row + i];
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

void GroupedGemm(const GroupedGemmDesc& desc, ConstTensorView x, std::span<const int32_t> gather,
                 std::span<const int32_t> offsets, std::span<const int32_t> slots,
                 const ExpertMatrix& matrix, ConstTensorView addend, TensorView out,
                 OpContext& context) {
  CheckRank("grouped_gemm x", x, 2);
  CheckRank("grouped_gemm out", out, 2);
  const bool swiglu = desc.epilogue == GroupedEpilogue::kSwiGlu;
  const int64_t columns = swiglu ? matrix.rows / 2 : matrix.rows;
  const Call call{x, gather, offsets, slots, matrix, addend, out, swiglu, columns};
  CheckCall(call);

  Arena::Scope scope(context.arena);
  const int64_t groups = static_cast<int64_t>(slots.size());
  int32_t* active = context.arena.Allocate(DType::kI32, {groups}).data<int32_t>();
  int64_t active_count = 0;
  for (int32_t g = 0; g < groups; ++g) {
    if (slots[g] >= 0 && offsets[g + 1] > offsets[g]) active[active_count++] = g;
  }
  const auto kernel = context.reference ? &reference::GroupedBlock
                                        : SLUICE_TIER_FUNCTION(context.tier, GroupedBlock);
  const int64_t column_blocks = CeilDiv(columns, kGroupedBlockColumns);
  context.pool.ParallelFor(active_count * column_blocks, 1, [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block) {
      RunBlock(call, active[block / column_blocks], block % column_blocks * kGroupedBlockColumns,
               kernel);
    }
  });
}

}  // namespace sluice::ops
