#include "ops/gemm/head_gemm.h"

#include <algorithm>

#include "ops/common/checks.h"
#include "ops/gemm/gemm_kernels.h"

namespace sluice::ops {
namespace {

// Rows of a head's matrix in one block: with a chunk of K they stay in the second-level cache.
constexpr int64_t kBlockColumns = 64;
// Multiply-adds below which a block of its own costs a thread more than it saves.
constexpr int64_t kSmallWork = 32'768;

int64_t CeilDiv(int64_t a, int64_t b) {
  return (a + b - 1) / b;
}

}  // namespace

void HeadGemm(ConstTensorView x, ConstTensorView w, TensorView out, OpContext& context) {
  CheckRank("head_gemm x", x, 3);
  CheckRank("head_gemm w", w, 3);
  const int64_t tokens = x.dim(0);
  const int64_t heads = w.dim(0);
  const int64_t columns = w.dim(1);
  const int64_t depth = w.dim(2);
  CheckProductInput("head_gemm x", x, {tokens, heads, depth}, context);
  CheckWeights("head_gemm w", w, {heads, columns, depth});
  CheckTensor("head_gemm out", out, DType::kF32, {tokens, heads, columns});
  if (tokens == 0 || columns == 0) return;
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::Gemm({.x = x.raw(),
                  .x_dtype = x.dtype(),
                  .x_stride = x.stride(0),
                  .x_head_stride = x.stride(1),
                  .w = w.raw(),
                  .w_dtype = w.dtype(),
                  .bias = nullptr,
                  .accumulate = false,
                  .out = out.data<float>(),
                  .out_stride = out.stride(0),
                  .out_head_stride = out.stride(1),
                  .rows = tokens,
                  .columns = columns,
                  .depth = depth,
                  .heads = heads,
                  .batch_invariant = context.batch_invariant},
                 context.arena, *context.cuda);
      return;
    }
  }

  const auto kernel =
      context.reference ? &reference::GemmBlock : SLUICE_TIER_FUNCTION(context.tier, GemmBlock);
  const int64_t row_blocks = CeilDiv(tokens, kGemmBlockRows);
  const int64_t column_blocks = CeilDiv(columns, kBlockColumns);
  const int64_t weight_stride = depth * static_cast<int64_t>(SizeOf(w.dtype()));
  const auto run_block = [&](int64_t block) {
    const int64_t row = block % row_blocks * kGemmBlockRows;
    const int64_t column = block / row_blocks % column_blocks * kBlockColumns;
    const int64_t head = block / row_blocks / column_blocks;
    const int64_t row_count = std::min(kGemmBlockRows, tokens - row);
    const float* x_rows[kGemmBlockRows];
    for (int64_t i = 0; i < row_count; ++i) {
      x_rows[i] = x.data<float>() + (row + i) * x.stride(0) + head * x.stride(1);
    }
    const int64_t first = head * columns + column;
    kernel({.x_rows = x_rows,
            .rows = row_count,
            .w = static_cast<const std::byte*>(w.raw()) + first * weight_stride,
            .dtype = w.dtype(),
            .columns = std::min(kBlockColumns, columns - column),
            .depth = depth,
            .bias = nullptr,
            .accumulate = false,
            .out = out.data<float>() + row * out.stride(0) + head * out.stride(1) + column,
            .out_stride = out.stride(0)});
  };
  const int64_t work = std::min(tokens, kGemmBlockRows) * std::min(columns, kBlockColumns) * depth;
  const int64_t grain = CeilDiv(kSmallWork, std::max<int64_t>(1, work));
  context.pool.ParallelFor(heads * column_blocks * row_blocks, grain,
                           [&](int64_t begin, int64_t end, int) {
                             for (int64_t block = begin; block < end; ++block) run_block(block);
                           });
}

}  // namespace sluice::ops
