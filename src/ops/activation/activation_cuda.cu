#include "ops/activation/activation_kernels.h"
#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/row_cut.cuh"

namespace sluice::ops::cuda {
namespace {

template <class Out>
__global__ void SiluMulKernel(const SiluMulParams p) {
  LetNextStart();
  WaitForEarlier();
  ForEachInRowCut(p.width, [&](int64_t row, int64_t i) {
    const float* gate = p.gate_up + row * p.gate_up_stride;
    static_cast<Out*>(p.out)[row * p.out_stride + i] =
        FromFloat<Out>(Silu(gate[i]) * gate[p.width + i]);
  });
}

__global__ void SigmoidGatedAddKernel(const AddParams p) {
  LetNextStart();
  WaitForEarlier();
  ForEachInRowCut(p.width, [&](int64_t row, int64_t i) {
    const float sigmoid = 1.0f / (1.0f + expf(-p.gate[row * p.gate_stride]));
    p.out[row * p.out_stride + i] += sigmoid * p.y[row * p.y_stride + i];
  });
}

__global__ void AddKernel(const AddParams p) {
  LetNextStart();
  WaitForEarlier();
  ForEachInRowCut(p.width, [&](int64_t row, int64_t i) {
    p.out[row * p.out_stride + i] += p.y[row * p.y_stride + i];
  });
}

__global__ void ClipKernel(const ClipParams p) {
  LetNextStart();
  WaitForEarlier();
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
    LaunchEarly<&SiluMulKernel<Out>>("silu_mul", RowCutShape(params.rows, params.width), stream,
                                     params);
  });
}

void SigmoidGatedAdd(const AddParams& params, CudaStream& stream) {
  LaunchEarly<&SigmoidGatedAddKernel>("sigmoid_gated_add", RowCutShape(params.rows, params.width),
                                      stream, params);
}

void Add(const AddParams& params, CudaStream& stream) {
  LaunchEarly<&AddKernel>("add", RowCutShape(params.rows, params.width), stream, params);
}

void Clip(const ClipParams& params, CudaStream& stream) {
  LaunchEarly<&ClipKernel>("clip", RowCutShape(params.rows, params.width), stream, params);
}

}  // namespace sluice::ops::cuda
