#include "tokenizer/stop_matcher.h"

#include <algorithm>
#include <utility>

#include "base/error.h"

namespace sluice {
namespace {

std::vector<size_t> Borders(std::string_view text) {
  std::vector<size_t> borders(text.size(), 0);
  for (size_t i = 1; i < text.size(); ++i) {
    size_t border = borders[i - 1];
    while (border > 0 && text[border] != text[i]) border = borders[border - 1];
    borders[i] = text[border] == text[i] ? border + 1 : 0;
  }
  return borders;
}

}  // namespace

StopMatcher::StopMatcher(std::vector<std::string> stops, bool include_stop)
    : include_stop_(include_stop) {
  for (std::string& stop : stops) {
    if (stop.empty()) {
      throw Error(ErrorCode::kInvalidArgument, "a stop string must not be empty; leave it out");
    }
    Pattern pattern{.text = std::move(stop), .fallback = {}};
    pattern.fallback = Borders(pattern.text);
    patterns_.push_back(std::move(pattern));
  }
}

std::string StopMatcher::Push(std::string_view piece) {
  if (matched_) return {};
  if (patterns_.empty()) return std::string(piece);
  held_ += piece;
  for (const char byte : piece) {
    Advance(byte);
    if (waiting_ && EarliestCandidate() >= waiting_->begin) return Report();
  }
  const size_t certain = EarliestCandidate() - held_begin_;
  std::string text = held_.substr(0, certain);
  held_.erase(0, certain);
  held_begin_ += certain;
  return text;
}

void StopMatcher::Advance(char byte) {
  ++position_;
  for (size_t i = 0; i < patterns_.size(); ++i) {
    Pattern& pattern = patterns_[i];
    while (pattern.state > 0 && pattern.text[pattern.state] != byte) {
      pattern.state = pattern.fallback[pattern.state - 1];
    }
    if (pattern.text[pattern.state] == byte) ++pattern.state;
    if (pattern.state < pattern.text.size()) continue;
    const Match match{.begin = position_ - pattern.state, .end = position_, .stop = i};
    pattern.state = pattern.fallback[pattern.state - 1];
    if (!waiting_ || match.begin < waiting_->begin) waiting_ = match;
  }
}

// The offset from which on a stop string may have begun, or begun and matched.
size_t StopMatcher::EarliestCandidate() const {
  size_t earliest = waiting_ ? waiting_->begin : position_;
  for (const Pattern& pattern : patterns_) {
    earliest = std::min(earliest, position_ - pattern.state);
  }
  return earliest;
}

std::string StopMatcher::Report() {
  matched_ = waiting_->stop;
  const size_t end = include_stop_ ? waiting_->end : waiting_->begin;
  std::string text = held_.substr(0, end - held_begin_);
  held_.clear();
  return text;
}

std::string StopMatcher::Finish() {
  if (matched_) return {};
  if (waiting_) return Report();
  return std::exchange(held_, {});
}

}  // namespace sluice
