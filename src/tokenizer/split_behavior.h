#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace sluice {

// A stretch of text in bytes.
struct TextSpan {
  size_t begin;
  size_t end;
};

// What becomes of the matches of a pattern that text is cut by.
enum class SplitBehavior {
  kRemoved,
  kIsolated,
  kMergedWithPrevious,
  kMergedWithNext,
  kContiguous,
};

// Throws Error(kDataLoss) for a name that tokenizer.json does not know.
SplitBehavior SplitBehaviorFromName(std::string_view name, std::string_view where);

// Makes words of the matches of one text and the stretches between them. Use: Add every match in
// order, Finish.
class Splitter {
 public:
  // Appends the words of text [span.begin, span.end) to `words`, which must outlive the splitter.
  // With `invert` matches are taken as stretches between, and the other way round.
  Splitter(SplitBehavior behavior, bool invert, TextSpan span, std::vector<TextSpan>* words)
      : behavior_(behavior), invert_(invert), span_(span), words_(words), first_(words->size()) {
    done_ = span.begin;
  }

  void AddMatch(size_t begin, size_t end) {
    if (begin > done_) AddPart(done_, begin, false);
    AddPart(begin, end, true);
    done_ = end;
  }

  // Adds what follows the last match, and drops empty words.
  void Finish();

 private:
  void AddPart(size_t begin, size_t end, bool is_match);

  SplitBehavior behavior_;
  bool invert_;
  TextSpan span_;
  std::vector<TextSpan>* words_;
  size_t first_;  // the first of this text's words
  size_t done_;
  bool previous_is_match_ = false;
};

}  // namespace sluice
