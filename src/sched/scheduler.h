#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "decode/decode_strategy.h"
#include "kv/page_allocator.h"
#include "kv/prefix_cache.h"
#include "request/request.h"
#include "request/sequence.h"
#include "request/step.h"
#include "sched/generator.h"
#include "sched/prompt_gathering.h"
#include "sched/swap_policy.h"
#include "sched/waiting_line.h"

namespace sluice {

struct SchedulerConfig {
  int max_num_seqs = 64;              // sequences in one step
  int max_num_batched_tokens = 2048;  // rows in one step; at least max_num_seqs
  int max_model_len = 0;              // positions a sequence may have
  int page_size = 0;                  // positions a KV page
  int num_pages = 0;
  int num_host_pages = 0;            // for what is swapped out
  double swap_seconds_per_page = 0;  // that a copy to or from one takes
  int prefill_layer_groups = 1;      // of a worker that runs one step at a time, as WorkerInfo's
  std::vector<TokenId> eos_ids;
  bool enable_prefix_caching = true;
};

// One report on one sequence, addressed to its request.
struct SequenceReport {
  RequestId request = 0;
  Output output;
};

// Decides what runs in each step: continuous batching over a fixed number of KV pages. Pure
// bookkeeping without device, clock or threads; one thread calls it. At most two steps are under
// way, planned and not committed; a worker runs them in that order.
//
// Pages are sealed as soon as the step that filled them is committed (kv/prefix_cache.h), prompts'
// and outputs' alike. A sequence that gets a place begins with those that are known, but for its
// last token, which is computed at least.
//
// Running sequences are in the order of their priority, then of their turns to get a place in the
// batch, which a WaitingLine gives out. Each step takes one row (and drafts, where the strategy has
// some) of every decoding sequence, then fills the token budget with prefills in that order, in
// chunks; a prompt that needs more than one step's budget leaves up to half of its rows to those
// behind it. Pages are taken as sequences grow. Where there are too few for all of a step's rows,
// the last running sequence gives its own back and waits, first in line of its priority; its keys
// and values are computed again, or copied to the host's pages and back, by what costs less. So the
// first always advances, and among equals nobody who came later gets a place before one that gave
// its own up.
//
// With prefill_layer_groups, the rows of prompts that share a step with decoding sequences go
// through the layers in as many steps, a group of layers each (layered prefill), and the sequences
// decode in each of them: what each layer costs once for all rows, bringing its experts, is then
// shared out to several steps. Prompts behind them begin once these are through, and where more
// wait than there are places, a few steps later, together with those that get a place meanwhile
// (PromptGathering).
//
// A step can be planned while the one before is under way where it is known what that one leaves
// but for the ids that it draws. A sequence that turns out to have ended by then has a row too many
// in the later step, which is dropped. Its pages are given back at once all the same: whoever gets
// them writes to them in a step after that.
class Scheduler {
 public:
  // `strategy` must outlive the scheduler.
  Scheduler(const SchedulerConfig& config, DecodeStrategy& strategy);

  // Throws Error(kInvalidArgument) for a prompt that cannot run even alone. Reads constants only:
  // any thread may call it.
  void CheckFits(const Request& request) const;

  // Queues the request's n sequences. `seed` is that of the first; the others' derive from it.
  // The request has passed Validate and CheckFits.
  void Add(RequestId id, const Request& request, uint64_t seed);

  // Ends sequences and frees their pages at once; returns a last report for each that was live.
  // What steps under way make of them is dropped.
  std::vector<SequenceReport> End(RequestId request, FinishReason reason,
                                  const std::string& error = "");
  std::vector<SequenceReport> EndSequence(RequestId request, int index, FinishReason reason);
  std::vector<SequenceReport> EndAll(FinishReason reason, const std::string& error);

  // The contents of all pages are lost, or not to be trusted. No sequence may be left.
  void ForgetPages();

  bool idle() const { return running_.empty() && waiting_.empty(); }

  // The next step, with at most one under way. Without slices when idle(), or when nothing can be
  // planned before the step under way is committed; then it is not under way.
  StepPlan Plan();

  // Takes in what a worker made of `plan`, the oldest step under way. A failed or malformed result
  // ends every sequence of the step with kError.
  std::vector<SequenceReport> Commit(const StepPlan& plan, const StepResult& result);

  // The step that is committed next took so long: what preempted sequences do is chosen by that,
  // and when prompts begin.
  void ObserveStep(const StepPlan& plan, double seconds);

  // A sequence that the last Plan() took up for the first time.
  struct Admission {
    RequestId request = 0;
    int index = 0;
  };
  const std::vector<Admission>& admitted() const { return admitted_; }

  EngineStats Stats() const;

  // For inspection.
  const PageAllocator& pages() const { return pages_; }
  const PageAllocator& host_pages() const { return host_pages_; }
  const std::vector<std::unique_ptr<Sequence>>& running() const { return running_; }
  const WaitingLine& waiting() const { return waiting_; }

 private:
  // A slice of a step under way.
  struct Flight {
    Sequence* sequence = nullptr;  // null once that has ended
    int kv_before = 0;             // its kv_length when the step was planned
    int kv_length = 0;             // and that of the slice
    bool samples = false;
  };
  using Flights = std::vector<Flight>;  // of one step, in its plan's order
  // Rows of a prompt that went through some layer groups, as the last one will run them.
  struct BetweenLayers {
    Sequence* sequence = nullptr;
    SequenceSlice slice;
  };
  class Foreseen;

  bool CanForesee(const Flights& flights) const;
  bool IsLong(const Sequence& sequence) const;
  int ShareRows();
  void PlanRows(int lacking_pages, StepPlan& plan, int& budget);
  void PlanDecodes(int spare_pages, StepPlan& plan, int& budget);
  void PlanPrefills(StepPlan& plan, int& budget);
  LayerGroup NextPromptLayers(const StepPlan& plan) const;
  void PlanNextLayers(StepPlan& plan, int& budget);
  void Admit(StepPlan& plan, int& budget);
  bool PutsPromptsOff();
  int TokensLeft(const Sequence& sequence) const;
  std::optional<PageList> FindPlace();
  PageList KnownPages(const Sequence& sequence);
  void CountAdmission(Sequence& sequence);

  int DraftLimit(const Sequence& sequence) const;
  int Capacity(const Sequence& sequence) const;
  int PagesToReach(int kv_length, const Sequence& sequence) const;
  void GrowPages(int kv_length, Sequence& sequence);
  static void GivePagesBack(Sequence& sequence);
  int PagesHeldByOthers(const Sequence& sequence) const;
  void PreemptLast(StepPlan& plan);
  void SwapOut(Sequence& sequence, StepPlan& plan);
  void SwapIn(Sequence& sequence, StepPlan& plan);
  static void DropSwapped(Sequence& sequence);
  SequenceSlice MakeSlice(const Sequence& sequence, StepDemand demand) const;
  void AddSlice(Sequence& sequence, SequenceSlice slice, StepPlan& plan, int& budget);
  void AddPrefill(Sequence& sequence, int rows, StepPlan& plan, int& budget);
  void LeaveLayers(const Sequence& sequence);
  void AddSampling(const Sequence& sequence, SequenceSlice& slice) const;
  void AddScoring(const Sequence& sequence, SequenceSlice& slice) const;

  Output CommitSlice(Sequence& sequence, const SequenceSlice& slice, const SliceResult& result);
  void SealPages(Sequence& sequence);
  bool IsAtLength(const Sequence& sequence) const;
  std::optional<FinishReason> FinishOf(const Sequence& sequence) const;
  void Forget(const Sequence& sequence);
  void RemoveFinished();
  std::vector<SequenceReport> EndWhere(const std::function<bool(const Sequence&)>& matches,
                                       FinishReason reason, const std::string& error);

  const SchedulerConfig config_;
  const int length_limit_;  // tokens a sequence may reach: the context, or what all pages hold
  DecodeStrategy& strategy_;
  PageAllocator pages_;
  PrefixCache prefixes_;
  PageAllocator host_pages_;
  SwapPolicy swap_policy_;
  PromptGathering gathering_;
  std::vector<std::unique_ptr<Sequence>> running_;  // by priority and turn
  WaitingLine waiting_;
  std::deque<Flights> under_way_;              // oldest first
  Flights planned_;                            // of the step that is being planned
  LayerGroup prompt_layers_;                   // of the step that was planned last, or is
  std::vector<BetweenLayers> between_layers_;  // that go on in the step after it
  std::vector<int> shares_;                    // [running] rows in that step, without drafts
  std::vector<Admission> admitted_;
  SequenceId next_sequence_ = 1;
  EngineStats totals_;
};

}  // namespace sluice
