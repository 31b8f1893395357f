#pragma once

#include <cstring>
#include <span>
#include <type_traits>

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice::ops {

// The host's values where the context's ops read them: [n] in its arena, or on CUDA in its inbox.
template <class T>
TensorView Upload(std::span<T> values, OpContext& context) {
  const Shape shape{static_cast<int64_t>(values.size())};
  constexpr DType kDType = DTypeTraits<std::remove_const_t<T>>::kDType;
  if (!context.OnCuda()) {
    const TensorView placed = context.arena.Allocate(kDType, shape);
    if (!values.empty()) std::memcpy(placed.raw(), values.data(), values.size_bytes());
    return placed;
  }
  SLUICE_CHECK(context.inbox != nullptr);
  const Inbox::Piece piece = context.inbox->Take(values.size_bytes());
  if (!values.empty()) std::memcpy(piece.host, values.data(), values.size_bytes());
  context.inbox->Filled(piece);
  return TensorView(piece.device, kDType, shape);
}

}  // namespace sluice::ops
