#pragma once

#include <cstdint>

#include "device/cuda_stream.h"
#include "device/dtype.h"
#include "ops/norm/norm.h"
#include "ops/router/router_kernels.h"

namespace sluice::ops::cuda {

// A whole call of NormRouter. `router.logits` is scratch.
struct NormRouterParams {
  RouterParams router;
  NormDesc norm;
  const float* x;  // [tokens, width]
  int64_t x_stride;
  const float* norm_weight;  // [width]
  const void* matrix;        // [num_experts, width]
  DType dtype;               // of matrix and h
  int64_t width;
  void* h;  // [tokens, width]
  int64_t h_stride;
};

// Whether NormRouter takes it; scratch is not looked at.
bool FusesNormRouter(const NormRouterParams& params, const CudaDeviceInfo& device);

// Counts up in the stream's counters. `logits` [tokens, num_experts], dense, is what
// params.router.logits reads.
void NormRouter(const NormRouterParams& params, float* logits, CudaStream& stream);

}  // namespace sluice::ops::cuda
