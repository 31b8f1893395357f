#pragma once

#include <cstdint>

#include "device/cuda_stream.h"
#include "ops/common/cpu/tiers.h"
#include "ops/router/router.h"

namespace sluice::ops {

inline constexpr int kMaxRouterExperts = 1024;
inline constexpr int kMaxRouterTopK = 64;

// What is added to the sum of sigmoid scores before it divides them: they may all be 0
// (transformers adds the same).
inline constexpr float kSigmoidSumFloor = 1e-20f;

// Scores of the experts already chosen for one token.
struct RouterRowParams {
  const float* logits;  // [num_experts]
  int64_t num_experts;
  const int32_t* ids;  // [top_k]; the highest logit first where `softmax`
  float* weights;      // [top_k], written
  int top_k;
  bool softmax;  // else sigmoid
  bool renormalize_topk;
  float topk_norm;
  float scale;
};

namespace reference {
void RouterWeights(const RouterRowParams& params);
}
SLUICE_DECLARE_IN_TIERS(void RouterWeights(const RouterRowParams& params))

namespace cuda {

// All tokens of a call.
struct RouterParams {
  const float* logits;  // [tokens, num_experts]
  int64_t logits_stride;
  const float* bias;  // [num_experts], or null
  float* weights;     // [tokens, top_k]
  int64_t weights_stride;
  int32_t* ids;  // [tokens, top_k]
  int64_t ids_stride;
  int32_t* counts;  // [num_experts], or null
  int64_t tokens;
  int num_experts;
  int top_k;
  bool softmax;   // else sigmoid
  bool by_logit;  // else by sigmoid and bias
  int num_groups;
  int top_groups;
  bool renormalize_topk;
  float topk_norm;
  float scale;
};
void Router(const RouterParams& params, CudaStream& stream);

}  // namespace cuda

// A call of Router, its arguments checked.
cuda::RouterParams MakeRouterParams(const RouterDesc& desc, ConstTensorView logits,
                                    ConstTensorView bias, TensorView weights, TensorView ids,
                                    TensorView counts);

}  // namespace sluice::ops
