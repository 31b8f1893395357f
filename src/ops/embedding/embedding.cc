#include "ops/embedding/embedding.h"

#include <cstring>

#include "ops/common/checks.h"
#include "ops/embedding/embedding_kernels.h"
#include "quant/float_formats.h"

namespace sluice::ops {
namespace {

// Rows a thread takes at a time: a row is a few KB, far below the cost of a hand-over.
constexpr int64_t kRowGrain = 16;

template <class T>
void CopyRow(const T* from, float* to, int64_t count) {
  for (int64_t i = 0; i < count; ++i) to[i] = ToFloat(from[i]);
}

template <class T>
void CopyRows(ConstTensorView table, const int32_t* ids, TensorView out, int64_t begin,
              int64_t end) {
  const int64_t hidden = table.dim(1);
  for (int64_t t = begin; t < end; ++t) {
    CopyRow(table.data<T>() + ids[t] * hidden, out.data<float>() + t * out.stride(0), hidden);
  }
}

}  // namespace

void Embedding(ConstTensorView table, ConstTensorView ids, TensorView out, OpContext& context) {
  CheckRank("embedding table", table, 2);
  CheckRank("embedding ids", ids, 1);
  const int64_t tokens = ids.dim(0);
  CheckWeights("embedding table", table, {table.dim(0), table.dim(1)});
  CheckTensor("embedding ids", ids, DType::kI32, {tokens});
  CheckTensor("embedding out", out, DType::kF32, {tokens, table.dim(1)});
  const int32_t* id = ids.data<int32_t>();
  if constexpr (kCudaBuilt) {
    if (context.OnCuda()) {
      cuda::CopyRows({.table = table.raw(),
                      .dtype = table.dtype(),
                      .table_rows = table.dim(0),
                      .table_stride = table.stride(0),
                      .rows = id,
                      .out = out.data<float>(),
                      .out_stride = out.stride(0),
                      .count = tokens,
                      .width = table.dim(1)},
                     *context.cuda);
      return;
    }
  }
  for (int64_t t = 0; t < tokens; ++t) {
    SLUICE_CHECK_GE(id[t], 0);
    SLUICE_CHECK_LT(id[t], table.dim(0));
  }
  context.pool.ParallelFor(tokens, kRowGrain, [&](int64_t begin, int64_t end, int) {
    switch (table.dtype()) {
      case DType::kBF16:
        return CopyRows<Bf16>(table, id, out, begin, end);
      case DType::kF16:
        return CopyRows<F16>(table, id, out, begin, end);
      default:
        return CopyRows<float>(table, id, out, begin, end);
    }
  });
}

}  // namespace sluice::ops
