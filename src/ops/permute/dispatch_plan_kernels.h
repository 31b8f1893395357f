#pragma once

#include <cstdint>

#include "device/cuda_stream.h"
#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

// One token of Combine.
struct CombineParams {
  const float* y;
  int64_t y_stride;
  const int32_t* rows;   // [top_k]
  const float* weights;  // [top_k]
  int64_t top_k;
  float* out;  // [width], added to
  int64_t width;
};

namespace reference {
void CombineToken(const CombineParams& params);
}
SLUICE_DECLARE_IN_TIERS(void CombineToken(const CombineParams& params))

namespace cuda {

struct DispatchPlanParams {
  const int32_t* ids;  // [rows]
  int64_t rows;        // tokens * top_k
  int64_t top_k;
  int num_experts;
  int blocks;             // DispatchPlanBlocks(rows)
  int32_t* block_counts;  // [blocks, num_experts] scratch
  int warps;              // that sort; chosen by BuildDispatchPlan
  int32_t* row_token;     // [rows]
  int32_t* row_of;        // [rows]
  int32_t* offsets;       // [num_experts + 1]
};
int DispatchPlanBlocks(int64_t rows);
void BuildDispatchPlan(DispatchPlanParams params, CudaStream& stream);

// All tokens of Combine.
struct CombineAllParams {
  const float* y;
  int64_t y_stride;
  const int32_t* row_of;  // [tokens, top_k]
  const float* weights;   // [tokens, top_k]
  int64_t tokens;
  int64_t top_k;
  float* out;  // [tokens, width], added to
  int64_t out_stride;
  int64_t width;
};
void Combine(const CombineAllParams& params, CudaStream& stream);

}  // namespace cuda

}  // namespace sluice::ops
