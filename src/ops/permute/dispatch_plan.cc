#include "ops/permute/dispatch_plan.h"

#include <algorithm>

#include "ops/common/checks.h"
#include "ops/permute/dispatch_plan_kernels.h"

namespace sluice::ops {
namespace {

// Elements a thread takes at a time, a few microseconds of work.
constexpr int64_t kElementGrain = 16'384;
constexpr int kMaxCudaPlanExperts = 4096;

}  // namespace

DispatchPlan BuildDispatchPlan(ConstTensorView ids, int num_experts, OpContext& context) {
  SLUICE_CHECK_GE(num_experts, 1);
  CheckRank("dispatch ids", ids, 2);
  const int64_t tokens = ids.dim(0);
  const int64_t top_k = ids.dim(1);
  CheckTensor("dispatch ids", ids, DType::kI32, {tokens, top_k});
  SLUICE_CHECK(ids.IsContiguous());
  const int64_t rows = tokens * top_k;
  DispatchPlan plan{.row_token = context.arena.Allocate(DType::kI32, {rows}),
                    .row_of = context.arena.Allocate(DType::kI32, {tokens, top_k}),
                    .offsets = context.arena.Allocate(DType::kI32, {num_experts + 1})};
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      SLUICE_CHECK_LE(num_experts, kMaxCudaPlanExperts);
      const int blocks = cuda::DispatchPlanBlocks(rows);
      Arena::Scope scratch(context.arena);
      const TensorView counts = context.arena.Allocate(DType::kI32, {blocks, num_experts});
      cuda::BuildDispatchPlan({.ids = ids.data<int32_t>(),
                               .rows = rows,
                               .top_k = top_k,
                               .num_experts = num_experts,
                               .blocks = blocks,
                               .block_counts = counts.data<int32_t>(),
                               .warps = 0,
                               .row_token = plan.row_token.data<int32_t>(),
                               .row_of = plan.row_of.data<int32_t>(),
                               .offsets = plan.offsets.data<int32_t>()},
                              *context.cuda);
      return plan;
    }
  }
  const int32_t* id = ids.data<int32_t>();
  int32_t* row_token = plan.row_token.data<int32_t>();
  int32_t* row_of = plan.row_of.data<int32_t>();
  int32_t* offsets = plan.offsets.data<int32_t>();

  // A counting sort; offsets[e] runs ahead to the end of e while rows are placed.
  std::fill(offsets, offsets + num_experts + 1, 0);
  for (int64_t i = 0; i < rows; ++i) {
    SLUICE_CHECK_GE(id[i], 0);
    SLUICE_CHECK_LT(id[i], num_experts);
    ++offsets[id[i] + 1];
  }
  for (int e = 0; e < num_experts; ++e) offsets[e + 1] += offsets[e];
  for (int64_t i = 0; i < rows; ++i) {
    row_of[i] = offsets[id[i]]++;
    row_token[row_of[i]] = static_cast<int32_t>(i / top_k);
  }
  for (int e = num_experts; e > 0; --e) offsets[e] = offsets[e - 1];
  offsets[0] = 0;
  return plan;
}

void Combine(ConstTensorView y, ConstTensorView row_of, ConstTensorView weights, TensorView out,
             OpContext& context) {
  CheckRank("combine y", y, 2);
  CheckRank("combine row_of", row_of, 2);
  const int64_t tokens = row_of.dim(0);
  const int64_t top_k = row_of.dim(1);
  const int64_t width = y.dim(1);
  CheckTensor("combine y", y, DType::kF32, {y.dim(0), width});
  CheckTensor("combine row_of", row_of, DType::kI32, {tokens, top_k});
  CheckTensor("combine weights", weights, DType::kF32, {tokens, top_k});
  CheckTensor("combine out", out, DType::kF32, {tokens, width});
  SLUICE_CHECK(row_of.IsContiguous() && weights.IsContiguous());
  const int32_t* rows = row_of.data<int32_t>();
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::Combine({.y = y.data<float>(),
                     .y_stride = y.stride(0),
                     .row_of = rows,
                     .weights = weights.data<float>(),
                     .tokens = tokens,
                     .top_k = top_k,
                     .out = out.data<float>(),
                     .out_stride = out.stride(0),
                     .width = width},
                    *context.cuda);
      return;
    }
  }
  for (int64_t i = 0; i < tokens * top_k; ++i) {
    SLUICE_CHECK_GE(rows[i], 0);
    SLUICE_CHECK_LT(rows[i], y.dim(0));
  }
  const auto kernel = context.reference ? &reference::CombineToken
                                        : SLUICE_TIER_FUNCTION(context.tier, CombineToken);
  const auto body = [&](int64_t begin, int64_t end, int) {
    for (int64_t t = begin; t < end; ++t) {
      kernel({.y = y.data<float>(),
              .y_stride = y.stride(0),
              .rows = rows + t * top_k,
              .weights = weights.data<float>() + t * top_k,
              .top_k = top_k,
              .out = out.data<float>() + t * out.stride(0),
              .width = width});
    }
  };
  const int64_t grain = std::max<int64_t>(1, kElementGrain / std::max<int64_t>(1, width * top_k));
  context.pool.ParallelFor(tokens, grain, body);
}

}  // namespace sluice::ops
