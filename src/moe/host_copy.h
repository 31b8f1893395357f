#pragma once

#include "device/tensor.h"
#include "ops/common/op_context.h"

namespace sluice {

// Brings tensors of the context's memory to where the host reads them.
class HostCopy {
 public:
  // x itself where it is in the host's memory; else its copy, which is queued here: the host reads
  // it once it has waited for that, until the next call. x is contiguous.
  ConstTensorView Of(ConstTensorView x, ops::OpContext& ctx);

 private:
  Tensor pinned_;
};

}  // namespace sluice
