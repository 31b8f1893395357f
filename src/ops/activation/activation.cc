#include <algorithm>

#include "ops/activation/activation_kernels.h"
#include "ops/activation/gated_add.h"
#include "ops/activation/silu_mul.h"
#include "ops/common/checks.h"

namespace sluice::ops {
namespace {

// Elements a thread takes at a time, a few microseconds of work.
constexpr int64_t kElementGrain = 16'384;

int64_t RowGrain(int64_t width) {
  return std::max<int64_t>(1, kElementGrain / std::max<int64_t>(1, width));
}

}  // namespace

void SiluMul(ConstTensorView gate_up, TensorView out, OpContext& context) {
  CheckRank("silu_mul out", out, 2);
  const int64_t rows = out.dim(0);
  const int64_t width = out.dim(1);
  CheckTensor("silu_mul gate_up", gate_up, DType::kF32, {rows, 2 * width});
  CheckProductInput("silu_mul out", out, {rows, width}, context);
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::SiluMul({.gate_up = gate_up.data<float>(),
                     .gate_up_stride = gate_up.stride(0),
                     .out = out.raw(),
                     .out_dtype = out.dtype(),
                     .out_stride = out.stride(0),
                     .rows = rows,
                     .width = width},
                    *context.cuda);
      return;
    }
  }
  const auto kernel =
      context.reference ? &reference::SiluMulRow : SLUICE_TIER_FUNCTION(context.tier, SiluMulRow);
  context.pool.ParallelFor(rows, RowGrain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      const float* gate = gate_up.data<float>() + t * gate_up.stride(0);
      kernel(gate, gate + width, out.data<float>() + t * out.stride(0), width);
    }
  });
}

void SigmoidGatedAdd(ConstTensorView gate, ConstTensorView y, TensorView out, OpContext& context) {
  CheckRank("gated_add out", out, 2);
  const int64_t rows = out.dim(0);
  const int64_t width = out.dim(1);
  CheckTensor("gated_add gate", gate, DType::kF32, {rows, 1});
  CheckTensor("gated_add y", y, DType::kF32, {rows, width});
  CheckTensor("gated_add out", out, DType::kF32, {rows, width});
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::SigmoidGatedAdd({.gate = gate.data<float>(),
                             .gate_stride = gate.stride(0),
                             .y = y.data<float>(),
                             .y_stride = y.stride(0),
                             .out = out.data<float>(),
                             .out_stride = out.stride(0),
                             .rows = rows,
                             .width = width},
                            *context.cuda);
      return;
    }
  }
  const auto kernel = context.reference ? &reference::SigmoidGatedAddRow
                                        : SLUICE_TIER_FUNCTION(context.tier, SigmoidGatedAddRow);
  context.pool.ParallelFor(rows, RowGrain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      kernel(gate.data<float>()[t * gate.stride(0)], y.data<float>() + t * y.stride(0),
             out.data<float>() + t * out.stride(0), width);
    }
  });
}

void Add(ConstTensorView y, TensorView out, OpContext& context) {
  CheckRank("add out", out, 2);
  const int64_t rows = out.dim(0);
  const int64_t width = out.dim(1);
  CheckTensor("add y", y, DType::kF32, {rows, width});
  CheckTensor("add out", out, DType::kF32, {rows, width});
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::Add({.gate = nullptr,
                 .gate_stride = 0,
                 .y = y.data<float>(),
                 .y_stride = y.stride(0),
                 .out = out.data<float>(),
                 .out_stride = out.stride(0),
                 .rows = rows,
                 .width = width},
                *context.cuda);
      return;
    }
  }
  const auto kernel =
      context.reference ? &reference::AddRow : SLUICE_TIER_FUNCTION(context.tier, AddRow);
  context.pool.ParallelFor(rows, RowGrain(width), [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      kernel(y.data<float>() + t * y.stride(0), out.data<float>() + t * out.stride(0), width);
    }
  });
}

}  // namespace sluice::ops
