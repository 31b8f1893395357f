#pragma once

#include <cstddef>
#include <cstdint>

#include "device/cuda_stream.h"
#include "device/dtype.h"

namespace sluice::ops::cuda {

// A matrix of every expert: slot s holds its at base + s * slot_stride.
struct SlotMatrices {
  const std::byte* base;
  int64_t slot_stride;  // bytes
};

// A whole call of Experts. T stands for the weights' dtype.
struct ExpertsParams {
  DType dtype;
  const void* x;  // [tokens, hidden] T
  int64_t x_stride;
  const int32_t* ids;    // [tokens, top_k]
  const float* weights;  // [tokens, top_k]
  const int32_t* slots;  // [experts]
  int tokens;
  int top_k;
  int experts;
  int hidden;
  int ffn;
  SlotMatrices gate_up;        // [2 ffn, hidden] T
  SlotMatrices down;           // [hidden, ffn] T
  int shared_ffn;              // 0 without a shared expert
  const void* shared_gate_up;  // [2 shared_ffn, hidden] T
  const void* shared_down;     // [hidden, shared_ffn] T
  const void* shared_gate;     // [hidden] T, or null
  void* inner;                 // scratch, [tokens, top_k, ffn] T
  void* shared_inner;          // scratch, [tokens, shared_ffn] T
  float* shared_weights;       // scratch, [tokens]
  float* out;                  // [tokens, hidden]
  int64_t out_stride;
};

// Whether ExpertsOfFewTokens runs the call on this device; scratch is not looked at.
bool TakesFewTokens(const ExpertsParams& params, const CudaDeviceInfo& device);

void ExpertsOfFewTokens(const ExpertsParams& params, CudaStream& stream);

}  // namespace sluice::ops::cuda
