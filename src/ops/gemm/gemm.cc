#include "ops/gemm/gemm.h"

#include <algorithm>

#include "ops/common/checks.h"
#include "ops/gemm/gemm_kernels.h"

namespace sluice::ops {
namespace {

// Widths of a block in rows of w. The upper bound keeps a block's chunk of weights in the
// second-level cache; the lower one is the widest register tile of a tier.
constexpr int64_t kMinBlockColumns = 8;
constexpr int64_t kMaxBlockColumns = 64;
// Blocks a thread should find, so that an uneven start evens out.
constexpr int64_t kBlocksPerThread = 8;
// Multiply-adds below which waking a thread costs more than it saves.
constexpr int64_t kSmallWork = 32'768;

int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

int64_t BlockColumns(int64_t columns, int threads) {
  const int64_t share = CeilDiv(columns, threads * kBlocksPerThread);
  const int64_t rounded = CeilDiv(share, kMinBlockColumns) * kMinBlockColumns;
  return std::clamp(rounded, kMinBlockColumns, kMaxBlockColumns);
}

}  // namespace

void Gemm(const GemmDesc& desc, ConstTensorView x, ConstTensorView w, ConstTensorView bias,
          TensorView out, OpContext& context) {
  CheckRank("gemm x", x, 2);
  CheckRank("gemm w", w, 2);
  const int64_t rows = x.dim(0);
  const int64_t columns = w.dim(0);
  const int64_t depth = w.dim(1);
  CheckProductInput("gemm x", x, {rows, depth}, context);
  CheckWeights("gemm w", w, {columns, depth});
  if (!bias.empty()) CheckTensor("gemm bias", bias, DType::kF32, {columns});
  CheckTensor("gemm out", out, DType::kF32, {rows, columns});
  if (rows == 0 || columns == 0) return;
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::Gemm({.x = x.raw(),
                  .x_dtype = x.dtype(),
                  .x_stride = x.stride(0),
                  .x_head_stride = 0,
                  .w = w.raw(),
                  .w_dtype = w.dtype(),
                  .bias = bias.empty() ? nullptr : bias.data<float>(),
                  .accumulate = desc.accumulate,
                  .out = out.data<float>(),
                  .out_stride = out.stride(0),
                  .out_head_stride = 0,
                  .rows = rows,
                  .columns = columns,
                  .depth = depth,
                  .heads = 1},
                 context.arena, *context.cuda);
      return;
    }
  }

  const auto kernel =
      context.reference ? &reference::GemmBlock : SLUICE_TIER_FUNCTION(context.tier, GemmBlock);
  const int64_t block_columns = BlockColumns(columns, context.pool.num_threads());
  const int64_t row_blocks = CeilDiv(rows, kGemmBlockRows);
  const int64_t weight_stride = depth * static_cast<int64_t>(SizeOf(w.dtype()));
  const auto run_block = [&](int64_t block) {
    const int64_t row = block % row_blocks * kGemmBlockRows;
    const int64_t column = block / row_blocks * block_columns;
    const int64_t row_count = std::min(kGemmBlockRows, rows - row);
    const float* x_rows[kGemmBlockRows];
    for (int64_t i = 0; i < row_count; ++i) {
      x_rows[i] = x.data<float>() + (row + i) * x.stride(0);
    }
    kernel({.x_rows = x_rows,
            .rows = row_count,
            .w = static_cast<const std::byte*>(w.raw()) + column * weight_stride,
            .dtype = w.dtype(),
            .columns = std::min(block_columns, columns - column),
            .depth = depth,
            .bias = bias.empty() ? nullptr : bias.data<float>() + column,
            .accumulate = desc.accumulate,
            .out = out.data<float>() + row * out.stride(0) + column,
            .out_stride = out.stride(0)});
  };
  const int64_t blocks = row_blocks * CeilDiv(columns, block_columns);
  const int64_t grain = rows * columns * depth <= kSmallWork ? blocks : 1;
  context.pool.ParallelFor(blocks, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block) run_block(block);
  });
}

}  // namespace sluice::ops
