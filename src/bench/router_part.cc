#include <algorithm>

#include "base/error.h"
#include "bench/parts.h"
#include "ops/router/norm_router.h"
#include "ops/router/router.h"

namespace sluice {
namespace {

// One number of tokens, through both ops.
class RouterRows {
 public:
  RouterRows(const ModelSpec& spec, OpBench& bench, int64_t tokens)
      : spec_(spec),
        bench_(bench),
        tokens_(tokens),
        experts_(spec.moe.num_experts),
        weights_(DType::kF32, {tokens, spec.moe.top_k}, bench.memory()),
        ids_(DType::kI32, {tokens, spec.moe.top_k}, bench.memory()) {
    if (spec.moe.choice_bias) bias_ = bench.Floats(DType::kF32, {experts_});
  }

  PartRow Choice() {
    const Tensor logits = bench_.Floats(DType::kF32, {tokens_, experts_});
    PartRow row = Row("choice");
    row.bytes = static_cast<double>(logits.view().NumBytes()) + ChosenBytes();
    row.seconds = bench_.Sample(1, [&](int64_t) {
      ops::Router(RouterDescOf(spec_.moe), logits, bias_, weights_, ids_, {}, bench_.context());
    });
    return row;
  }

  PartRow NormProductChoice() {
    const int64_t hidden = spec_.hidden_size;
    const DType dtype = bench_.options().dtype;
    const int64_t matrix_bytes = experts_ * hidden * static_cast<int64_t>(SizeOf(dtype));
    const int64_t turns = OpBench::Turns(matrix_bytes);
    const Tensor matrices = bench_.Floats(dtype, {turns, experts_, hidden});
    const Tensor norm = bench_.Floats(DType::kF32, {hidden});
    const Tensor x = bench_.Floats(DType::kF32, {tokens_, hidden});
    const Tensor h(bench_.ProductDType(), {tokens_, hidden}, bench_.memory());
    const ops::NormRouterDesc desc{.norm = {.kind = spec_.norm, .eps = spec_.norm_eps},
                                   .router = RouterDescOf(spec_.moe)};
    PartRow row = Row("norm+product+choice");
    row.bytes = static_cast<double>(matrix_bytes + x.view().NumBytes() + h.view().NumBytes()) +
                ChosenBytes();
    row.flops = 2.0 * static_cast<double>(tokens_ * experts_ * hidden);
    row.seconds = bench_.Sample(turns, [&](int64_t call) {
      ops::NormRouter(desc, x, norm, matrices.view()[call % turns], bias_, h, weights_, ids_,
                      bench_.context());
    });
    return row;
  }

 private:
  PartRow Row(const char* part) const {
    return {.part = part,
            .shape = {{"tokens", tokens_}, {"experts", experts_}, {"top_k", spec_.moe.top_k}}};
  }
  double ChosenBytes() const {
    return static_cast<double>(weights_.view().NumBytes() + ids_.view().NumBytes());
  }

  const ModelSpec& spec_;
  OpBench& bench_;
  int64_t tokens_;
  int64_t experts_;
  Tensor weights_;
  Tensor ids_;
  Tensor bias_;  // empty where the choice has none
};

}  // namespace

void TimeRouter(const ModelSpec& spec, OpBench& bench, std::span<const int> tokens,
                const OnPartRow& on_row) {
  if (spec.moe.num_experts == 0) {
    throw Error(ErrorCode::kUnsupported, "the model is dense, it has no router to time");
  }
  for (const int count : tokens) {
    RouterRows rows(spec, bench, count);
    on_row(rows.Choice());
    on_row(rows.NormProductChoice());
  }
}

}  // namespace sluice
