#include "ops/gemm/gemm.h"

#include <algorithm>

#include "base/check.h"
#include "ops/activation/silu_mul.h"
#include "ops/common/checks.h"
#include "ops/gemm/gemm_arguments.h"
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

// Without an epilogue.
void GemmOnCpu(bool accumulate, ConstTensorView x, ConstTensorView w, ConstTensorView bias,
               TensorView out, OpContext& context) {
  const int64_t rows = x.dim(0);
  const int64_t columns = w.dim(0);
  const int64_t depth = w.dim(1);
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
            .accumulate = accumulate,
            .out = out.data<float>() + row * out.stride(0) + column,
            .out_stride = out.stride(0)});
  };
  const int64_t blocks = row_blocks * CeilDiv(columns, block_columns);
  const int64_t grain = rows * columns * depth <= kSmallWork ? blocks : 1;
  context.pool.ParallelFor(blocks, grain, [&](int64_t begin, int64_t end, int) {
    for (int64_t block = begin; block < end; ++block) run_block(block);
  });
}

void GemmThenSwiGlu(ConstTensorView x, ConstTensorView w, ConstTensorView bias, TensorView out,
                    OpContext& context) {
  const Arena::Scope scope(context.arena);
  const TensorView gate_up = context.arena.Allocate(DType::kF32, {x.dim(0), w.dim(0)});
  Gemm({}, x, w, bias, gate_up, context);
  SiluMul(gate_up, out, context);
}

}  // namespace

void CheckGemm(const GemmDesc& desc, ConstTensorView x, ConstTensorView w, ConstTensorView bias,
               TensorView out, OpContext& context) {
  CheckRank("gemm x", x, 2);
  CheckRank("gemm w", w, 2);
  CheckRank("gemm out", out, 2);
  const bool swiglu = desc.epilogue == GemmEpilogue::kSwiGlu;
  const int64_t rows = x.dim(0);
  const int64_t columns = swiglu ? out.dim(1) : w.dim(0);
  const int64_t depth = w.dim(1);
  CheckProductInput("gemm x", x, {rows, depth}, context);
  CheckWeights("gemm w", w, {swiglu ? 2 * columns : columns, depth});
  if (!bias.empty()) CheckTensor("gemm bias", bias, DType::kF32, {w.dim(0)});
  if (swiglu) {
    SLUICE_CHECK(!desc.accumulate);
    CheckProductInput("gemm out", out, {rows, columns}, context);
  } else {
    CheckTensor("gemm out", out, DType::kF32, {rows, columns});
  }
}

cuda::GemmParams CudaParams(const GemmDesc& desc, ConstTensorView x, ConstTensorView w,
                            ConstTensorView bias, TensorView out, const OpContext& context) {
  return {.x = x.raw(),
          .x_dtype = x.dtype(),
          .x_stride = x.stride(0),
          .x_head_stride = 0,
          .w = w.raw(),
          .w_dtype = w.dtype(),
          .bias = bias.empty() ? nullptr : bias.data<float>(),
          .accumulate = desc.accumulate,
          .swiglu = desc.epilogue == GemmEpilogue::kSwiGlu,
          .out = out.raw(),
          .out_dtype = out.dtype(),
          .out_stride = out.stride(0),
          .out_head_stride = 0,
          .rows = x.dim(0),
          .columns = out.dim(1),
          .depth = w.dim(1),
          .heads = 1,
          .batch_invariant = context.batch_invariant};
}

void Gemm(const GemmDesc& desc, ConstTensorView x, ConstTensorView w, ConstTensorView bias,
          TensorView out, OpContext& context) {
  CheckGemm(desc, x, w, bias, out, context);
  if (out.NumElements() == 0) return;
  const bool swiglu = desc.epilogue == GemmEpilogue::kSwiGlu;
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      const cuda::GemmParams params = CudaParams(desc, x, w, bias, out, context);
      if (!swiglu || cuda::FusesSwiGlu(params)) {
        return cuda::Gemm(params, context.arena, *context.cuda);
      }
    }
  }
  if (swiglu) return GemmThenSwiGlu(x, w, bias, out, context);
  GemmOnCpu(desc.accumulate, x, w, bias, out, context);
}

}  // namespace sluice::ops
