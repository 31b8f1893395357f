#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/norm/layer_norm_kernels.h"

namespace sluice::ops::cuda {
namespace {

constexpr int kMaxThreads = 1024;
// A row's elements that a thread should have before more threads join.
constexpr int64_t kElementsPerThread = 4;

// One block a row.
template <class Out>
__global__ void LayerNormKernel(const LayerNormParams p) {
  LetNextStart();
  WaitForEarlier();
  __shared__ float mean_scratch[kMaxThreads / kWarp];
  __shared__ float variance_scratch[kMaxThreads / kWarp];
  const float* x = p.x + blockIdx.x * p.x_stride;
  Out* out = static_cast<Out*>(p.out) + blockIdx.x * p.out_stride;
  const auto count = static_cast<float>(p.width);

  float sum = 0.0f;
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) sum += x[i];
  const float mean = BlockSum(sum, mean_scratch) / count;
  float squares = 0.0f;
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) {
    squares += (x[i] - mean) * (x[i] - mean);
  }
  const float scale = rsqrtf(BlockSum(squares, variance_scratch) / count + p.eps);
  for (int64_t i = threadIdx.x; i < p.width; i += blockDim.x) {
    out[i] = FromFloat<Out>((x[i] - mean) * scale * p.weight[i]);
  }
}

}  // namespace

void LayerNorm(const LayerNormParams& params, CudaStream& stream) {
  const int64_t warps = CeilDiv(params.width, kElementsPerThread * kWarp);
  const LaunchShape shape{.grid = static_cast<unsigned>(params.rows),
                          .block = static_cast<unsigned>(
                              kWarp * (warps < kMaxThreads / kWarp ? warps : kMaxThreads / kWarp))};
  WithFloatType(params.out_dtype, [&](auto* type) {
    using Out = std::remove_pointer_t<decltype(type)>;
    LaunchEarly<&LayerNormKernel<Out>>("layer_norm", shape, stream, params);
  });
}

}  // namespace sluice::ops::cuda
