#include "tokenizer/split_behavior.h"

#include <algorithm>
#include <string>

#include "tokenizer/json_fields.h"

namespace sluice {

SplitBehavior SplitBehaviorFromName(std::string_view name, std::string_view where) {
  if (name == "Removed") return SplitBehavior::kRemoved;
  if (name == "Isolated") return SplitBehavior::kIsolated;
  if (name == "MergedWithPrevious") return SplitBehavior::kMergedWithPrevious;
  if (name == "MergedWithNext") return SplitBehavior::kMergedWithNext;
  if (name == "Contiguous") return SplitBehavior::kContiguous;
  throw DataLoss(std::string(where) + " \"" + std::string(name) + "\" is not known");
}

void Splitter::AddPart(size_t begin, size_t end, bool is_match) {
  is_match = is_match != invert_;
  const bool has_previous = words_->size() > first_;
  bool joins_previous = false;
  switch (behavior_) {
    case SplitBehavior::kRemoved:
      if (is_match) return;
      break;
    case SplitBehavior::kIsolated:
      break;
    case SplitBehavior::kMergedWithPrevious:
      joins_previous = is_match && !previous_is_match_;
      break;
    case SplitBehavior::kMergedWithNext:
      joins_previous = !is_match && previous_is_match_;
      break;
    case SplitBehavior::kContiguous:
      joins_previous = is_match == previous_is_match_;
      break;
  }
  previous_is_match_ = is_match;
  if (joins_previous && has_previous) {
    words_->back().end = end;
  } else {
    words_->push_back({begin, end});
  }
}

void Splitter::Finish() {
  if (done_ < span_.end) AddPart(done_, span_.end, false);
  const auto first = words_->begin() + static_cast<ptrdiff_t>(first_);
  words_->erase(std::remove_if(first, words_->end(),
                               [](const TextSpan& word) { return word.begin == word.end; }),
                words_->end());
}

}  // namespace sluice
