#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arch/model_spec.h"
#include "base/machine.h"
#include "base/thread_pool.h"
#include "checkpoint/weight_source.h"
#include "device/buffer.h"
#include "device/cuda_stream.h"
#include "dist/process_group.h"
#include "engine/step_graphs.h"
#include "engine/worker.h"
#include "kv/page_pool.h"
#include "model/decoder.h"
#include "model/model_weights.h"
#include "moe/token_dispatcher.h"
#include "offload/expert_store.h"
#include "request/step.h"
#include "sampling/sampler.h"
#include "trace/routing_source.h"

namespace sluice {

struct RunnerOptions {
  std::optional<int> cuda;  // the CUDA device that computes and holds the model; none = the CPU
  double gpu_memory_utilization = 0.9;  // share of the device's memory that this process may take
  DType dtype = DType::kF32;            // of the weights: f32, bf16 or f16
  std::optional<DType> kv_dtype;        // of keys and values: f32 or bf16; none = as the weights
  int num_threads = 1;                  // counts the caller
  CpuTier tier = CpuTier::kPortable;
  bool reference_ops = false;      // every op by its plain maths, slowly
  bool blocking_launches = false;  // a CUDA error names its kernel; slow
  int page_size = 16;              // positions a KV page
  int num_pages = 0;
  int max_model_len = 0;                    // at most the spec's max_positions
  int max_step_rows = 512;                  // most rows of one step: what scratch is estimated for
  int expert_slots = 0;                     // 0 = every expert resident
  bool poison_freed_slots = false;          // see ExpertStore::Options
  ProcessGroup* expert_parallel = nullptr;  // experts are sharded over its ranks; null = all here
  RouterObserver* observer = nullptr;       // may be null
};

// What a model needs in the memory of the device that runs it.
struct MemoryNeeds {
  uint64_t weight_bytes = 0;
  uint64_t expert_bytes = 0;  // of weight_bytes: the slots of routed experts
  uint64_t kv_bytes = 0;
  uint64_t scratch_bytes = 0;  // of a step of max_step_rows
  uint64_t process_bytes = 0;  // code, tokenizer, threads, queues; none on a CUDA device
  uint64_t total() const { return weight_bytes + kv_bytes + scratch_bytes + process_bytes; }
};
MemoryNeeds EstimateMemory(const ModelSpec& spec, const RunnerOptions& options);

// Bytes that are free for a model: of the host, or within the share of a CUDA device's memory that
// the options allow. Throws Error(kUnsupported) when there is no such device.
uint64_t AvailableMemory(const RunnerOptions& options);

// The types that weights can be held in, whatever the checkpoint stores.
std::span<const DType> WeightDTypes();

// The KV layout that a spec has under `options`.
KvLayout KvLayoutOf(const ModelSpec& spec, const RunnerOptions& options);

// Told how far loading is, from loading threads, one at a time. Not called once loading is over.
using LoadProgress = std::function<void(int64_t bytes_done, int64_t bytes_total)>;

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

  // Runs one step and hands the logits of each slice's sample and score rows to `sink`.
  void Run(const StepPlan& plan, const LogitsSink& sink);

  // Replaces where routing comes from, between steps.
  void SetRouting(std::unique_ptr<RoutingSource> routing) { routing_ = std::move(routing); }
  void SetObserver(RouterObserver* observer) { options_.observer = observer; }

  const ExpertStore* experts() const { return experts_.get(); }
  ThreadPool& pool() { return pool_; }
  CudaStream* stream() { return stream_.get(); }  // null on the CPU

 private:
  struct Rows;
  struct WantedRow {
    int slice;
    int row;  // of the slice
  };
  Rows GatherRows(const StepPlan& plan);
  // The step's shape, where it can be recorded and run again.
  std::optional<StepShape> RecordableShape(const Rows& rows, const DecoderInput& input,
                                           const StepRouting* routing) const;
  // Hands the logits of wanted rows from `begin` on to the sink.
  void Deliver(std::span<const WantedRow> wanted, int64_t begin, ConstTensorView logits,
               const LogitsSink& sink);
  // `logits` where the host can read them; waits for the stream.
  ConstTensorView OnHost(ConstTensorView logits);

  ModelSpec spec_;
  RunnerOptions options_;
  ThreadPool pool_;
  std::unique_ptr<CudaStream> stream_;  // null = the CPU
  Arena arena_;
  Arena staging_;  // pinned; used on CUDA alone
  std::unique_ptr<ModelWeights> weights_;
  std::unique_ptr<CheckpointExperts> expert_source_;
  std::unique_ptr<ExpertStore> experts_;
  std::unique_ptr<TokenDispatcher> dispatcher_;
  std::unique_ptr<RoutingSource> routing_;
  std::unique_ptr<PagePool> pages_;
  std::unique_ptr<Decoder> decoder_;
  std::vector<int> moe_layers_;
  StepGraphs graphs_;
};

// A Worker that runs plans on a ModelRunner in this process and samples on its threads. A failed
// step is reported, not thrown. The runner must outlive it.
class InProcessWorker : public Worker {
 public:
  explicit InProcessWorker(ModelRunner& runner);
  WorkerInfo Info() const override { return runner_.Info(); }
  StepResult Execute(const StepPlan& plan) override;

 private:
  void DigestRow(const SequenceSlice& slice, const ModelRunner::LogitsRow& row,
                 SliceResult& result);

  ModelRunner& runner_;
  std::vector<SampleScratch> scratch_;  // one a thread
};

}  // namespace sluice
