#include "ops/common/checks.h"

#include <string>

#include "base/error.h"

namespace sluice::ops {
namespace {

[[noreturn]] void Fail(std::string_view name, const std::string& expected,
                       const ConstTensorView& view) {
  throw InternalError(std::string(name) + ": expected " + expected + ", got " + view.ToString());
}

bool IsFloatWeight(DType dtype) {
  return dtype == DType::kF32 || dtype == DType::kBF16 || dtype == DType::kF16;
}

}  // namespace

void CheckTensor(std::string_view name, const ConstTensorView& view, DType dtype,
                 std::initializer_list<int64_t> shape) {
  const Shape expected(shape);
  const int last = expected.rank() - 1;
  if (view.dtype() != dtype || !(view.shape() == expected)) {
    Fail(name, std::string(DTypeName(dtype)) + expected.ToString(), view);
  }
  if (last >= 0 && view.dim(last) > 1 && view.stride(last) != 1) {
    Fail(name, "a dense last dimension", view);
  }
}

void CheckProductInput(std::string_view name, const ConstTensorView& view,
                       std::initializer_list<int64_t> shape, const OpContext& context) {
  const bool narrow = context.OnCuda() && IsFloatWeight(view.dtype());
  CheckTensor(name, view, narrow ? view.dtype() : DType::kF32, shape);
}

void CheckWeights(std::string_view name, const ConstTensorView& view,
                  std::initializer_list<int64_t> shape) {
  const Shape expected(shape);
  if (!IsFloatWeight(view.dtype()) || !(view.shape() == expected) || !view.IsContiguous()) {
    Fail(name, "contiguous f32, bf16 or f16" + expected.ToString(), view);
  }
}

void CheckRank(std::string_view name, const ConstTensorView& view, int rank) {
  if (view.rank() != rank) Fail(name, "rank " + std::to_string(rank), view);
}

}  // namespace sluice::ops
