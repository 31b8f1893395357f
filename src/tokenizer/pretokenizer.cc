#include "tokenizer/pretokenizer.h"

#include <optional>

#include "tokenizer/json_fields.h"
#include "tokenizer/metaspace.h"
#include "tokenizer/onig_pattern.h"
#include "tokenizer/text_pattern.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

// The pattern that ByteLevel with use_regex cuts by, GPT-2's.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

std::string_view WordText(const WordList& list, TextSpan word) {
  return list.text.substr(word.begin, word.end - word.begin);
}

// Cuts every word of the list: `cut_word(text, base, splitter)` adds the matches in a word's text,
// whose first byte is byte `base` of the whole.
template <class CutWord>
void CutWords(SplitBehavior behavior, bool invert, WordList* list, const CutWord& cut_word) {
  list->next_words.clear();
  for (const TextSpan word : list->words) {
    Splitter splitter(behavior, invert, word, &list->next_words);
    cut_word(WordText(*list, word), word.begin, &splitter);
    splitter.Finish();
  }
  list->words.swap(list->next_words);
}

void CutByRegex(const Regex& regex, SplitBehavior behavior, bool invert, WordList* list) {
  CutWords(behavior, invert, list, [&](std::string_view text, size_t base, Splitter* splitter) {
    list->scan.Start(regex, text);
    while (const auto match = list->scan.Next()) {
      splitter->AddMatch(base + match->begin, base + match->end);
    }
  });
}

class SplitByPattern final : public PreTokenizer::Step {
 public:
  SplitByPattern(TextPattern pattern, SplitBehavior behavior, bool invert)
      : pattern_(std::move(pattern)), behavior_(behavior), invert_(invert) {}

  void Apply(WordList* list) const override {
    CutByRegex(pattern_.regex(), behavior_, invert_, list);
  }

 private:
  TextPattern pattern_;
  SplitBehavior behavior_;
  bool invert_;
};

// Every character of a class is a match: Digits, Punctuation, WhitespaceSplit.
class SplitByCharacter final : public PreTokenizer::Step {
 public:
  using IsMember = bool (*)(char32_t code_point);

  SplitByCharacter(IsMember is_member, SplitBehavior behavior)
      : is_member_(is_member), behavior_(behavior) {}

  void Apply(WordList* list) const override {
    CutWords(behavior_, /*invert=*/false, list,
             [&](std::string_view text, size_t base, Splitter* splitter) {
               for (size_t i = 0; i < text.size();) {
                 const size_t begin = i;
                 if (is_member_(NextCodePoint(text, &i))) {
                   splitter->AddMatch(base + begin, base + i);
                 }
               }
             });
  }

 private:
  IsMember is_member_;
  SplitBehavior behavior_;
};

// Whitespace: runs of word characters, and runs of what is neither that nor white space.
class SplitWords final : public PreTokenizer::Step {
 public:
  void Apply(WordList* list) const override {
    CutWords(SplitBehavior::kRemoved, /*invert=*/true, list,
             [](std::string_view text, size_t base, Splitter* splitter) {
               for (size_t i = 0; i < text.size();) {
                 const size_t begin = i;
                 const Kind kind = KindOf(NextCodePoint(text, &i));
                 for (size_t next = i; next < text.size(); i = next) {
                   if (KindOf(NextCodePoint(text, &next)) != kind) break;
                 }
                 if (kind != Kind::kSpace) splitter->AddMatch(base + begin, base + i);
               }
             });
  }

 private:
  enum class Kind { kSpace, kWord, kOther };
  static Kind KindOf(char32_t code_point) {
    if (IsWhiteSpace(code_point)) return Kind::kSpace;
    return IsWordCharacter(code_point) ? Kind::kWord : Kind::kOther;
  }
};

// Hands the list's text over to a rewritten one: `rewrite_word(word, is_first, buffer)` appends
// what becomes of a word. `is_first` tells the word that starts what is encoded.
template <class RewriteWord>
void RewriteWords(WordList* list, const RewriteWord& rewrite_word) {
  list->next_buffer.clear();
  bool is_first = list->at_start && !list->words.empty() && list->words.front().begin == 0;
  list->at_start = is_first;
  for (TextSpan& word : list->words) {
    const size_t begin = list->next_buffer.size();
    rewrite_word(WordText(*list, word), is_first, &list->next_buffer);
    word = {begin, list->next_buffer.size()};
    is_first = false;
  }
  list->buffer.swap(list->next_buffer);
  list->text = list->buffer;
}

// The model works on bytes, so that nothing is left of ByteLevel but its cutting and its space.
class ByteLevelStep final : public PreTokenizer::Step {
 public:
  ByteLevelStep(bool add_prefix_space, bool use_regex) : add_prefix_space_(add_prefix_space) {
    if (use_regex) regex_ = Regex::FromPattern(Pcre2FromOniguruma(kGpt2Pattern));
  }

  void Apply(WordList* list) const override {
    if (add_prefix_space_) {
      RewriteWords(list, [](std::string_view word, bool /*is_first*/, std::string* buffer) {
        if (!word.starts_with(' ')) buffer->push_back(' ');
        *buffer += word;
      });
    }
    if (regex_) CutByRegex(*regex_, SplitBehavior::kIsolated, /*invert=*/false, list);
  }

 private:
  bool add_prefix_space_;
  std::optional<Regex> regex_;
};

// Writes spaces as a character of their own, and one more before the text.
class MetaspaceStep final : public PreTokenizer::Step {
 public:
  explicit MetaspaceStep(Metaspace metaspace) : metaspace_(std::move(metaspace)) {}

  void Apply(WordList* list) const override {
    const std::string& mark = metaspace_.replacement;
    RewriteWords(list, [&](std::string_view word, bool is_first, std::string* buffer) {
      const bool may_prepend = metaspace_.prepend == PrependScheme::kAlways ||
                               (metaspace_.prepend == PrependScheme::kFirst && is_first);
      if (may_prepend && !word.starts_with(' ') && !word.starts_with(mark)) *buffer += mark;
      for (const char c : word) {
        if (c == ' ') {
          *buffer += mark;
        } else {
          buffer->push_back(c);
        }
      }
    });
    if (!metaspace_.split) return;
    CutWords(SplitBehavior::kMergedWithNext, /*invert=*/false, list,
             [&](std::string_view text, size_t base, Splitter* splitter) {
               for (size_t at = text.find(mark); at != text.npos;
                    at = text.find(mark, at + mark.size())) {
                 splitter->AddMatch(base + at, base + at + mark.size());
               }
             });
  }

 private:
  Metaspace metaspace_;
};

std::unique_ptr<PreTokenizer::Step> MakeSplit(const boost::json::object& object) {
  constexpr std::string_view kWhere = "pre_tokenizer Split";
  const std::string_view behavior =
      RequireString(RequireField(object, "behavior", kWhere), "pre_tokenizer Split.behavior");
  return std::make_unique<SplitByPattern>(
      TextPattern::FromJson(RequireField(object, "pattern", kWhere), "pre_tokenizer Split.pattern"),
      SplitBehaviorFromName(behavior, "pre_tokenizer Split.behavior"),
      BoolField(object, "invert", false, kWhere));
}

std::unique_ptr<PreTokenizer::Step> MakePunctuation(const boost::json::object& object) {
  SplitBehavior behavior = SplitBehavior::kIsolated;
  if (const auto* name = FindField(object, "behavior")) {
    constexpr std::string_view kWhere = "pre_tokenizer Punctuation.behavior";
    behavior = SplitBehaviorFromName(RequireString(*name, kWhere), kWhere);
  }
  return std::make_unique<SplitByCharacter>(&IsPunctuation, behavior);
}

std::unique_ptr<PreTokenizer::Step> MakeDigits(const boost::json::object& object) {
  const bool individual = BoolField(object, "individual_digits", false, "pre_tokenizer Digits");
  return std::make_unique<SplitByCharacter>(
      &IsNumeric, individual ? SplitBehavior::kIsolated : SplitBehavior::kContiguous);
}

std::unique_ptr<PreTokenizer::Step> MakeByteLevel(const boost::json::object& object) {
  constexpr std::string_view kWhere = "pre_tokenizer ByteLevel";
  return std::make_unique<ByteLevelStep>(BoolField(object, "add_prefix_space", true, kWhere),
                                         BoolField(object, "use_regex", true, kWhere));
}

}  // namespace

PreTokenizer PreTokenizer::FromJson(const boost::json::value* json) {
  PreTokenizer pretokenizer;
  if (json != nullptr) pretokenizer.AppendSteps(*json);
  return pretokenizer;
}

void PreTokenizer::AppendSteps(const boost::json::value& json) {
  const auto& object = RequireObject(json, "pre_tokenizer");
  const std::string_view type = TypeOf(object, "pre_tokenizer");
  if (type == "Sequence") {
    const auto& list = RequireField(object, "pretokenizers", "pre_tokenizer Sequence");
    for (const auto& step : RequireArray(list, "pre_tokenizer Sequence.pretokenizers")) {
      AppendSteps(step);
    }
    return;
  }
  CheckStepCount(steps_.size(), "pre_tokenizer");
  if (is_byte_level_) {
    throw Unsupported("pre_tokenizer \"" + std::string(type) +
                      "\" after ByteLevel is not supported; ByteLevel must be the last");
  }
  if (type == "ByteLevel") {
    steps_.push_back(MakeByteLevel(object));
    is_byte_level_ = true;
  } else if (type == "Split") {
    steps_.push_back(MakeSplit(object));
  } else if (type == "Metaspace") {
    steps_.push_back(
        std::make_unique<MetaspaceStep>(Metaspace::FromJson(object, "pre_tokenizer Metaspace")));
  } else if (type == "Digits") {
    steps_.push_back(MakeDigits(object));
  } else if (type == "Punctuation") {
    steps_.push_back(MakePunctuation(object));
  } else if (type == "Whitespace") {
    steps_.push_back(std::make_unique<SplitWords>());
  } else if (type == "WhitespaceSplit") {
    steps_.push_back(std::make_unique<SplitByCharacter>(&IsWhiteSpace, SplitBehavior::kRemoved));
  } else {
    throw Unsupported("pre_tokenizer \"" + std::string(type) +
                      "\" is not supported; ByteLevel, Split, Metaspace, Digits, Punctuation, "
                      "Whitespace, WhitespaceSplit and Sequence are");
  }
}

void PreTokenizer::Split(std::string_view text, bool at_start, WordList* list) const {
  list->text = text;
  list->at_start = at_start;
  list->words.assign(1, {0, text.size()});
  for (const auto& step : steps_) step->Apply(list);
}

}  // namespace sluice
