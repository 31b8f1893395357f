#include <type_traits>

#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/norm/norm_rows.cuh"
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

constexpr int kPack = 4;
// Packs of a row that a thread should have before more threads join.
constexpr int64_t kPacksPerThread = 2;

// The same of rows in packs of four, which a thread keeps in registers.
template <class Out>
__global__ void RmsNormPacksKernel(const RmsNormParams p) {
  LetNextStart();
  __shared__ float scratch[kMaxThreads / kWarp];
  const int64_t token = blockIdx.x / p.rows;
  const int64_t row = blockIdx.x % p.rows;
  const auto packs = static_cast<int>(p.width / kPack);
  const auto first = static_cast<int>(threadIdx.x);
  const auto step = static_cast<int>(blockDim.x);
  const PackShare weight(p.weight, first, step, packs);
  WaitForEarlier();
  const PackShare x(p.x + token * p.x_token_stride + row * p.x_stride, first, step, packs);
  float squares = 0.0f;
#pragma unroll
  for (int i = 0; i < PackShare::kPacks; ++i) {
    squares += x[i].x * x[i].x + x[i].y * x[i].y + (x[i].z * x[i].z + x[i].w * x[i].w);
  }
  squares = BlockSum(squares, scratch);
  const float scale = rsqrtf(squares / static_cast<float>(p.width) + p.eps);
  Out* out = static_cast<Out*>(p.out) + token * p.out_token_stride + row * p.out_stride;
#pragma unroll
  for (int i = 0; i < PackShare::kPacks; ++i) {
    const int at = first + i * step;
    if (at >= packs) break;
    const float4 w = weight[i];
    reinterpret_cast<Pack<Out, kPack>*>(out)[at] = {
        FromFloat<Out>(x[i].x * scale * w.x), FromFloat<Out>(x[i].y * scale * w.y),
        FromFloat<Out>(x[i].z * scale * w.z), FromFloat<Out>(x[i].w * scale * w.w)};
  }
}

// Whether the rows and the weight can be read, and out written, in packs. A row's place does not
// change that, so that a row has the same bits wherever it stands.
bool ComeInPacks(const RmsNormParams& p) {
  return p.width <= int64_t{kMaxThreads} * PackShare::kPacks * kPack && p.width % kPack == 0 &&
         p.x_token_stride % kPack == 0 && p.x_stride % kPack == 0 &&
         p.out_token_stride % kPack == 0 && p.out_stride % kPack == 0 &&
         IsMultipleOf(p.x, sizeof(float4)) && IsMultipleOf(p.weight, sizeof(float4)) &&
         IsMultipleOf(p.out, kPack * SizeOf(p.out_dtype));
}

template <class Out>
void LaunchNorm(const RmsNormParams& params, CudaStream& stream) {
  const bool packs = ComeInPacks(params);
  const int64_t of_a_thread = packs ? kPacksPerThread * kPack : kElementsPerThread;
  const int64_t warps = CeilDiv(params.width, of_a_thread * kWarp);
  const int64_t most = kMaxThreads / kWarp;
  const LaunchShape shape{.grid = static_cast<unsigned>(params.tokens * params.rows),
                          .block = static_cast<unsigned>(kWarp * (warps < most ? warps : most))};
  if (packs) {
    LaunchEarly<&RmsNormPacksKernel<Out>>("rms_norm", shape, stream, params);
  } else {
    LaunchEarly<&RmsNormKernel<Out>>("rms_norm", shape, stream, params);
  }
}

}  // namespace

void RmsNorm(const RmsNormParams& params, CudaStream& stream) {
  WithFloatType(params.out_dtype, [&](auto* type) {
    LaunchNorm<std::remove_pointer_t<decltype(type)>>(params, stream);
  });
}

}  // namespace sluice::ops::cuda
