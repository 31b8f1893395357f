#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "device/tensor.h"
#include "device/timeline.h"
#include "moe/compute_moment.h"
#include "moe/cpu_share.h"
#include "moe/host_copy.h"
#include "moe/prefetch_queue.h"
#include "moe/streaming_options.h"
#include "moe/token_dispatcher.h"
#include "offload/expert_store.h"
#include "offload/offload_stats.h"
#include "ops/common/op_context.h"

namespace sluice {

// Runs the experts of layers that do not all have a slot. What a layer needs is known when its
// router has chosen; from there the pipeline goes:
//   - Experts in a slot, or on their way to one, stay there; the others are asked for, those with
//     the most tokens first, as long as there are slots.
//   - Once all are asked for, the link is given those that the next layer is expected to choose, as
//     far as PrefetchWindow says: behind everything that this layer waits for, and where it waits
//     for nothing, once a device has been given the next layer up to its router.
//   - Compute runs in waves, one pair of grouped products each: first with what is there, then with
//     what comes, in its order. A device does not wait for the host to know what is there of what
//     was chosen: it is told the slots of all that are there, and takes the chosen ones. A wave's
//     slots are free again behind it. The smaller a wave, the sooner it can begin, and the last
//     ones are what nothing hides: on the CPU a wave is what has come, and at least one expert; a
//     device's waves are queued ahead of their experts, each a quarter of what is outstanding, so
//     that the last are single experts; and at most half of what is pinned, so that there are slots
//     for others meanwhile.
// Where the CPU computes some of the missing experts (CpuShare), the others are asked for
// meanwhile, and one of the CPU's where the link has nothing else to do.
//
// On demand, nothing is brought ahead and a wave waits for all that have found a slot. Serially,
// that goes for every expert of the layer.
//
// Each row is computed by one expert in one wave, and rows are summed up when all are there, so
// that how experts came changes no bit. On a device the host waits for each layer's choice, for its
// own share, and for nothing else but the reading of files.
class StreamedExperts {
 public:
  struct Options {
    StreamingOptions streaming;  // its policy is not kResident
    int top_k = 0;
    CpuShare* cpu_share = nullptr;  // null where the CPU computes none
    Timeline* timeline = nullptr;   // may be null
  };
  // The store and what the options name must outlive this.
  StreamedExperts(ExpertStore& store, const Options& options);

  // Forgets the failures of the step before, and what it did not come to run.
  void BeginStep();

  // What a part of a step's tokens chose in `layer`, ids [*, top_k] i32 (as Choose's): those
  // missing are asked for while the rest of the tokens attend. Where the host waits for a device,
  // that is for the part before. Asks for nothing but in a pipeline.
  void Announce(int layer, ConstTensorView ids, ops::OpContext& ctx);

  // What all of the step's tokens chose in `layer`, ids [T, top_k] i32 (of the context's memory,
  // contiguous), and their hidden states h [T, hidden]: begins to bring to the host what it needs.
  void Choose(int layer, ConstTensorView ids, ConstTensorView h, ops::OpContext& ctx);

  // Fills rows.y for what was chosen last. Rows of an expert that could not be read are zeros.
  void Run(const ExpertRows& rows, ops::OpContext& ctx);

  // The tokens of the step that needed an expert which could not be read, and why.
  struct Failure {
    int64_t token = 0;
    std::string error;
  };
  std::span<const Failure> failures() const { return failures_; }

  // Times are those of layers before the last that ran.
  const OffloadStats& stats() const { return stats_; }

 private:
  // When compute came to a wave, and when the wave's experts were there.
  struct WaveTimes {
    ComputeMoment came;
    ComputeMoment began;
  };
  // What some of a layer's tokens chose.
  struct Part {
    ComputeMoment known;  // when it had come to the host; of the first one it is chosen_
    HostCopy copy;
    std::span<const int32_t> ids;  // [*, top_k] of the host's, once known
  };
  struct LayerRun;
  // What a layer's computing waited for.
  struct LayerWaits {
    size_t nth = 0;    // among those that route
    size_t waves = 0;  // of times_
    size_t transfers = 0;
    bool began_ready = false;  // with experts that were there: no wave of times_ was its first
    bool cpu_share = false;    // a device for the CPU's; CpuShare has the time
  };

  LayerOffloadStats& StatsOf(size_t nth) { return stats_.layers[nth]; }
  // The n-th of the layers that have routed experts.
  int LayerOf(size_t nth) const { return store_.experts().LayerAt(static_cast<int>(nth)); }
  void AddPart(ConstTensorView ids, ops::OpContext& ctx);
  std::span<const int32_t> AwaitPart(int layer, size_t index);
  void AskEarly(int layer, size_t until);
  void Count(std::span<const int32_t> ids);
  void SortForAsking(std::vector<int32_t>& experts) const;
  void QueueReady(LayerRun& run);
  void EndReady(const LayerRun& run);
  void NoteTimes();
  void FindNeeded(LayerRun& run);
  void BeginCpuShare(LayerRun& run);
  void EndCpuShare(LayerRun& run);
  void KeepOne(LayerRun& run);
  bool Ask(int layer, size_t nth, int32_t expert, FetchReason reason);
  void AskForMissing(LayerRun& run);
  void LookAhead(size_t nth, std::span<const int32_t> ids);
  void LookAheadLater(const LayerRun& run);
  void LookAheadNow();
  void AskAhead();
  bool Waits(const LayerRun& run) const;
  void TakeRead(LayerRun& run);
  void Fail(LayerRun& run, int32_t expert);
  std::vector<int32_t> NextWave(LayerRun& run);
  void RunWave(LayerRun& run, std::span<const int32_t> experts);

  ExpertStore& store_;
  const Options options_;
  OffloadStats stats_;
  std::vector<Failure> failures_;

  // Of the layer in hand.
  int layer_ = -1;
  std::vector<Part> parts_;           // kept for their memory
  size_t num_parts_ = 0;              // those that are known or on their way to the host
  size_t parts_asked_ = 0;            // whose experts were asked for
  std::vector<int32_t> asked_early_;  // [experts] the how manieth they asked for, from 1; or 0
  int32_t num_asked_early_ = 0;
  std::vector<int32_t> counts_;       // [experts] tokens
  std::vector<int32_t> slots_;        // [experts] slots of a wave, or -1
  std::vector<int32_t> ready_slots_;  // [experts] likewise, of those QueueReady found there

  // What is brought ahead.
  PrefetchQueue ahead_;
  std::vector<int32_t> unseen_ids_;  // what the layer before chose, if ahead_ has not seen it yet

  // When things were, of the layer that ran last and the one in hand.
  ComputeMoment chosen_;         // the router had chosen for the first tokens
  ComputeMoment chosen_before_;  // the same of the layer before
  std::vector<WaveTimes> times_;
  LayerWaits waits_;                   // of the one in hand, or that ran last
  bool ran_ = false;                   // to its end
  std::optional<LayerWaits> unnoted_;  // of the one before, until they are noted
};

}  // namespace sluice
