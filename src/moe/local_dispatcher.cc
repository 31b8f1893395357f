#include "moe/token_dispatcher.h"
#include "ops/permute/dispatch_plan.h"

namespace sluice {
namespace {

class LocalDispatcher : public TokenDispatcher {
 public:
  explicit LocalDispatcher(int num_experts) : num_experts_(num_experts) {}

  ExpertRows Dispatch(ConstTensorView x, ConstTensorView ids, ops::OpContext& ctx) override {
    plan_ = ops::BuildDispatchPlan(ids, num_experts_, ctx);
    y_ = ctx.arena.Allocate(DType::kF32, {plan_.row_token.dim(0), x.dim(1)});
    return {.x = x, .gather = plan_.row_token, .offsets = plan_.offsets, .y = y_};
  }

  void Combine(ConstTensorView weights, TensorView out, ops::OpContext& ctx) override {
    ops::Combine(y_, plan_.row_of, weights, out, ctx);
  }

 private:
  int num_experts_;
  ops::DispatchPlan plan_;  // of the layer in hand
  TensorView y_;
};

}  // namespace

std::unique_ptr<TokenDispatcher> MakeLocalDispatcher(int num_experts) {
  return std::make_unique<LocalDispatcher>(num_experts);
}

}  // namespace sluice
