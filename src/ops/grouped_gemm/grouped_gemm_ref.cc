#include <cmath>

#include "ops/common/load_float.h"
#include "ops/grouped_gemm/grouped_gemm_kernels.h"

namespace sluice::ops::reference {
namespace {

double Product(const GroupedBlockParams& params, int64_t row, int64_t column) {
  double sum = params.addend == nullptr ? 0.0 : params.addend[row * params.addend_stride + column];
  for (int64_t k = 0; k < params.depth; ++k) {
    const double weight = LoadFloat(params.w, params.dtype, column * params.depth + k);
    sum += params.x_rows[row][k] * weight;
  }
  return sum;
}

}  // namespace

void GroupedBlock(const GroupedBlockParams& params) {
  for (int64_t m = 0; m < params.rows; ++m) {
    for (int64_t n = 0; n < params.columns; ++n) {
      double value = Product(params, m, n);
      if (params.swiglu) {
        value = value / (1.0 + std::exp(-value)) * Product(params, m, n + params.up_distance);
      }
      params.out[m * params.out_stride + n] = static_cast<float>(value);
    }
  }
}

}  // namespace sluice::ops::reference
