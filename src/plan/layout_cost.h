#pragma once

#include "arch/model_spec.h"
#include "plan/hardware_profile.h"
#include "plan/placement_plan.h"

namespace sluice {

// The arithmetic of one layout: what a GPU holds, and what a step takes.
class LayoutCost {
 public:
  // All references must outlive it. The layout is one that the model can have.
  LayoutCost(const ModelSpec& spec, const HardwareProfile& profile, const PlacementRequest& request,
             const GpuLayout& layout);

  // With `sequences` of `context` positions over all groups.
  GpuMemory Memory(int sequences, double context) const;

  // A prefill step of request.step_tokens in each group.
  PlacementStep Prefill() const;
  // One token of each of `sequences`, after `context` positions.
  PlacementStep Decode(int sequences, double context) const;

  // How experts' tokens travel in decoding `sequences`.
  const char* Exchange(int sequences) const;

  double KvBytesPerPosition() const { return kv_position_; }

 private:
  struct Traffic {
    double seconds = 0.0;
    double bytes = 0.0;  // sent by one GPU
  };
  PlacementStep Step(double group_tokens, double kv_bytes, double score_flops) const;
  Traffic Communicate(double group_tokens) const;
  // Of one layer.
  Traffic AllReduce(double group_tokens) const;
  Traffic AllToAll(double group_tokens) const;
  Traffic GatherAndScatter(double group_tokens) const;

  int GpusPerHost() const { return request_.gpus / request_.hosts; }
  double Imbalance() const;

  const ModelSpec& spec_;
  const HardwareProfile& profile_;
  const PlacementRequest& request_;
  GpuLayout layout_;
  int moe_layers_ = 0;
  double token_bytes_ = 0.0;     // of a token's hidden state
  double resident_ = 0.0;        // bytes of a GPU's weights beside the routed experts
  double resident_read_ = 0.0;   // of them, read in a step
  double resident_flops_ = 0.0;  // of a token, on one GPU of its group
  double expert_weights_ = 0.0;  // of one expert of one layer
  double experts_held_ = 0.0;    // whole experts' worth of one layer on a GPU
  double kv_position_ = 0.0;     // bytes of a position on a GPU
};

}  // namespace sluice
