#pragma once

#include <cstring>
#include <span>
#include <type_traits>

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// The host's values where the context's ops read them: [n] in its arena. On CUDA the copy is queued
// and leaves from the context's staging memory.
template <class T>
TensorView Upload(std::span<T> values, OpContext& context) {
  const Shape shape{static_cast<int64_t>(values.size())};
  const TensorView placed =
      context.arena.Allocate(DTypeTraits<std::remove_const_t<T>>::kDType, shape);
  if (values.empty()) return placed;
  if (!context.OnCuda()) {
    std::memcpy(placed.raw(), values.data(), values.size_bytes());
    return placed;
  }
  SLUICE_CHECK(context.staging != nullptr);
  const TensorView staged =
      context.staging->Allocate(DTypeTraits<std::remove_const_t<T>>::kDType, shape);
  std::memcpy(staged.raw(), values.data(), values.size_bytes());
  context.cuda->Copy(placed.raw(), staged.raw(), values.size_bytes());
  return placed;
}

}  // namespace sluice::ops
