#pragma once

#include <array>
#include <chrono>
#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "arch/model_spec.h"
#include "base/machine.h"
#include "base/thread_pool.h"
#include "checkpoint/weight_source.h"
#include "device/buffer.h"
#include "device/cuda_stream.h"
#include "device/device_spans.h"
#include "dist/process_group.h"
#include "engine/memory_plan.h"
#include "engine/step_graphs.h"
#include "engine/worker.h"
#include "kv/page_pool.h"
#include "model/decoder.h"
#include "model/model_weights.h"
#include "moe/streamed_experts.h"
#include "moe/token_dispatcher.h"
#include "offload/expert_link.h"
#include "offload/expert_store.h"
#include "offload/host_experts.h"
#include "offload/offload_stats.h"
#include "request/step.h"
#include "sampling/device_sampler.h"
#include "sampling/sampler.h"
#include "trace/routing_source.h"

namespace sluice {

// Told how far loading is, from loading threads, one at a time. Not called once loading is over.
using LoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

// What was planned for a runner, and what it came to.
struct MemoryUse {
  MemoryNeeds planned;
  uint64_t arena_peak_bytes = 0;  // most that steps took of planned.arena_bytes
  uint64_t taken_bytes = 0;  // what a CUDA device has less since the plan, whoever took it; else 0
};

// A model on this process's CPU or on a CUDA device: weights, pages, threads and scratch, and the
// way from a StepPlan to logits. One caller thread.
class ModelRunner {
 public:
  // Loads the weights. Throws Error(kResourceExhausted), before anything is allocated, when the
  // needs pass the memory that is available; Error(kUnsupported) for a spec that no op can run.
  // `source` must outlive the runner when experts are not all resident.
  ModelRunner(const ModelSpec& spec, const WeightSource& source, const RunnerOptions& options,
              std::unique_ptr<RoutingSource> routing, const LoadProgress& progress = {});
  ~ModelRunner();

  const ModelSpec& spec() const { return spec_; }
  const RunnerOptions& options() const { return options_; }
  WorkerInfo Info() const;

  struct LogitsRow {
    int slice;                      // index into plan.slices
    int row;                        // of the slice
    int thread;                     // the caller, in [0, num_threads)
    std::span<const float> logits;  // [vocab], gone when the sink returns
  };
  // Called once for each wanted row, from several threads at once, in no order.
  using LogitsSink = std::function<void(const LogitsRow&)>;

  // Most steps that may be under way on a device.
  static constexpr int kMostSteps = 2;

  // Queues one step behind those under way, on a device, or runs it, on the CPU. Where the device
  // draws (Collect), a row that is only sampled has its token drawn there, and its logits stay
  // there; those of every other sample and score row are handed to `sink` before this returns. A
  // step in which the host looks at something (logits, routing) waits for it here, so it gains
  // nothing by being submitted early. `plan` is not read later. One that throws is not under way.
  //
  // Returns the slices whose tokens needed an expert that could not be read: what the step made of
  // them is worth nothing. Each slice once.
  struct SliceFailure {
    int slice = 0;
    std::string error;
  };
  [[nodiscard]] std::vector<SliceFailure> Submit(const StepPlan& plan, const LogitsSink& sink);

  // A sample row whose token was drawn on the device.
  struct DrawnRow {
    int slice;
    int nth;             // of the slice's sample rows
    SampledToken token;  // as Sample gives for the row's logits
    std::string error;   // not empty: it could not be drawn
  };
  // Waits for the oldest step under way, and returns what the device drew in it.
  std::vector<DrawnRow> Collect();
  // Whether Collect would not wait.
  bool Ready() const;

  // Runs one step, with none under way, and hands the logits of each slice's sample and score rows
  // to `sink`. Throws Error(kDataLoss) where a slice failed.
  void Run(const StepPlan& plan, const LogitsSink& sink);

  // Replaces where routing comes from, between steps.
  void SetRouting(std::unique_ptr<RoutingSource> routing) { routing_ = std::move(routing); }
  void SetObserver(RouterObserver* observer) { options_.observer = observer; }

  const ModelWeights& weights() const { return *weights_; }
  const ExpertStore* experts() const { return experts_.get(); }
  // What came of offloading; null where every expert has a slot.
  const OffloadStats* offload_stats() const {
    return streamed_ == nullptr ? nullptr : &streamed_->stats();
  }
  // The way to the experts' slots; null where there is none.
  ExpertLink* link() { return link_.get(); }
  const PagePool& pages() const { return *pages_; }
  MemoryUse Memory() const;

  // Takes the memory of all KV pages from the system now, where it would come as they are written.
  void TakePages();
  const StepGraphs& graphs() const { return graphs_; }
  // Seconds that steps waited for the device so far; the rest of a step is the host's.
  double SecondsWaited() const { return waited_.count(); }
  ThreadPool& pool() { return pool_; }
  CudaStream* stream() { return stream_.get(); }  // null on the CPU
  const CudaStream* stream() const { return stream_.get(); }

 private:
  class PartRecorder;
  struct Rows;
  // A step's rows where ops read them. Neither copied nor moved: its parts refer to each other.
  struct StepInput {
    DecoderInput decoder;
    DecoderInput everywhere;             // of rows in all layers, where others are in some
    ConstTensorView wanted_rows;         // [n] i32 among the rows
    std::optional<StepRouting> routing;  // these two of a model with experts
    std::optional<MoeContext> moe;
  };
  struct WantedRow {
    int slice;
    int row;  // of the slice
    int nth;  // of the slice's sample rows, drawn on the device; -1 = the host gets its logits
  };
  // What is kept of a step that was submitted until it is collected, and its memory for later ones:
  // what the host wrote for the device, and the device for the host.
  struct StepUnderWay {
    SpanFacts facts;                 // where there is a timeline
    std::vector<WantedRow> drawing;  // the rows that `draws` has
    DeviceSampler::Draws draws;      // these three on CUDA alone
    std::optional<CudaEvent> done;   // what is queued of the step
    DeviceSpans::Step spans;
    std::vector<DrawnRow> drawn;  // rows that were drawn before, where logits are made in parts
  };
  void PrepareDevice(const MemoryNeeds& needs);
  void PrepareExperts(const WeightSource& source, const OnBytesRead& on_read);
  void PrepareSwapping();
  void SwapPages(const StepPlan& plan);
  std::vector<SliceFailure> FailedSlices() const;
  void Queue(const StepPlan& plan, bool draws, const LogitsSink& sink);
  void QueueStep(const StepPlan& plan, bool draws, const LogitsSink& sink, StepUnderWay& step);
  void Prepare(const StepPlan& plan, bool draws, StepInput& input, StepUnderWay& step,
               ops::OpContext& ctx);
  void CutIntoParts(DecoderInput& input, ops::OpContext& ctx);
  // Layers [first, second) are those of a group.
  std::pair<int, int> LayersOf(const LayerGroup& group) const;
  TensorView RunLayers(StepInput& input, ops::OpContext& ctx);
  void CopyHidden(ConstTensorView from, TensorView to);
  void TakeUp(TensorView x);
  void LayDown(ConstTensorView x);
  StepOutput Compute(StepInput& input, StepUnderWay& step, ops::OpContext& ctx);
  // What was queued until here is the part `name` of the step, on the device's track.
  void MarkDevice(const char* name, StepUnderWay& step) {
    if (device_spans_ != nullptr) device_spans_->Mark(name, step.spans);
  }
  static void GatherWanted(const SequenceSlice& slice, int index, bool draws, Rows& rows);
  TokenId PlaceToken(TokenId token) const;
  void GatherRows(const StepPlan& plan, bool draws, Rows& rows) const;
  void FillBucket(Rows& rows) const;
  // The step's shape, where it can be recorded and run again.
  std::optional<StepShape> RecordableShape(const StepInput& input) const;
  void Deliver(const StepPlan& plan, std::span<const WantedRow> wanted, TensorView logits,
               const LogitsSink& sink, StepUnderWay& step);
  void QueueDraws(const StepPlan& plan, std::span<const WantedRow> wanted, TensorView logits,
                  StepUnderWay& step);
  void Await(StepUnderWay& step);
  void TakeDraws(StepUnderWay& step);
  // Those rows of `logits` where the host can read them once the stream is there.
  ConstTensorView OnHost(ConstTensorView logits, std::span<const int64_t> rows);

  ModelSpec spec_;
  RunnerOptions options_;
  ThreadPool pool_;
  std::unique_ptr<CudaStream> stream_;  // null = the CPU
  Arena arena_;
  Arena staging_;  // pinned; used on CUDA alone, as those below
  std::unique_ptr<ops::Inbox> inbox_;
  std::unique_ptr<DeviceSampler> sampler_;
  std::unique_ptr<DeviceSpans> device_spans_;  // null without a timeline
  uint64_t free_at_start_ = 0;                 // bytes of the device before anything was taken
  std::unique_ptr<ModelWeights> own_weights_;  // null where they are shared
  const ModelWeights* weights_ = nullptr;
  std::unique_ptr<CheckpointExperts> expert_source_;
  // These are there where not every expert has a slot; the first two not on a CPU that reads
  // experts straight into slots.
  std::unique_ptr<HostExperts> host_experts_;
  std::unique_ptr<ExpertLink> link_;
  std::unique_ptr<ExpertStore> experts_;
  std::unique_ptr<CpuShare> cpu_share_;  // null where the CPU computes no experts of a step
  std::unique_ptr<StreamedExperts> streamed_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
  std::unique_ptr<RoutingSource> routing_;
  std::unique_ptr<PagePool> pages_;
  std::unique_ptr<PagePool> host_pages_;  // null without any
  double swap_seconds_per_page_ = 0;
  std::unique_ptr<Decoder> decoder_;
  std::vector<int> moe_layers_;
  StepGraphs graphs_;
  std::unique_ptr<Rows> rows_;
  // Hidden states of rows between layer groups: of those sequences, one behind the other.
  struct RowsOfSequence {
    SequenceId sequence = 0;
    int64_t count = 0;
    bool operator==(const RowsOfSequence&) const = default;
  };
  Tensor hidden_between_;  // [max_step_rows, hidden] f32; empty where none are
  std::vector<RowsOfSequence> rows_between_;
  std::array<StepUnderWay, kMostSteps> steps_;  // the n-th step has [n % kMostSteps]
  uint64_t submitted_ = 0;                      // steps
  uint64_t collected_ = 0;
  // Of the last step, by slice: which of the sampler's draws its last sample is, or -1. Empty where
  // the step failed.
  std::vector<int32_t> last_draws_;
  std::chrono::duration<double> waited_{};
};

// A Worker that runs plans on a ModelRunner in this process and samples on its threads. A failed
// step is reported, not thrown. The runner must outlive it.
class InProcessWorker : public Worker {
 public:
  explicit InProcessWorker(ModelRunner& runner);
  // Waits for the steps under way.
  ~InProcessWorker() override;
  WorkerInfo Info() const override { return runner_.Info(); }
  void Submit(const StepPlan& plan) override;
  StepResult Collect() override;
  bool Ready() override;

 private:
  struct Step {
    StepResult result;
    bool runs = false;  // the runner has it
  };
  void Fail(const std::exception& error, StepResult& result) const;
  void DigestRow(const SequenceSlice& slice, const ModelRunner::LogitsRow& row,
                 SliceResult& result);

  ModelRunner& runner_;
  std::deque<Step> steps_;              // under way, oldest first
  std::vector<SampleScratch> scratch_;  // one a thread
};

}  // namespace sluice
