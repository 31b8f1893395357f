#include "ops/common/cuda/launch.cuh"
#include "ops/grouped_gemm/grouped_gemm.cuh"

namespace sluice::ops::cuda {
namespace {

constexpr int kPlainWarps = 8;

// The group whose rows hold `row`: groups without rows are passed over.
__device__ int GroupOf(const GroupedParams& p, int64_t row) {
  int low = 0;
  int high = p.groups - 1;
  while (low < high) {
    const int middle = (low + high) / 2;
    if (p.offsets[middle + 1] > row) {
      high = middle;
    } else {
      low = middle + 1;
    }
  }
  return low;
}

template <class X, class W>
__device__ float WarpDot(const X* x, const W* w, int64_t depth) {
  float sum = 0.0f;
  for (int64_t k = threadIdx.x % kWarp; k < depth; k += kWarp) sum += ToFloat(x[k]) * ToFloat(w[k]);
  return WarpSum(sum);
}

// Any shape and dtype: a warp for each element of out, whose weights it reads from memory or, for
// the later rows of a group, from cache.
template <class X, class W, class Out>
__global__ void PlainKernel(const GroupedParams p) {
  const int64_t row = blockIdx.x;
  const int64_t column = int64_t{blockIdx.y} * kPlainWarps + threadIdx.x / kWarp;
  const int32_t slot = p.slots[GroupOf(p, row)];
  if (column >= p.columns || slot < 0) return;
  const X* x = RowOfX<X>(p, row);
  const W* w = MatrixOf<W>(p, slot) + column * p.depth;
  float value = AddendAt(p, row, column) + WarpDot(x, w, p.depth);
  if (p.swiglu) {
    const float up =
        AddendAt(p, row, column + p.columns) + WarpDot(x, w + p.columns * p.depth, p.depth);
    value = SwiGlu(value, up);
  }
  if (threadIdx.x % kWarp == 0) {
    static_cast<Out*>(p.out)[row * p.out_stride + column] = FromFloat<Out>(value);
  }
}

template <class X, class W, class Out>
void LaunchPlain(const GroupedParams& p, CudaStream& stream) {
  const LaunchShape shape{
      .grid = dim3(static_cast<unsigned>(p.rows),
                   static_cast<unsigned>(CeilDiv(p.columns, int64_t{kPlainWarps}))),
      .block = kPlainWarps * kWarp};
  Launch("grouped_gemm", &PlainKernel<X, W, Out>, shape, stream, p);
}

// x and out are f32 or W.
template <class W>
void Plain(const GroupedParams& p, CudaStream& stream) {
  const bool wide_x = p.x_dtype == DType::kF32;
  const bool wide_out = p.out_dtype == DType::kF32;
  if (wide_x && wide_out) return LaunchPlain<float, W, float>(p, stream);
  if (wide_x) return LaunchPlain<float, W, W>(p, stream);
  if (wide_out) return LaunchPlain<W, W, float>(p, stream);
  LaunchPlain<W, W, W>(p, stream);
}

// Whether the kernels on tensor cores can read the call's tensors, 16 bytes at a time.
bool TensorCoresTake(const GroupedParams& p) {
  constexpr int64_t kBytes = 16;
  constexpr int64_t kElements = kPackSize<__half>;
  const auto aligned = [](const void* pointer) { return IsMultipleOf(pointer, kBytes); };
  return p.dtype != DType::kF32 && p.x_dtype == p.dtype && p.depth % kElements == 0 &&
         p.x_stride % kElements == 0 && p.slot_stride % kBytes == 0 && aligned(p.x) &&
         aligned(p.slab);
}

// Up to so many rows a group on average, weights pass through registers once for all of them.
constexpr int64_t kFewRows = 7;

}  // namespace

void GroupedGemm(const GroupedParams& params, CudaStream& stream) {
  if (params.rows == 0) return;
  if (TensorCoresTake(params)) {
    const bool few = params.rows <= kFewRows * params.groups;
    if (few && (!params.batch_invariant || params.in_parts)) return GroupedFewRows(params, stream);
    if (!params.in_parts && HasGroupedWarpgroups(params, stream)) {
      return GroupedByWarpgroups(params, stream);
    }
    return GroupedManyRows(params, stream);
  }
  stream.NoteFallback("grouped_gemm");
  WithFloatType(params.dtype,
                [&](auto* type) { Plain<std::remove_pointer_t<decltype(type)>>(params, stream); });
}

}  // namespace sluice::ops::cuda
