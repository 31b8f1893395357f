#include "ops/common/cpu/dot_tile.h"
#include "ops/common/cpu/vec_math.h"
#include "ops/grouped_gemm/grouped_gemm_kernels.h"

namespace sluice::ops::SLUICE_TIER {
namespace {

// sums = addend or 0, then += x w^T, for `columns` rows of w from `first` on.
void SumColumns(const GroupedBlockParams& params, int64_t first, float* sums, int64_t stride) {
  for (int64_t m = 0; m < params.rows; ++m) {
    for (int64_t n = 0; n < params.columns; ++n) {
      sums[m * stride + n] =
          params.addend == nullptr ? 0.0f : params.addend[m * params.addend_stride + first + n];
    }
  }
  const int64_t element = static_cast<int64_t>(SizeOf(params.dtype));
  DotBlock(params.x_rows, params.rows, params.w + first * params.depth * element, params.dtype,
           params.columns, params.depth, sums, stride);
}

void SwiGluRow(const float* gate, const float* up, int64_t count, float* out) {
  int64_t n = 0;
  for (; n + Vec::kLanes <= count; n += Vec::kLanes) {
    Vec::Store(out + n, Vec::Mul(Silu(Vec::Load(gate + n)), Vec::Load(up + n)));
  }
  if (n < count) {
    const int64_t rest = count - n;
    const Vec value = Vec::Mul(Silu(Vec::LoadN(gate + n, rest)), Vec::LoadN(up + n, rest));
    Vec::StoreN(out + n, value, rest);
  }
}

}  // namespace

void GroupedBlock(const GroupedBlockParams& params) {
  if (!params.swiglu) {
    SumColumns(params, 0, params.out, params.out_stride);
    return;
  }
  alignas(64) float gate[kGroupedBlockRows * kGroupedBlockColumns];
  alignas(64) float up[kGroupedBlockRows * kGroupedBlockColumns];
  SumColumns(params, 0, gate, kGroupedBlockColumns);
  SumColumns(params, params.up_distance, up, kGroupedBlockColumns);
  for (int64_t m = 0; m < params.rows; ++m) {
    SwiGluRow(gate + m * kGroupedBlockColumns, up + m * kGroupedBlockColumns, params.columns,
              params.out + m * params.out_stride);
  }
}

}  // namespace sluice::ops::SLUICE_TIER
