#define PCRE2_CODE_UNIT_WIDTH 8

#include "tokenizer/regex.h"

#include <pcre2.h>

#include <algorithm>
#include <new>

#include "base/error.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

// Backtracking steps allowed besides a few for each byte: above what any sane pattern needs, and
// tenths of a second at most.
constexpr uint64_t kBaseMatchLimit = 10'000'000;

// What the interpreter may take for its backtracking, in KiB.
constexpr uint32_t kHeapLimit = 256 * 1024;

std::string MessageOf(int error) {
  PCRE2_UCHAR buffer[256];
  pcre2_get_error_message(error, buffer, sizeof(buffer));
  return reinterpret_cast<const char*>(buffer);
}

struct CompileContextDeleter {
  void operator()(pcre2_compile_context* context) const { pcre2_compile_context_free(context); }
};

}  // namespace

void Regex::CodeDeleter::operator()(pcre2_real_code_8* code) const {
  pcre2_code_free(code);
}

Regex Regex::FromPattern(const std::string& pcre2_pattern) {
  return Regex(pcre2_pattern, PCRE2_UTF | PCRE2_UCP);
}

Regex Regex::FromLiteral(const std::string& text) {
  return Regex(text, PCRE2_UTF | PCRE2_LITERAL);
}

Regex::Regex(const std::string& pattern, uint32_t options) {
  std::unique_ptr<pcre2_compile_context, CompileContextDeleter> context(
      pcre2_compile_context_create(nullptr));
  if (!context) throw std::bad_alloc();
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(), options,
                            &error, &offset, context.get()));
  if (!code_) {
    throw Error(ErrorCode::kUnsupported, "pattern does not compile: " + MessageOf(error) +
                                             " at offset " + std::to_string(offset) + " of " +
                                             pattern);
  }
  // Without JIT (a hardened kernel may forbid it) the interpreter gives the same matches.
  has_jit_ = pcre2_jit_compile(code_.get(), PCRE2_JIT_COMPLETE) == 0;
}

bool Regex::MatchesEmpty() const {
  uint32_t matches_empty = 0;
  pcre2_pattern_info(code_.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  return matches_empty != 0;
}

void RegexScan::MatchDataDeleter::operator()(pcre2_real_match_data_8* data) const {
  pcre2_match_data_free(data);
}

void RegexScan::MatchContextDeleter::operator()(pcre2_real_match_context_8* context) const {
  pcre2_match_context_free(context);
}

RegexScan::RegexScan()
    : data_(pcre2_match_data_create(1, nullptr)), context_(pcre2_match_context_create(nullptr)) {
  if (!data_ || !context_) throw std::bad_alloc();
  pcre2_set_heap_limit(context_.get(), kHeapLimit);
}

void RegexScan::Start(const Regex& regex, std::string_view text) {
  regex_ = &regex;
  text_ = text;
  position_ = 0;
  last_end_.reset();
  const uint64_t limit = kBaseMatchLimit + 16 * static_cast<uint64_t>(text.size());
  pcre2_set_match_limit(context_.get(),
                        static_cast<uint32_t>(std::min<uint64_t>(limit, UINT32_MAX)));
}

std::optional<RegexScan::Match> RegexScan::Next() {
  while (position_ <= text_.size()) {
    const std::optional<Match> match = MatchFrom(position_);
    if (!match) break;
    const bool empty_after_match = match->begin == match->end && last_end_ == match->end;
    if (!empty_after_match) {
      position_ = match->end;
      last_end_ = match->end;
      return match;
    }
    if (position_ == text_.size()) break;
    NextCodePoint(text_, &position_);
  }
  position_ = text_.size() + 1;
  return std::nullopt;
}

std::optional<RegexScan::Match> RegexScan::MatchFrom(size_t start) {
  // The text was repaired before; PCRE2's own check would cost a pass over it for each match.
  constexpr uint32_t kOptions = PCRE2_NO_UTF_CHECK;
  const auto* subject = reinterpret_cast<PCRE2_SPTR>(text_.data());
  int rc = PCRE2_ERROR_JIT_STACKLIMIT;
  if (regex_->has_jit_) {
    rc = pcre2_jit_match(regex_->code_.get(), subject, text_.size(), start, kOptions, data_.get(),
                         context_.get());
  }
  // The interpreter keeps its backtracking on the heap, which reaches further than JIT's stack.
  if (rc == PCRE2_ERROR_JIT_STACKLIMIT) {
    rc = pcre2_match(regex_->code_.get(), subject, text_.size(), start, kOptions | PCRE2_NO_JIT,
                     data_.get(), context_.get());
  }
  if (rc == PCRE2_ERROR_NOMATCH) return std::nullopt;
  if (rc < 0) {
    throw Error(ErrorCode::kResourceExhausted,
                "the tokenizer's split pattern cannot scan this text: " + MessageOf(rc));
  }
  const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(data_.get());
  return Match{.begin = bounds[0], .end = bounds[1]};
}

}  // namespace sluice
