#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <vector>

#include "engine/deferring_worker.h"

namespace sluice::sim {

// The pseudo-model: the token after `history` under `seed`. A function of nothing else, mostly of
// the last token so that texts repeat themselves and drafts often hold.
TokenId NextToken(std::span<const TokenId> history, uint64_t seed, int vocab_size);

// A worker without a model that keeps, for each KV slot, which position it belongs to, the token
// written there, a hash of all tokens up to it and the salt of the sequence that wrote it. Each row
// it runs reads every slot below it; a slot that holds anything but what the sequence's own earlier
// rows wrote, or would have written, is a failure, and so is a page that is written to while
// another sequence of the step has it. Rows that have layers to go leave nothing that could be
// read, and go on with the next group in the step after. Tokens come from what the slots hold, so a
// wrong page also shows in the text.
//
// Throws std::runtime_error for a violation; the message says which.
class FakeWorker : public DeferringWorker {
 public:
  FakeWorker(const WorkerInfo& info, int max_num_seqs, int max_num_batched_tokens);

  WorkerInfo Info() const override { return info_; }
  // Called before each step; what it throws fails the step.
  std::function<void(const StepPlan&)> before_step;

  // The salt of a sequence; none where this is not set.
  std::function<std::string(SequenceId)> salt_of;

  uint64_t steps() const { return steps_; }
  uint64_t rows() const { return rows_; }
  // Steps that left rows between layers.
  uint64_t steps_between_layers() const { return steps_between_layers_; }

 private:
  struct Slot {
    std::string salt;
    int position = -1;
    TokenId token = -1;
    uint64_t prefix_hash = 0;
  };

  StepResult Run(const StepPlan& plan) override;
  void CheckBatch(const StepPlan& plan) const;
  void CheckLayers(const StepPlan& plan);
  void CheckSlice(const SequenceSlice& slice) const;
  SliceResult RunSlice(const SequenceSlice& slice);
  std::vector<TokenId> ReadHistory(const SequenceSlice& slice, int length) const;
  void CheckHistory(const SequenceSlice& slice, uint64_t hash) const;
  std::string SaltOf(const SequenceSlice& slice) const;
  Slot& At(const SequenceSlice& slice, int position);
  const Slot& At(const SequenceSlice& slice, int position) const;

  const WorkerInfo info_;
  const int max_num_seqs_;
  const int max_num_batched_tokens_;
  void Swap(const StepPlan& plan);

  std::vector<Slot> slots_;       // [pages * page_size]
  std::vector<Slot> host_slots_;  // [host pages * page_size]
  // By sequence and position, the hash of all tokens up to there, 0 where it ran no row.
  std::map<SequenceId, std::vector<uint64_t>> own_rows_;
  uint64_t steps_ = 0;
  uint64_t rows_ = 0;
  uint64_t steps_between_layers_ = 0;
  std::vector<SequenceSlice> between_layers_;  // what the last step left there
};

}  // namespace sluice::sim
