#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "moe/next_experts.h"
#include "moe/prefetch_window.h"
#include "offload/expert_store.h"

namespace sluice {

// What is worth bringing for a layer before it has chosen, the likeliest first: NextExperts
// foretells it from what the layer before it chose, and PrefetchWindow says how much of the link is
// free for it. Layers are counted among those that route. One thread.
class PrefetchQueue {
 public:
  // The store outlives it.
  PrefetchQueue(ExpertStore& store, int top_k);

  // The tokens of the n-th layer chose `ids` [*, top_k]: the store is told what the layer behind it
  // is expected to need. With `fills` the queue has what of that is in no slot and worth bringing.
  // Returns how good the forecasts of the n-th layer were.
  const NextExperts::Hits& Observe(size_t nth, std::span<const int32_t> ids, bool fills);

  size_t nth() const { return nth_; }  // the layer that it is for
  // Of that layer, the next one to ask for, until it was.
  std::optional<int32_t> Next() const;
  void NoteAsked();
  bool AnyAsked() const { return !asked_.empty(); }

  // The n-th layer has chosen: counts [experts] tokens, of which those with asked_early [experts]
  // above 0 were asked for since. Empties the queue. Returns how many that it brought are needed.
  size_t Judge(size_t nth, std::span<const int32_t> counts, std::span<const int32_t> asked_early);

  PrefetchWindow& window() { return window_; }

 private:
  struct Guess {
    int32_t expert;
    double chance;
  };

  ExpertStore& store_;
  NextExperts next_;
  PrefetchWindow window_;
  size_t nth_ = 0;
  std::vector<Guess> guesses_;  // to be asked for, the best last
  std::vector<Guess> asked_;
};

}  // namespace sluice
