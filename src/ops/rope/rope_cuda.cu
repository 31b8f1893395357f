#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/rope/rope_kernels.h"

namespace sluice::ops::cuda {
namespace {

constexpr int kThreads = 256;

// One thread a token and frequency. Angles are rounded to f32 as on the CPU, their cosines and
// sines are not until the end: positions far out turn many times.
__global__ void RopeAnglesKernel(const RopeAnglesParams p) {
  LetNextStart();
  WaitForEarlier();
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t token = index / p.half;
  const int64_t i = index % p.half;
  if (token >= p.tokens) return;
  const float angle = __fmul_rn(static_cast<float>(p.positions[token]), p.frequencies[i]);
  double sine = 0.0;
  double cosine = 0.0;
  sincos(static_cast<double>(angle), &sine, &cosine);
  float* out = p.cos_sin + token * 2 * p.half;
  out[i] = static_cast<float>(cosine) * p.factor;
  out[p.half + i] = static_cast<float>(sine) * p.factor;
}

// One thread a pair of dimensions.
__global__ void RopeKernel(const RopeParams p) {
  const int64_t index = static_cast<int64_t>(blockIdx.x) * kThreads + threadIdx.x;
  const int64_t i = index % p.half;
  const int64_t head = index / p.half % p.heads;
  const int64_t token = index / p.half / p.heads;
  if (token >= p.tokens) return;
  float* x = p.x + token * p.token_stride + head * p.head_stride;
  float* first = x + (p.adjacent ? 2 * i : i);
  float* second = p.adjacent ? first + 1 : first + p.half;
  const float cosine = p.cos_sin[token * 2 * p.half + i];
  const float sine = p.cos_sin[token * 2 * p.half + p.half + i];
  const float a = *first;
  const float b = *second;
  *first = a * cosine - b * sine;
  *second = b * cosine + a * sine;
}

LaunchShape Shape(int64_t threads) {
  return {.grid = static_cast<unsigned>(CeilDiv(threads, kThreads)), .block = kThreads};
}

}  // namespace

void RopeAngles(const RopeAnglesParams& params, CudaStream& stream) {
  LaunchEarly<&RopeAnglesKernel>("rope_angles", Shape(params.tokens * params.half), stream, params);
}

void Rope(const RopeParams& params, CudaStream& stream) {
  Launch("rope", &RopeKernel, Shape(params.tokens * params.heads * params.half), stream, params);
}

}  // namespace sluice::ops::cuda
