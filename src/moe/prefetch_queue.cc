#include "moe/prefetch_queue.h"

#include <algorithm>
#include <numeric>

namespace sluice {

PrefetchQueue::PrefetchQueue(ExpertStore& store, int top_k)
    : store_(store),
      next_(store.experts().num_layers(), store.num_experts(), top_k),
      window_(store.experts().num_layers()) {}

const NextExperts::Hits& PrefetchQueue::Observe(size_t nth, std::span<const int32_t> ids,
                                                bool fills) {
  const std::span<const double> expected = next_.Observe(static_cast<int>(nth), ids);
  const NextExperts::Hits& hits = next_.hits(static_cast<int>(nth));
  nth_ = (nth + 1) % static_cast<size_t>(store_.experts().num_layers());
  const int layer = store_.experts().LayerAt(static_cast<int>(nth_));
  store_.Expect(layer, expected);
  if (!fills) return hits;
  std::vector<int32_t> likeliest(expected.size());
  std::iota(likeliest.begin(), likeliest.end(), 0);
  std::stable_sort(likeliest.begin(), likeliest.end(),
                   [&](int32_t a, int32_t b) { return expected[a] > expected[b]; });
  for (const int32_t expert : likeliest) {
    const double chance = PrefetchWindow::ChanceOfUse(expected[expert]);
    if (!window_.Worth(static_cast<int>(nth_), guesses_.size(), chance)) break;
    if (store_.PlaceOf(layer, expert) != ExpertStore::Place::kAway) continue;
    guesses_.push_back({expert, chance});
  }
  std::reverse(guesses_.begin(), guesses_.end());
  return hits;
}

std::optional<int32_t> PrefetchQueue::Next() const {
  if (guesses_.empty()) return std::nullopt;
  return guesses_.back().expert;
}

void PrefetchQueue::NoteAsked() {
  SLUICE_CHECK(!guesses_.empty());
  asked_.push_back(guesses_.back());
  guesses_.pop_back();
}

size_t PrefetchQueue::Judge(size_t nth, std::span<const int32_t> counts,
                            std::span<const int32_t> asked_early) {
  size_t used = 0;
  if (nth_ == nth) {
    const int layer = store_.experts().LayerAt(static_cast<int>(nth));
    double expected = 0.0;
    for (const Guess& guess : asked_) {
      const auto e = static_cast<size_t>(guess.expert);
      expected += guess.chance;
      if (counts[e] > 0 && asked_early[e] == 0 &&
          store_.PlaceOf(layer, guess.expert) != ExpertStore::Place::kAway) {
        ++used;
      }
    }
    window_.NoteGuesses(expected, used);
  }
  guesses_.clear();
  asked_.clear();
  return used;
}

}  // namespace sluice
