#include "ops/activation/activation_kernels.h"
#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/row_cut.cuh"

namespace sluice::ops::cuda {
namespace {

template <class Out>
__global__ void SiluMulKernel(const SiluMulParams p) {
  ForEachInRowCut(p.width, [&](int64_t row, int64_t i) {
    const float* gate = p.gate_up + row * p.gate_up_stride;
    const float g = gate[i];
    const float silu = g / (1.0f + expf(-g));
    static_cast<Out*>(p.out)[row * p.out_stride + i] = FromFloat<Out>(silu * gate[p.width + i]);
  });
}

__global__ void SigmoidGatedAddKernel(const AddParams p) {
  ForEachInRowCut(p.width, [&](int64_t row, int64_t i) {
    const float sigmoid = 1.0f / (1.0f + expf(-p.gate[row * p.gate_stride]));
    p.out[row * p.out_stride + i] += sigmoid * p.y[row * p.y_stride + i];
  });
}

__global__ void AddKernel(const AddParams p) {
  ForEachInRowCut(p.width, [&](int64_t row, int64_t i) {
    p.out[row * p.out_stride + i] += p.y[row * p.y_stride + i];
  });
}

__global__ void ClipKernel(const ClipParams p) {
  ForEachInRowCut(p.width, [&](int64_t row, int64_t i) {
    float& value = p.x[row * p.x_stride + i];
    // A NaN compares as neither.
    if (value < -p.limit) value = -p.limit;
    if (value > p.limit) value = p.limit;
  });
}

}  // namespace

void SiluMul(const SiluMulParams& params, CudaStream& stream) {
  WithFloatType(params.out_dtype, [&](auto* type) {
    using Out = std::remove_pointer_t<decltype(type)>;
    Launch("silu_mul", &SiluMulKernel<Out>, RowCutShape(params.rows, params.width), stream, params);
  });
}

void SigmoidGatedAdd(const AddParams& params, CudaStream& stream) {
  Launch("sigmoid_gated_add", &SigmoidGatedAddKernel, RowCutShape(params.rows, params.width),
         stream, params);
}

void Add(const AddParams& params, CudaStream& stream) {
  Launch("add", &AddKernel, RowCutShape(params.rows, params.width), stream, params);
}

void Clip(const ClipParams& params, CudaStream& stream) {
  Launch("clip", &ClipKernel, RowCutShape(params.rows, params.width), stream, params);
}

}  // namespace sluice::ops::cuda
