#pragma once

#include <cstdint>

#include "device/cuda_stream.h"
#include "device/dtype.h"
#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

namespace reference {
void SiluMulRow(const float* gate, const float* up, float* out, int64_t count);
void SigmoidGatedAddRow(float gate, const float* y, float* out, int64_t count);
void AddRow(const float* y, float* out, int64_t count);
}  // namespace reference

// out[i] = silu(gate[i]) * up[i]
SLUICE_DECLARE_IN_TIERS(void SiluMulRow(const float* gate, const float* up, float* out,
                                        int64_t count))
// out[i] += sigmoid(gate) * y[i]
SLUICE_DECLARE_IN_TIERS(void SigmoidGatedAddRow(float gate, const float* y, float* out,
                                                int64_t count))
// out[i] += y[i]
SLUICE_DECLARE_IN_TIERS(void AddRow(const float* y, float* out, int64_t count))

namespace cuda {

// All of a call's rows: [rows, width], strides of rows in elements.
struct SiluMulParams {
  const float* gate_up;  // [rows, 2 width]
  int64_t gate_up_stride;
  void* out;
  DType out_dtype;
  int64_t out_stride;
  int64_t rows;
  int64_t width;
};
void SiluMul(const SiluMulParams& params, CudaStream& stream);

struct AddParams {
  const float* gate;  // one a row; null for Add
  int64_t gate_stride;
  const float* y;
  int64_t y_stride;
  float* out;
  int64_t out_stride;
  int64_t rows;
  int64_t width;
};
void SigmoidGatedAdd(const AddParams& params, CudaStream& stream);
void Add(const AddParams& params, CudaStream& stream);

struct ClipParams {
  float limit;
  float* x;
  int64_t x_stride;
  int64_t rows;
  int64_t width;
};
void Clip(const ClipParams& params, CudaStream& stream);

}  // namespace cuda

}  // namespace sluice::ops
