#include "trace/trace_summary.h"

#include <algorithm>
#include <optional>
#include <unordered_set>
#include <utility>
#include <vector>

namespace sluice {
namespace {

// Adds up batches; those that follow each other with one step and layer are one.
class Summarizer {
 public:
  explicit Summarizer(const RouterTraceHeader& header)
      : chosen_(static_cast<size_t>(header.num_experts)),
        layers_(static_cast<size_t>(header.num_layers)) {}

  void Add(const RouterBatch& batch) {
    const std::pair<uint64_t, int> place(batch.step, batch.layer);
    if (!at_ || at_->first != batch.step) {
      if (!at_) summary_.first_step = batch.step;
      ++summary_.steps;
    }
    if (at_ != place) FinishLayer();
    at_ = place;
    summary_.last_step = batch.step;
    summary_.records += batch.size();
    layers_[batch.layer] = true;
    tokens_ += batch.size();
    for (const uint16_t expert : batch.experts) chosen_[expert] = true;
    for (size_t t = 0; t < batch.size(); ++t) {
      summary_.last_position = std::max(summary_.last_position, batch.positions[t]);
      AddSequence(batch.sequences[t]);
    }
  }

  TraceSummary Finish() {
    FinishLayer();
    summary_.sequences = sequences_.size();
    summary_.layers = static_cast<int>(std::count(layers_.begin(), layers_.end(), true));
    if (layer_steps_ > 0) {
      summary_.tokens_per_step =
          static_cast<double>(summary_.records) / static_cast<double>(layer_steps_);
      summary_.experts_per_step = static_cast<double>(experts_) / static_cast<double>(layer_steps_);
    }
    return summary_;
  }

 private:
  void FinishLayer() {
    if (!at_) return;
    ++layer_steps_;
    experts_ += static_cast<uint64_t>(std::count(chosen_.begin(), chosen_.end(), true));
    chosen_.assign(chosen_.size(), false);
    summary_.most_tokens = std::max(summary_.most_tokens, tokens_);
    tokens_ = 0;
  }

  void AddSequence(uint64_t sequence) {
    if (sequence == last_sequence_) return;
    last_sequence_ = sequence;
    if (sequences_.size() < TraceSummary::kMaxSequences) {
      sequences_.insert(sequence);
    } else if (!sequences_.contains(sequence)) {
      summary_.more_sequences = true;
    }
  }

  TraceSummary summary_;
  std::optional<std::pair<uint64_t, int>> at_;  // step and layer
  std::vector<bool> chosen_;                    // [experts] of that step and layer
  std::vector<bool> layers_;                    // [layers] that have records
  std::unordered_set<uint64_t> sequences_;
  std::optional<uint64_t> last_sequence_;
  uint64_t tokens_ = 0;  // of that step and layer
  uint64_t experts_ = 0;
  uint64_t layer_steps_ = 0;
};

}  // namespace

TraceSummary SummarizeTrace(BatchSource& source) {
  Summarizer summarizer(source.header());
  RouterBatch batch;
  while (source.NextBatch(batch)) summarizer.Add(batch);
  return summarizer.Finish();
}

}  // namespace sluice
