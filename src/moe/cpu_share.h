#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "base/machine.h"
#include "base/side_thread.h"
#include "base/thread_pool.h"
#include "device/tensor.h"
#include "device/timeline.h"
#include "moe/compute_moment.h"
#include "moe/cpu_experts.h"
#include "moe/host_copy.h"
#include "moe/token_dispatcher.h"
#include "offload/expert_store.h"
#include "ops/common/op_context.h"

namespace sluice {

// Has the CPU compute some of the experts that a layer misses, where they lie in the store's host
// tier, while the link brings the others: those with the fewest tokens, as many as let it and the
// link be through together (HostShare). Beside a device it does so on a thread of its own, from
// when the choice is known. What it computes finds no slot, so as long as slots are free the link
// brings everything: that need not come again.
class CpuShare {
 public:
  struct Options {
    CpuTier tier = CpuTier::kPortable;
    int top_k = 0;
    bool beside_device = false;    // a GPU computes the others; else the caller's thread does
    Timeline* timeline = nullptr;  // may be null
  };
  // The store has a host tier and a link, and outlives this as the others do. Computes some experts
  // to learn what they cost. Throws Error(kResourceExhausted) when the system gives no more
  // threads.
  CpuShare(ExpertStore& store, ThreadPool& pool, const Options& options);

  // Begins to bring to the host what experts of the layer that comes next read: h [T, hidden].
  void Bring(ConstTensorView h, ops::OpContext& ctx);

  // What a layer needs.
  struct Need {
    int layer = 0;
    std::span<const int32_t> ids;     // [T, top_k] what its tokens chose
    std::span<const int32_t> counts;  // [experts] tokens
    std::span<const int32_t> away;    // experts in no slot, those with the fewest tokens first
    size_t transfers = 0;             // that it waits for, if the link brings all of `away`
  };
  class Layer;
  // Takes its share of `away`, and begins to compute its rows. Null where it takes none.
  std::unique_ptr<Layer> Begin(const Need& need, const ExpertRows& rows, ops::OpContext& ctx);

  // How long a device waited for the last share that it had. It has passed that by now.
  double SecondsWaited() const { return began_.SecondsSince(came_); }

 private:
  std::vector<int32_t> Choose(const Need& need);
  void NoteCopies();
  HostLease Hold(int layer, std::span<const int32_t> experts) const;

  ExpertStore& store_;
  const Options options_;
  CpuExperts cpu_;
  std::optional<SideThread> side_;  // that computes beside a device

  // Hidden states where the host reads them, and from when on; empty where it does not.
  HostCopy copy_of_h_;
  ConstTensorView h_;
  ComputeMoment h_known_;

  // What the share is chosen by.
  LinkUse link_use_;     // as of the layer before
  double copy_s_ = 0.0;  // what a copy takes, lately; 0 while none has arrived

  // When a device came to the share's rows, and when they were there.
  ComputeMoment came_;
  ComputeMoment began_;
};

// The share of one layer, whose experts stay in the host's memory. When it ends, nobody computes it
// any more. Outlived by what it was begun with.
class CpuShare::Layer {
 public:
  ~Layer();
  Layer(const Layer&) = delete;
  Layer& operator=(const Layer&) = delete;

  std::span<const int32_t> experts() const { return experts_; }  // ascending

  // Its rows are among the others from here, for what is queued next. Where the CPU is the device,
  // they are computed here. Once.
  void Finish();

 private:
  friend class CpuShare;
  Layer(CpuShare& share, std::vector<int32_t> experts, const Need& need, const ExpertRows& rows,
        ops::OpContext& ctx);

  void PlaceInStaging(std::span<const int32_t> counts);
  void BeginAside();
  void Compute() const;

  CpuShare& share_;
  ops::OpContext& ctx_;
  std::vector<int32_t> experts_;
  HostLease lease_;
  std::vector<int32_t> slots_;        // [experts of the layer] in the host's tier, or -1
  std::vector<int32_t> row_offsets_;  // [experts of the layer + 1] in y_
  std::vector<int32_t> gather_;       // [rows of y_] tokens
  TensorView all_y_;                  // rows.y
  TensorView y_;                      // all_y_, or beside a device rows of the staging memory
  std::optional<Arena::Scope> staging_;
  TensorView target_rows_;  // [rows of y_] i32 where they lie in all_y_
};

}  // namespace sluice
