#pragma once

#include <cstddef>
#include <cstdint>

#include "device/buffer.h"
#include "device/cuda_stream.h"
#include "device/dtype.h"
#include "ops/common/cpu/tiers.h"

namespace sluice::ops {

// Rows that one call of a block kernel takes at most: 128 rows of one 2 KB chunk of K stay in the
// second-level cache while the block's weights pass over them.
inline constexpr int64_t kGemmBlockRows = 128;

// A block of Gemm: `rows` rows of x against `columns` rows of w.
struct GemmBlockParams {
  const float* const* x_rows;  // [rows] pointers to K values
  int64_t rows;                // at most kGemmBlockRows
  const std::byte* w;          // [columns, depth], dense
  DType dtype;
  int64_t columns;
  int64_t depth;      // K
  const float* bias;  // [columns], or null
  bool accumulate;
  float* out;  // [rows, columns]
  int64_t out_stride;
};

namespace reference {
void GemmBlock(const GemmBlockParams& params);
}
SLUICE_DECLARE_IN_TIERS(void GemmBlock(const GemmBlockParams& params))

namespace cuda {

// A whole Gemm, or with `heads` above 1 a HeadGemm: row m of head h of x stands at
// x + h * x_head_stride + m * x_stride, in elements, and so in out.
struct GemmParams {
  const void* x;
  DType x_dtype;
  int64_t x_stride;
  int64_t x_head_stride;
  const void* w;  // [heads, columns, depth], dense
  DType w_dtype;
  const float* bias;  // [columns], or null
  bool accumulate;
  bool swiglu =
      false;  // out = silu(gate) * up of columns n and columns + n of w, [2 columns, depth]
  void* out;
  DType out_dtype = DType::kF32;  // another only with `swiglu`
  int64_t out_stride;
  int64_t out_head_stride;
  int64_t rows;
  int64_t columns;
  int64_t depth;  // K
  int64_t heads;
  // The order of a sum depends on columns, depth, heads and the device, and not on rows.
  bool batch_invariant = false;
};
// Scratch comes from `arena` and is free again when the call returns: what is queued on the stream
// later may write to it. Without `swiglu`, unless FusesSwiGlu(params).
void Gemm(const GemmParams& params, Arena& arena, CudaStream& stream);

// Whether Gemm takes these params with `swiglu`.
bool FusesSwiGlu(const GemmParams& params);

}  // namespace cuda

}  // namespace sluice::ops
