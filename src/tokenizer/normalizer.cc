#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/text_pattern.h"
#include "tokenizer/unicode_versions.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

// What the steps may make of a text: beyond any that a published file makes.
size_t MaxNormalizedSize(size_t size) {
  constexpr size_t kGrowth = 64;
  constexpr size_t kBase = 1 << 16;
  return kBase + size * kGrowth;
}

class Nfc final : public Normalizer::Step {
 public:
  std::string Apply(std::string_view text, size_t /*max_size*/) const override {
    return NormalizeNfc(text);
  }
};

class Prepend final : public Normalizer::Step {
 public:
  explicit Prepend(std::string content) : content_(std::move(content)) {}

  std::string Apply(std::string_view text, size_t max_size) const override {
    if (text.empty()) return {};
    if (text.size() + content_.size() > max_size) {
      throw Error(ErrorCode::kResourceExhausted, "tokenizer.json: a Prepend makes a text of over " +
                                                     std::to_string(max_size) + " bytes");
    }
    std::string result;
    result.reserve(content_.size() + text.size());
    return result.append(content_).append(text);
  }

 private:
  std::string content_;
};

class Replace final : public Normalizer::Step {
 public:
  Replace(TextPattern pattern, std::string content)
      : pattern_(std::move(pattern)), content_(std::move(content)) {}

  std::string Apply(std::string_view text, size_t max_size) const override {
    return pattern_.Replace(text, content_, max_size);
  }

 private:
  TextPattern pattern_;
  std::string content_;
};

// No code point below U+0300 composes, decomposes or reorders with another below it; in UTF-8 those
// are exactly the texts without a byte from 0xCC up.
bool IsTriviallyNfc(std::string_view text) {
  return std::none_of(text.begin(), text.end(),
                      [](char byte) { return static_cast<unsigned char>(byte) >= 0xCC; });
}

int CombiningClass(utf8proc_int32_t code_point) {
  return utf8proc_get_property(code_point)->combining_class;
}

std::vector<utf8proc_int32_t> Decompose(std::string_view text) {
  // The longest canonical decomposition of one code point has four.
  constexpr int kMaxDecomposition = 4;
  std::vector<utf8proc_int32_t> points;
  // utf8proc_normalize_utf32 terminates what it returns.
  points.reserve(text.size() + 1);
  for (size_t i = 0; i < text.size();) {
    const char32_t code_point = NextCodePoint(text, &i);
    utf8proc_int32_t parts[kMaxDecomposition];
    int last_boundclass = 0;
    const auto count =
        utf8proc_decompose_char(static_cast<utf8proc_int32_t>(code_point), parts, kMaxDecomposition,
                                UTF8PROC_DECOMPOSE, &last_boundclass);
    SLUICE_CHECK(count >= 0 && count <= kMaxDecomposition);
    points.insert(points.end(), parts, parts + count);
  }
  return points;
}

// utf8proc's own ordering of combining marks takes quadratic time on long runs of them.
void SortCombiningMarks(std::vector<utf8proc_int32_t>* points) {
  auto start = points->begin();
  while (start != points->end()) {
    if (CombiningClass(*start) == 0) {
      ++start;
      continue;
    }
    const auto end = std::find_if(
        start, points->end(), [](utf8proc_int32_t point) { return CombiningClass(point) == 0; });
    std::stable_sort(start, end, [](utf8proc_int32_t a, utf8proc_int32_t b) {
      return CombiningClass(a) < CombiningClass(b);
    });
    start = end;
  }
}

// Appends the normal form of text in which NFC knows every code point.
void AppendNfc(std::string_view text, std::string* out) {
  if (IsTriviallyNfc(text)) {
    *out += text;
    return;
  }
  std::vector<utf8proc_int32_t> points = Decompose(text);
  SortCombiningMarks(&points);
  const auto size = static_cast<utf8proc_ssize_t>(points.size());
  points.push_back(0);
  const auto composed = utf8proc_normalize_utf32(
      points.data(), size, static_cast<utf8proc_option_t>(UTF8PROC_STABLE | UTF8PROC_COMPOSE));
  SLUICE_CHECK_GE(composed, 0);
  for (utf8proc_ssize_t i = 0; i < composed; ++i) {
    AppendUtf8(static_cast<char32_t>(points[static_cast<size_t>(i)]), out);
  }
}

std::unique_ptr<Normalizer::Step> MakeReplace(const boost::json::object& object) {
  constexpr std::string_view kWhere = "normalizer Replace";
  auto pattern =
      TextPattern::FromJson(RequireField(object, "pattern", kWhere), "normalizer Replace.pattern");
  if (pattern.regex().MatchesEmpty()) {
    throw Unsupported("normalizer Replace.pattern may match the empty text");
  }
  const std::string_view content =
      RequireString(RequireField(object, "content", kWhere), "normalizer Replace.content");
  return std::make_unique<Replace>(std::move(pattern), std::string(content));
}

void AppendSteps(const boost::json::value& json,
                 std::vector<std::unique_ptr<Normalizer::Step>>* steps) {
  const auto& object = RequireObject(json, "normalizer");
  const std::string_view type = TypeOf(object, "normalizer");
  if (type == "Sequence") {
    const auto& list = RequireField(object, "normalizers", "normalizer Sequence");
    for (const auto& step : RequireArray(list, "normalizer Sequence.normalizers")) {
      AppendSteps(step, steps);
    }
    return;
  }
  CheckStepCount(steps->size(), "normalizer");
  if (type == "NFC") {
    steps->push_back(std::make_unique<Nfc>());
  } else if (type == "Prepend") {
    const std::string_view content = RequireString(
        RequireField(object, "prepend", "normalizer Prepend"), "normalizer Prepend.prepend");
    steps->push_back(std::make_unique<Prepend>(std::string(content)));
  } else if (type == "Replace") {
    steps->push_back(MakeReplace(object));
  } else {
    throw Unsupported("normalizer \"" + std::string(type) +
                      "\" is not supported; NFC, Prepend, Replace and Sequence are");
  }
}

}  // namespace

std::string NormalizeNfc(std::string_view text) {
  if (IsTriviallyNfc(text)) return std::string(text);
  std::string result;
  result.reserve(text.size());
  size_t done = 0;
  for (size_t i = 0; i < text.size();) {
    const size_t begin = i;
    if (!IsUnknownToNfc(NextCodePoint(text, &i))) continue;
    AppendNfc(text.substr(done, begin - done), &result);
    result += text.substr(begin, i - begin);
    done = i;
  }
  AppendNfc(text.substr(done), &result);
  return result;
}

Normalizer Normalizer::FromJson(const boost::json::value* json) {
  Normalizer normalizer;
  if (json != nullptr) AppendSteps(*json, &normalizer.steps_);
  return normalizer;
}

std::string Normalizer::Normalize(std::string_view text) const {
  const size_t max_size = MaxNormalizedSize(text.size());
  std::string result;
  bool is_first = true;
  for (const auto& step : steps_) {
    result = step->Apply(is_first ? text : result, max_size);
    is_first = false;
  }
  return is_first ? std::string(text) : result;
}

}  // namespace sluice
