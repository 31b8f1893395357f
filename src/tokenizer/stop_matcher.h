#pragma once

#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// Looks for stop strings in text that comes in pieces, and holds back text that may turn out to be
// part of one. What it finds does not depend on how the text was cut: the match that starts first,
// and of those that start together the shortest. A match is reported once no earlier one can be
// completed any more. Not thread-safe; one per sequence.
class StopMatcher {
 public:
  // With `include_stop` the returned text ends behind the stop string, otherwise before it. Throws
  // Error(kInvalidArgument) for an empty stop string.
  StopMatcher(std::vector<std::string> stops, bool include_stop);

  // Takes a piece of well-formed UTF-8 and returns the text that is safe to emit. Returns nothing
  // after a match.
  std::string Push(std::string_view piece);

  // Ends the text: returns what was held back, or what remains before a match that was waiting.
  std::string Finish();

  // The index of the stop string that ended the text.
  std::optional<size_t> matched() const { return matched_; }

 private:
  // The Knuth-Morris-Pratt automaton of one stop string.
  struct Pattern {
    std::string text;
    std::vector<size_t> fallback;  // fallback[n]: longest border of the first n + 1 bytes
    size_t state = 0;              // bytes of the pattern that end the text so far
  };
  struct Match {
    size_t begin;  // offset in the whole text
    size_t end;
    size_t stop;
  };
  void Advance(char byte);
  size_t EarliestCandidate() const;
  std::string Report();

  std::vector<Pattern> patterns_;
  bool include_stop_;
  std::string held_;
  size_t held_begin_ = 0;  // offset of held_ in the whole text
  size_t position_ = 0;    // bytes of the whole text that were looked at
  std::optional<Match> waiting_;
  std::optional<size_t> matched_;
};

}  // namespace sluice
