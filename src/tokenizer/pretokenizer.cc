#include "tokenizer/pretokenizer.h"

#include <optional>
#include <string>
#include <vector>

#include "tokenizer/json_fields.h"
#include "tokenizer/onig_pattern.h"
#include "tokenizer/regex.h"

namespace sluice {
namespace {

// The pattern that ByteLevel with use_regex cuts by, GPT-2's.
constexpr std::string_view kGpt2Pattern =
    R"('s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+)";

// Emits each match and each stretch between matches.
void SplitIsolated(const Regex& regex, std::string_view text, const PreTokenizer::Emit& emit) {
  RegexScan scan(regex);
  scan.Reset(text);
  size_t done = 0;
  while (const auto match = scan.Next()) {
    if (match->begin > done) emit(text.substr(done, match->begin - done));
    if (match->end > match->begin) emit(text.substr(match->begin, match->end - match->begin));
    done = match->end;
  }
  if (done < text.size()) emit(text.substr(done));
}

class SplitByPattern final : public PreTokenizer {
 public:
  explicit SplitByPattern(Regex regex) : regex_(std::move(regex)) {}

  void Split(std::string_view text, const Emit& emit) const override {
    SplitIsolated(regex_, text, emit);
  }

 private:
  Regex regex_;
};

// The model works on bytes, so that nothing is left of ByteLevel but its cutting and its space.
class ByteLevelPreTokenizer final : public PreTokenizer {
 public:
  ByteLevelPreTokenizer(bool add_prefix_space, bool use_regex)
      : add_prefix_space_(add_prefix_space) {
    if (use_regex) regex_ = Regex::FromPattern(Pcre2FromOniguruma(kGpt2Pattern));
  }

  void Split(std::string_view text, const Emit& emit) const override {
    if (add_prefix_space_ && text.front() != ' ') {
      std::string prefixed(1, ' ');
      prefixed += text;
      return SplitPrefixed(prefixed, emit);
    }
    SplitPrefixed(text, emit);
  }

 private:
  void SplitPrefixed(std::string_view text, const Emit& emit) const {
    if (!regex_) return emit(text);
    SplitIsolated(*regex_, text, emit);
  }

  bool add_prefix_space_;
  std::optional<Regex> regex_;
};

class PreTokenizerSequence final : public PreTokenizer {
 public:
  explicit PreTokenizerSequence(std::vector<std::unique_ptr<PreTokenizer>> steps)
      : steps_(std::move(steps)) {}

  void Split(std::string_view text, const Emit& emit) const override { RunFrom(0, text, emit); }

 private:
  void RunFrom(size_t step, std::string_view text, const Emit& emit) const {
    if (step + 1 == steps_.size()) return steps_[step]->Split(text, emit);
    steps_[step]->Split(text, [&](std::string_view word) { RunFrom(step + 1, word, emit); });
  }

  std::vector<std::unique_ptr<PreTokenizer>> steps_;
};

std::unique_ptr<PreTokenizer> MakeSplit(const boost::json::object& object) {
  constexpr std::string_view kWhere = "pre_tokenizer Split";
  const std::string_view behavior =
      RequireString(RequireField(object, "behavior", kWhere), "pre_tokenizer Split.behavior");
  if (behavior != "Isolated") {
    throw Unsupported("pre_tokenizer Split with behavior \"" + std::string(behavior) +
                      "\" is not supported; Isolated is");
  }
  // Isolated keeps matches and the text between them alike, so that inverting changes nothing.
  BoolField(object, "invert", false, kWhere);
  const auto& pattern =
      RequireObject(RequireField(object, "pattern", kWhere), "pre_tokenizer Split.pattern");
  if (const auto* regex = FindField(pattern, "Regex")) {
    const std::string_view text = RequireString(*regex, "pre_tokenizer Split.pattern.Regex");
    return std::make_unique<SplitByPattern>(Regex::FromPattern(Pcre2FromOniguruma(text)));
  }
  const auto& literal = RequireField(pattern, "String", "pre_tokenizer Split.pattern");
  const std::string text(RequireString(literal, "pre_tokenizer Split.pattern.String"));
  return std::make_unique<SplitByPattern>(Regex::FromLiteral(text));
}

std::unique_ptr<PreTokenizer> MakeByteLevel(const boost::json::object& object) {
  constexpr std::string_view kWhere = "pre_tokenizer ByteLevel";
  return std::make_unique<ByteLevelPreTokenizer>(
      BoolField(object, "add_prefix_space", true, kWhere),
      BoolField(object, "use_regex", true, kWhere));
}

std::unique_ptr<PreTokenizer> MakeSequence(const boost::json::object& object) {
  std::vector<std::unique_ptr<PreTokenizer>> steps;
  std::string_view last_type;
  const auto& list = RequireField(object, "pretokenizers", "pre_tokenizer");
  for (const auto& json : RequireArray(list, "pre_tokenizer.pretokenizers")) {
    if (last_type == "ByteLevel") {
      throw Unsupported("pre_tokenizer Sequence continues after ByteLevel");
    }
    const auto& step = RequireObject(json, "pre_tokenizer.pretokenizers[]");
    last_type = TypeOf(step, "pre_tokenizer.pretokenizers[]");
    if (last_type == "Split") {
      steps.push_back(MakeSplit(step));
    } else if (last_type == "ByteLevel") {
      steps.push_back(MakeByteLevel(step));
    } else {
      throw Unsupported("pre_tokenizer \"" + std::string(last_type) +
                        "\" in a Sequence is not supported; Split and ByteLevel are");
    }
  }
  if (last_type != "ByteLevel") {
    throw Unsupported("pre_tokenizer Sequence does not end in ByteLevel");
  }
  return std::make_unique<PreTokenizerSequence>(std::move(steps));
}

}  // namespace

std::unique_ptr<PreTokenizer> PreTokenizerFromJson(const boost::json::value* json) {
  if (json == nullptr) {
    throw Unsupported("there is no pre_tokenizer; ByteLevel or a Sequence ending in it is needed");
  }
  const auto& object = RequireObject(*json, "pre_tokenizer");
  const std::string_view type = TypeOf(object, "pre_tokenizer");
  if (type == "ByteLevel") return MakeByteLevel(object);
  if (type == "Sequence") return MakeSequence(object);
  throw Unsupported("pre_tokenizer \"" + std::string(type) +
                    "\" is not supported; ByteLevel and Sequence are");
}

}  // namespace sluice
