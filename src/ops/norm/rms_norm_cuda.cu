#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/norm/rms_norm_kernels.h"

namespace sluice::ops::cuda {
namespace {

constexpr int kMaxThreads = 1024;
// A row's elements that a thread should have before more threads join.
constexpr int64_t kElementsPerThread = 4;

// One block a row.
template <class Out>
__global__ void RmsNormKernel(const RmsNormParams p) {
  LetNextStart();
  WaitForEarlier();
  __shared__ float scratch[kMaxThreads / kWarp];
  const int64_t token = blockIdx.x / p.rows;
  const int64_t row = blockIdx.x % p.rows;
  const float* x = p.x + token * p.x_token_stride + row * p.x_stride;
  Out* out = static_cast<Out*>(p.out) + token * p.out_token_stride + row * p.out_stride;

  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) squares += x[i] * x[i];
  squares = BlockSum(squares, scratch);
  const float scale = rsqrtf(squares / static_cast<float>(p.width) + p.eps);
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) {
    out[i] = FromFloat<Out>(x[i] * scale * p.weight[i]);
  }
}

}  // namespace

void RmsNorm(const RmsNormParams& params, CudaStream& stream) {
  const int64_t warps = CeilDiv(params.width, kElementsPerThread * kWarp);
  const LaunchShape shape{.grid = static_cast<unsigned>(params.tokens * params.rows),
                          .block = static_cast<unsigned>(
                              kWarp * (warps < kMaxThreads / kWarp ? warps : kMaxThreads / kWarp))};
  WithFloatType(params.out_dtype, [&](auto* type) {
    using Out = std::remove_pointer_t<decltype(type)>;
    LaunchEarly<&RmsNormKernel<Out>>("rms_norm", shape, stream, params);
  });
}

}  // namespace sluice::ops::cuda
