#include "tokenizer/normalizer.h"

#include <utf8proc.h>

#include <algorithm>
#include <vector>

#include "base/check.h"
#include "tokenizer/json_fields.h"
#include "tokenizer/unicode_versions.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

class Nfc final : public Normalizer {
 public:
  std::string Normalize(std::string_view text) const override { return NormalizeNfc(text); }
};

class NormalizerSequence final : public Normalizer {
 public:
  explicit NormalizerSequence(std::vector<std::unique_ptr<Normalizer>> steps)
      : steps_(std::move(steps)) {}

  std::string Normalize(std::string_view text) const override {
    std::string result(text);
    for (const auto& step : steps_) result = step->Normalize(result);
    return result;
  }

 private:
  std::vector<std::unique_ptr<Normalizer>> steps_;
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

std::unique_ptr<Normalizer> NormalizerFromJson(const boost::json::value* json) {
  if (json == nullptr) return nullptr;
  const auto& object = RequireObject(*json, "normalizer");
  const std::string_view type = TypeOf(object, "normalizer");
  if (type == "NFC") return std::make_unique<Nfc>();
  if (type != "Sequence") {
    throw Unsupported("normalizer \"" + std::string(type) +
                      "\" is not supported; NFC and Sequence are");
  }
  std::vector<std::unique_ptr<Normalizer>> steps;
  const auto& list = RequireField(object, "normalizers", "normalizer");
  for (const auto& step : RequireArray(list, "normalizer.normalizers")) {
    steps.push_back(NormalizerFromJson(&step));
  }
  return std::make_unique<NormalizerSequence>(std::move(steps));
}

}  // namespace sluice
