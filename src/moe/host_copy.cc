#include "moe/host_copy.h"

#include "ops/common/copy_few_bytes.h"

namespace sluice {

ConstTensorView HostCopy::Of(ConstTensorView x, ops::OpContext& ctx) {
  if (!ctx.OnCuda()) return x;
  if (pinned_.view().empty() || pinned_.view().NumBytes() < x.NumBytes()) {
    pinned_ = Tensor(x.dtype(), {x.NumElements()}, MemoryKind::kPinned);
  }
  if constexpr (kCudaBuilt) {
    ops::cuda::CopyFewBytes(pinned_.view().raw(), x.raw(), static_cast<size_t>(x.NumBytes()),
                            *ctx.cuda);
  }
  return TensorView(pinned_.view().raw(), x.dtype(), x.shape());
}

}  // namespace sluice
