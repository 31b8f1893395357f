#pragma once

#include <memory>

#include "device/tensor.h"
#include "dist/process_group.h"
#include "ops/common/op_context.h"

namespace sluice {

// The rows that the experts of this rank have to compute, sorted by expert: an index plan, not a
// copy, where the tokens are already here. Lives in the step's arena.
struct ExpertRows {
  ConstTensorView x;        // [*, hidden] f32; on CUDA also bf16 or f16
  ConstTensorView gather;   // [R] i32 row of x for each row; empty() = row i reads x[i]
  ConstTensorView offsets;  // [local experts + 1] i32 rows of each expert
  TensorView y;             // [R, hidden] f32, to be filled
};

// Brings each token's hidden state to the experts it was routed to, and their results back.
//
//   ExpertRows rows = dispatcher.Dispatch(x, ids, ctx);
//   ... fill rows.y ...
//   dispatcher.Combine(weights, out, ctx);
//
// Each token's results are summed in the order of its top-k list whoever computed them, so that
// every implementation gives the same bits. Used by one thread, one layer at a time. Tensors are
// of the context's memory, the index plan too: on CUDA nothing of it comes to the host.
class TokenDispatcher {
 public:
  virtual ~TokenDispatcher() = default;

  // x [T, hidden] f32 (on CUDA also bf16 or f16), ids [T, top_k] i32 in [0, all experts).
  virtual ExpertRows Dispatch(ConstTensorView x, ConstTensorView ids, ops::OpContext& ctx) = 0;

  // out[t] += sum over j of weights[t][j] * y of expert ids[t][j]. weights [T, top_k] f32,
  // out [T, hidden] f32.
  virtual void Combine(ConstTensorView weights, TensorView out, ops::OpContext& ctx) = 0;
};

// All experts are on this rank: nothing moves.
std::unique_ptr<TokenDispatcher> MakeLocalDispatcher(int num_experts);

// Expert parallelism: rank r of `group` holds experts [r * E/size, (r+1) * E/size), where E is
// num_experts, a multiple of size. Rows travel to the owner and back. Every rank must run the same
// layers in the same order, with any number of tokens (0 too). `group` must outlive the dispatcher.
// Throws Error(kUnsupported) on CUDA: rows travel through host memory.
std::unique_ptr<TokenDispatcher> MakeAllToAllDispatcher(int num_experts, ProcessGroup& group);

}  // namespace sluice
