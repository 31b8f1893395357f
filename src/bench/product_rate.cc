#include "bench/product_rate.h"

#include <cstring>

#include "bench/timing.h"
#include "ops/gemm/gemm.h"

namespace sluice {

double MeasureProduct(ops::OpContext& context, DType dtype) {
  const ProbeProduct& size = context.OnCuda() ? kDeviceProduct : kHostProduct;
  const Arena::Scope scope(context.arena);
  const TensorView x = context.arena.Allocate(context.ProductDType(dtype), {size.rows, size.width});
  const TensorView w = context.arena.Allocate(dtype, {size.width, size.width});
  const TensorView out = context.arena.Allocate(DType::kF32, {size.rows, size.width});
  for (const TensorView& input : {x, w}) {
    // 0.0115 in bf16 and f32.
    if (context.OnCuda()) {
      context.cuda->Fill(input.raw(), 0x3c, input.NumBytes());
    } else {
      std::memset(input.raw(), 0x3c, input.NumBytes());
    }
  }
  const double seconds =
      TimeCalls(context.cuda, 1, [&](int64_t) { ops::Gemm({}, x, w, {}, out, context); });
  return 2.0 * static_cast<double>(size.rows * size.width * size.width) / seconds;
}

}  // namespace sluice
