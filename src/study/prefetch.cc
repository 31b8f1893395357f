#include "study/prefetch.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <numeric>
#include <utility>

#include "base/check.h"

namespace sluice {

PrefetchStudy::PrefetchStudy(const RouterTraceHeader& header, const PrefetchOptions& options)
    : experts_(static_cast<size_t>(header.num_experts)),
      options_(options),
      table_(header.num_layers, header.num_experts, header.top_k, options.table),
      expected_(experts_),
      ranked_(experts_),
      needed_(experts_),
      sums_(options.slots.size()) {
  SLUICE_CHECK_GE(options.look_ahead, 1);
}

void PrefetchStudy::Add(const RouterBatch& batch) {
  const bool same_step = !earlier_.empty() && earlier_.back().step == batch.step &&
                         earlier_.back().layer < batch.layer;
  if (!same_step) earlier_.clear();
  if (earlier_.size() == static_cast<size_t>(options_.look_ahead)) {
    const RouterBatch& source = earlier_.front();
    if (source.sequences == batch.sequences && source.positions == batch.positions) {
      Judge(source, batch);
      table_.Learn(source.layer, source.experts, batch.experts);
    }
    earlier_.pop_front();
  }
  earlier_.push_back(batch);
}

void PrefetchStudy::Rank(const std::vector<double>& expected) {
  std::iota(ranked_.begin(), ranked_.end(), 0);
  std::stable_sort(ranked_.begin(), ranked_.end(),
                   [&](int a, int b) { return expected[a] > expected[b]; });
}

void PrefetchStudy::Judge(const RouterBatch& source, const RouterBatch& batch) {
  std::fill(needed_.begin(), needed_.end(), 0);
  for (const uint16_t expert : batch.experts) ++needed_[expert];
  const auto distinct = static_cast<uint64_t>(
      std::count_if(needed_.begin(), needed_.end(), [](uint32_t count) { return count > 0; }));
  const auto add_hits = [&](uint64_t Sum::*hits, bool choices) {
    for (size_t i = 0; i < sums_.size(); ++i) {
      const size_t slots = std::min(experts_, static_cast<size_t>(options_.slots[i]));
      for (size_t r = 0; r < slots; ++r) {
        const uint32_t count = needed_[ranked_[r]];
        sums_[i].*hits += count > 0 ? 1 : 0;
        if (choices) sums_[i].table_choices += count;
      }
    }
  };
  table_.Predict(source.layer, source.experts, expected_);
  Rank(expected_);
  add_hits(&Sum::table, true);
  table_.Frequencies(source.layer, expected_);
  Rank(expected_);
  add_hits(&Sum::frequency, false);
  for (size_t i = 0; i < sums_.size(); ++i) {
    sums_[i].best += std::min(distinct, static_cast<uint64_t>(options_.slots[i]));
  }
  all_needed_ += distinct;
  all_choices_ += batch.experts.size();
  ++predicted_;
}

std::vector<PrefetchHits> PrefetchStudy::Hits() const {
  std::vector<PrefetchHits> hits;
  const auto share = [](uint64_t part, uint64_t all) {
    return all == 0 ? 0.0 : static_cast<double>(part) / static_cast<double>(all);
  };
  for (size_t i = 0; i < sums_.size(); ++i) {
    hits.push_back({.slots = options_.slots[i],
                    .table = share(sums_[i].table, all_needed_),
                    .frequency = share(sums_[i].frequency, all_needed_),
                    .best = share(sums_[i].best, all_needed_),
                    .table_choices = share(sums_[i].table_choices, all_choices_)});
  }
  return hits;
}

boost::json::object ToJson(const PrefetchStudy& study, const PrefetchOptions& options) {
  boost::json::array listed;
  for (const PrefetchHits& hits : study.Hits()) {
    listed.push_back({{"slots", hits.slots},
                      {"table", hits.table},
                      {"frequency", hits.frequency},
                      {"best", hits.best},
                      {"table_choices", hits.table_choices}});
  }
  return {{"look_ahead", options.look_ahead},
          {"row_entries", options.table.row_entries},
          {"half_life", options.table.half_life},
          {"prior", options.table.prior},
          {"table_bytes", study.table_bytes()},
          {"predicted_layers", study.predicted_layers()},
          {"hits", std::move(listed)}};
}

}  // namespace sluice
