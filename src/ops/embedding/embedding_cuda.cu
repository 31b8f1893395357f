#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/row_cut.cuh"
#include "ops/embedding/embedding_kernels.h"

namespace sluice::ops::cuda {
namespace {

template <class T>
__global__ void CopyRowsKernel(const CopyRowsParams p) {
  LetNextStart();
  WaitForEarlier();
  ForEachInRowCut(p.width, [&](int64_t i, int64_t column) {
    const int64_t row = p.rows[i];
    const bool exists = row >= 0 && row < p.table_rows;
    p.out[i * p.out_stride + column] =
        exists ? ToFloat(static_cast<const T*>(p.table)[row * p.table_stride + column])
               : __int_as_float(0x7fffffff);
  });
}

}  // namespace

void CopyRows(const CopyRowsParams& params, CudaStream& stream) {
  WithFloatType(params.dtype, [&](auto* type) {
    using T = std::remove_pointer_t<decltype(type)>;
    LaunchEarly<&CopyRowsKernel<T>>("copy_rows", RowCutShape(params.count, params.width), stream,
                                    params);
  });
}

}  // namespace sluice::ops::cuda
