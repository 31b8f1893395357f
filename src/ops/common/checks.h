#pragma once

#include <initializer_list>
#include <string_view>

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// Checks of an op's arguments; all throw InternalError with what was expected and what came.

// `view` has this dtype and shape, and its last dimension is dense (the others may be strided).
void CheckTensor(std::string_view name, const ConstTensorView& view, DType dtype,
                 std::initializer_list<int64_t> shape);

// As CheckTensor for what is an input of products: f32, and on CUDA bf16 or f16 as well.
void CheckProductInput(std::string_view name, const ConstTensorView& view,
                       std::initializer_list<int64_t> shape, const OpContext& context);

// `view` is contiguous, of this shape, and f32, bf16 or f16.
void CheckWeights(std::string_view name, const ConstTensorView& view,
                  std::initializer_list<int64_t> shape);

// `view` has `rank` dimensions: to be asked before its dimensions are read.
void CheckRank(std::string_view name, const ConstTensorView& view, int rank);

}  // namespace sluice::ops
