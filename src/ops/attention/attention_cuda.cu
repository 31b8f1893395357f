#include "ops/attention/attention_device.cuh"
#include "ops/common/cuda/launch.cuh"

namespace sluice::ops::cuda {
namespace {

constexpr int kThreads = 128;
constexpr int kMaxValueDim = 1024;

// As BlockSum, of the largest.
__device__ float BlockMax(float x, float* scratch) {
  const int lane = threadIdx.x % kWarp;
  x = WarpMax(x);
  if (lane == 0) scratch[threadIdx.x / kWarp] = x;
  __syncthreads();
  return WarpMax(lane < kThreads / kWarp ? scratch[lane] : -INFINITY);
}

// One block a query row and head. Positions are visited in tiles of one a thread: each thread has
// the score of its position, then the sums of its values.
template <class Kv, class Out>
__global__ void PlainAttentionKernel(const AttentionParams p) {
  constexpr int kSums = kMaxValueDim / kThreads;
  extern __shared__ float q[];  // [key_dim]
  __shared__ float weights[kThreads];
  __shared__ int64_t rows[kThreads];
  __shared__ float scratch[kThreads / kWarp];
  const int row = blockIdx.x / p.num_heads;
  const int head = blockIdx.x % p.num_heads;
  const int s = p.tables.sequence_of_row[row];
  if (s < 0) return;
  const int kv_head = head / (p.num_heads / p.num_kv_heads);
  const int thread = threadIdx.x;
  const int front = p.key_dim - p.rope_dim;
  for (int d = thread; d < p.key_dim; d += kThreads) {
    q[d] = d < front
               ? p.q[row * p.q_token_stride + head * p.q_head_stride + d]
               : p.q_rope[row * p.q_rope_token_stride + head * p.q_rope_head_stride + d - front];
  }
  const VisibleRange range = RangeOfRow(p.tables, s, row, p.window);
  const Kv* keys = static_cast<const Kv*>(p.k);
  const Kv* values = static_cast<const Kv*>(p.v == nullptr ? p.k : p.v);
  const int value_stride = p.v == nullptr ? p.key_dim : p.value_dim;
  float largest = -INFINITY;
  float total = 0.0f;
  float sums[kSums] = {};
  for (int first = range.begin; first < range.end; first += kThreads) {
    __syncthreads();  // q is there; weights and rows were read
    const int position = first + thread;
    const bool sees = Sees(range, position);
    float score = -INFINITY;
    if (sees) {
      rows[thread] = RowOfPosition(p, s, kv_head, position);
      const Kv* key = keys + rows[thread] * p.key_dim;
      float parts[kPackSize<Kv>] = {};
      for (int d = 0; d < p.key_dim; d += kPackSize<Kv>) {
        const auto pack = *reinterpret_cast<const Pack<Kv, kPackSize<Kv>>*>(key + d);
#pragma unroll
        for (int i = 0; i < kPackSize<Kv>; ++i) parts[i] += q[d + i] * ToFloat(pack.values[i]);
      }
      score = 0.0f;
#pragma unroll
      for (int i = 0; i < kPackSize<Kv>; ++i) score += parts[i];
      score *= p.scale;
    }
    const float now = fmaxf(largest, BlockMax(score, scratch));
    __syncthreads();
    // Where nothing was seen yet, no infinity is taken from another.
    const float weight = sees ? expf(score - now) : 0.0f;
    const float correction = largest == now ? 1.0f : expf(largest - now);
    weights[thread] = weight;
    total = total * correction + BlockSum(weight, scratch);
    largest = now;
    const int count = min(kThreads, range.end - first);
#pragma unroll
    for (int i = 0; i < kSums; ++i) {
      const int d = thread + i * kThreads;
      if (d >= p.value_dim) break;
      float sum = sums[i] * correction;
      for (int j = 0; j < count; ++j) {
        if (weights[j] == 0.0f) continue;  // hidden, or nothing beside the others
        sum += weights[j] * ToFloat(values[rows[j] * value_stride + d]);
      }
      sums[i] = sum;
    }
  }
  Out* out = static_cast<Out*>(p.out) + row * p.out_token_stride + head * p.out_head_stride;
#pragma unroll
  for (int i = 0; i < kSums; ++i) {
    const int d = thread + i * kThreads;
    if (d < p.value_dim) out[d] = FromFloat<Out>(total > 0.0f ? sums[i] / total : 0.0f);
  }
}

template <class Kv>
void LaunchPlain(const AttentionParams& params, const LaunchShape& shape, CudaStream& stream) {
  WithFloatType(params.out_dtype, [&](auto* type) {
    using Out = std::remove_pointer_t<decltype(type)>;
    Launch("attention", &PlainAttentionKernel<Kv, Out>, shape, stream, params);
  });
}

}  // namespace

void PlainAttention(const AttentionParams& params, CudaStream& stream) {
  stream.NoteFallback("attention");
  const LaunchShape shape{
      .grid = static_cast<unsigned>(int64_t{params.tables.rows} * params.num_heads),
      .block = kThreads,
      .shared_bytes = params.key_dim * sizeof(float)};
  if (params.dtype == DType::kF32) {
    LaunchPlain<float>(params, shape, stream);
  } else {
    LaunchPlain<__nv_bfloat16>(params, shape, stream);
  }
}

}  // namespace sluice::ops::cuda
