#include <algorithm>

#include "ops/attention/attention_device.cuh"
#include "ops/common/cuda/launch.cuh"

// A warp takes a head at a time. Its numbers wait in shared memory until the norm is known, and for
// the pairs of them that turn together.
namespace sluice::ops::cuda {
namespace {

constexpr int kMaxWarps = 16;
constexpr int kHeadWarps = 4;  // of a block whose heads have nothing to do with each other

// Where a block's heads stand.
struct Place {
  int64_t token;
  int first_head;
  int heads;
};

// How a call is cut: each token into blocks, those of part i from first_block[i] on.
struct CutParams {
  PrepareParams call;
  int32_t first_block[kPrepareParts + 1];
  int32_t block_heads[kPrepareParts];
  int32_t max_floats;  // a block's heads
  int32_t norm_floats;
};

__device__ __forceinline__ float Clamp(float x, float limit) {
  return x < -limit ? -limit : limit < x ? limit : x;  // a NaN stays one
}

// A block's heads to shared memory; the sum of squares of what this warp took.
template <int kWidth>
__device__ __forceinline__ float LoadHeads(const PreparePart& part, const Place& place, float* to) {
  const int lane = threadIdx.x % kWarp;
  const float* from = part.x + place.token * part.token_stride;
  float squares = 0.0f;
  for (int h = threadIdx.x / kWarp; h < place.heads; h += blockDim.x / kWarp) {
    const float* head = from + (place.first_head + h) * part.head_stride;
    for (int d = lane * kWidth; d < part.width; d += kWarp * kWidth) {
      const auto pack = *reinterpret_cast<const Pack<float, kWidth>*>(head + d);
      *reinterpret_cast<Pack<float, kWidth>*>(to + h * part.width + d) = pack;
#pragma unroll
      for (int i = 0; i < kWidth; ++i) squares += pack.values[i] * pack.values[i];
    }
  }
  return squares;
}

// A head's number d after norm, clip and rotation.
struct Head {
  const float* x;
  const float* norm;  // or null
  float scale;
  float clip;
  const float* cos_sin;
  int half;  // 0: it does not turn
  bool adjacent;

  __device__ __forceinline__ float Straight(int d) const {
    return Clamp(norm == nullptr ? x[d] : x[d] * scale * norm[d], clip);
  }
  __device__ __forceinline__ float At(int d) const {
    const float own = Straight(d);
    if (d >= 2 * half) return own;
    const bool first = adjacent ? d % 2 == 0 : d < half;
    const int step = adjacent ? 1 : half;
    const int pair = adjacent ? d / 2 : first ? d : d - half;
    const float other = Straight(first ? d + step : d - step);
    const float turned = other * cos_sin[half + pair];
    return own * cos_sin[pair] + (first ? -turned : turned);
  }
};

// The head to where it belongs.
template <class T, int kWidth>
__device__ __forceinline__ void StoreHead(const Head& head, int width, T* to) {
  for (int d = threadIdx.x % kWarp * kWidth; d < width; d += kWarp * kWidth) {
    Pack<T, kWidth> pack;
#pragma unroll
    for (int i = 0; i < kWidth; ++i) pack.values[i] = FromFloat<T>(head.At(d + i));
    *reinterpret_cast<Pack<T, kWidth>*>(to + d) = pack;
  }
}

// kWidth elements a thread. T is the pages'.
template <class T, int kWidth>
__global__ void __launch_bounds__(kMaxWarps* kWarp)
    PrepareKernel(const __grid_constant__ CutParams params) {
  extern __shared__ __align__(16) float memory[];  // heads, the norm's weight, angles
  __shared__ float scratch[kMaxWarps];
  LetNextStart();
  const PrepareParams& p = params.call;
  const int blocks = params.first_block[kPrepareParts];
  const int block = static_cast<int>(blockIdx.x % blocks);
  const int index = block >= params.first_block[2] ? 2 : block >= params.first_block[1] ? 1 : 0;
  const PreparePart& part = p.parts[index];
  Place place{};
  place.token = blockIdx.x / blocks;
  place.first_head = (block - params.first_block[index]) * params.block_heads[index];
  place.heads = min(params.block_heads[index], part.heads - place.first_head);
  float* norm = memory + params.max_floats;
  float* cos_sin = norm + params.norm_floats;
  if (part.norm != nullptr) {
    const int count = part.joint ? part.heads * part.width : part.width;
    for (int i = threadIdx.x; i < count; i += blockDim.x) norm[i] = part.norm[i];
  }
  WaitForEarlier();
  const int64_t slot = part.out != nullptr ? 0 : p.slots[place.token];
  if (part.rotates) {
    for (int i = threadIdx.x; i < 2 * p.half; i += blockDim.x) {
      cos_sin[i] = p.cos_sin[place.token * 2 * p.half + i];
    }
  }
  float squares = LoadHeads<kWidth>(part, place, memory);
  squares = part.joint ? BlockSum(squares, scratch) : WarpSum(squares);
  const int normed = part.joint ? part.heads * part.width : part.width;
  const float scale = rsqrtf(squares / static_cast<float>(normed) + p.norm_eps);
  __syncthreads();
  if (slot < 0) return;
  for (int h = threadIdx.x / kWarp; h < place.heads; h += blockDim.x / kWarp) {
    const int64_t number = place.first_head + h;
    const Head head{
        .x = memory + h * part.width,
        .norm = part.norm == nullptr ? nullptr : norm + (part.joint ? h : 0) * part.width,
        .scale = scale,
        .clip = p.clip,
        .cos_sin = cos_sin,
        .half = part.rotates ? p.half : 0,
        .adjacent = p.adjacent};
    if (part.out != nullptr) {
      float* to = part.out + place.token * part.token_stride + number * part.head_stride;
      StoreHead<float, kWidth>(head, part.width, to);
    } else {
      const int64_t row =
          (slot / p.page_size * part.heads + number) * p.page_size + slot % p.page_size;
      T* to = static_cast<T*>(part.pages) + row * part.page_width + part.page_column;
      StoreHead<T, kWidth>(head, part.width, to);
    }
  }
}

// Whether all rows can be read and written four numbers at a time.
bool IsWide(const PrepareParams& params) {
  for (int i = 0; i < params.part_count; ++i) {
    const PreparePart& part = params.parts[i];
    const auto bits = reinterpret_cast<uintptr_t>(part.x) | reinterpret_cast<uintptr_t>(part.out) |
                      reinterpret_cast<uintptr_t>(part.pages);
    if (bits % 16 != 0 || part.width % 4 != 0 || part.token_stride % 4 != 0 ||
        part.head_stride % 4 != 0 || part.page_width % 4 != 0 || part.page_column % 4 != 0) {
      return false;
    }
  }
  return true;
}

template <class T, int kWidth>
void LaunchPrepare(const CutParams& params, int warps, CudaStream& stream) {
  constexpr auto kKernel = &PrepareKernel<T, kWidth>;
  const size_t floats = params.max_floats + params.norm_floats + 2 * params.call.half;
  const LaunchShape shape{
      .grid = static_cast<unsigned>(params.call.tokens * params.first_block[kPrepareParts]),
      .block = static_cast<unsigned>(warps * kWarp),
      .shared_bytes = sizeof(float) * floats};
  SLUICE_CHECK_LE(shape.shared_bytes, size_t{kPortableShared});
  AllowShared("prepare_qkv", kKernel, kPortableShared);
  LaunchEarly<kKernel>("prepare_qkv", shape, stream, params);
}

template <class T>
void LaunchWidth(const CutParams& params, int warps, CudaStream& stream) {
  if (IsWide(params.call)) {
    LaunchPrepare<T, 4>(params, warps, stream);
  } else {
    LaunchPrepare<T, 1>(params, warps, stream);
  }
}

}  // namespace

void Prepare(const PrepareParams& params, CudaStream& stream) {
  CutParams cut{
      .call = params, .first_block = {}, .block_heads = {}, .max_floats = 0, .norm_floats = 0};
  int warps = kHeadWarps;
  for (int i = 0; i < params.part_count; ++i) {
    if (params.parts[i].joint) warps = std::max(warps, std::min(params.parts[i].heads, kMaxWarps));
  }
  for (int i = 0; i < kPrepareParts; ++i) {
    const PreparePart& part = params.parts[i];
    const bool exists = i < params.part_count;
    cut.block_heads[i] = part.joint ? part.heads : warps;
    cut.first_block[i + 1] =
        cut.first_block[i] + (exists ? CeilDiv(part.heads, cut.block_heads[i]) : 0);
    if (!exists) continue;
    const int heads = std::min(part.heads, cut.block_heads[i]);
    // Parts of shared memory start at multiples of 16 bytes.
    const auto padded = [](int floats) { return CeilDiv(floats, 4) * 4; };
    cut.max_floats = std::max(cut.max_floats, padded(heads * part.width));
    if (part.norm == nullptr) continue;
    cut.norm_floats = std::max(cut.norm_floats, padded((part.joint ? heads : 1) * part.width));
  }
  if (params.page_dtype == DType::kF32) {
    LaunchWidth<float>(cut, warps, stream);
  } else {
    LaunchWidth<__nv_bfloat16>(cut, warps, stream);
  }
}

}  // namespace sluice::ops::cuda
