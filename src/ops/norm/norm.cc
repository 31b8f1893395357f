#include "ops/norm/norm.h"

#include "ops/norm/layer_norm.h"
#include "ops/norm/rms_norm.h"

namespace sluice::ops {

void Norm(const NormDesc& desc, ConstTensorView x, ConstTensorView weight, TensorView out,
          OpContext& context) {
  if (desc.kind == NormKind::kLayer) {
    LayerNorm({.eps = desc.eps}, x, weight, out, context);
  } else {
    RmsNorm({.eps = desc.eps}, x, weight, out, context);
  }
}

}  // namespace sluice::ops
