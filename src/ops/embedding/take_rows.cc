#include "ops/embedding/take_rows.h"

#include <algorithm>

#include "ops/common/checks.h"
#include "ops/embedding/embedding_kernels.h"

namespace sluice::ops {

void TakeRows(ConstTensorView x, ConstTensorView rows, TensorView out, OpContext& context) {
  CheckRank("take_rows x", x, 2);
  CheckRank("take_rows rows", rows, 1);
  const int64_t count = rows.dim(0);
  const int64_t hidden = x.dim(1);
  CheckTensor("take_rows x", x, DType::kF32, {x.dim(0), hidden});
  CheckTensor("take_rows rows", rows, DType::kI32, {count});
  CheckTensor("take_rows out", out, DType::kF32, {count, hidden});
  const int32_t* row = rows.data<int32_t>();
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::CopyRows({.table = x.raw(),
                      .dtype = x.dtype(),
                      .table_rows = x.dim(0),
                      .table_stride = x.stride(0),
                      .rows = row,
                      .out = out.data<float>(),
                      .out_stride = out.stride(0),
                      .count = count,
                      .width = hidden},
                     *context.cuda);
      return;
    }
  }
  for (int64_t i = 0; i < count; ++i) {
    SLUICE_CHECK_GE(row[i], 0);
    SLUICE_CHECK_LT(row[i], x.dim(0));
  }
  // Rows a thread takes at a time: a row is a few KB, far below the cost of a hand-over.
  constexpr int64_t kRowGrain = 16;
  context.pool.ParallelFor(count, kRowGrain, [&](int64_t begin, int64_t end, int) {
    for (int64_t i = begin; i < end; ++i) {
      std::copy_n(x.data<float>() + row[i] * x.stride(0), hidden,
                  out.data<float>() + i * out.stride(0));
    }
  });
}

}  // namespace sluice::ops
