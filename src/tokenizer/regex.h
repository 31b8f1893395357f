#pragma once

#include <memory>
#include <optional>
#include <string>
#include <string_view>

struct pcre2_real_code_8;
struct pcre2_real_match_context_8;
struct pcre2_real_match_data_8;

namespace sluice {

// A compiled PCRE2 pattern over UTF-8, with Unicode properties. Immutable; one may be shared by any
// number of threads, each with its own RegexScan.
class Regex {
 public:
  // Throws Error(kUnsupported) with PCRE2's message when the pattern does not compile.
  static Regex FromPattern(const std::string& pcre2_pattern);
  static Regex FromLiteral(const std::string& text);

  // Whether the pattern can match no text at all.
  bool MatchesEmpty() const;

 private:
  friend class RegexScan;
  struct CodeDeleter {
    void operator()(pcre2_real_code_8* code) const;
  };
  Regex(const std::string& pattern, uint32_t options);

  std::unique_ptr<pcre2_real_code_8, CodeDeleter> code_;
  bool has_jit_ = false;
};

// The successive matches of a pattern in one text. An empty match right after a match is passed
// over. Holds scratch memory of its own, which serves one scan after another; not thread-safe.
class RegexScan {
 public:
  struct Match {
    size_t begin;  // bytes
    size_t end;
  };

  RegexScan();

  // Starts a scan of `text`, well-formed UTF-8. Both must outlive the scan.
  void Start(const Regex& regex, std::string_view text);

  // Returns the next match. Throws Error(kResourceExhausted) when the pattern backtracks too much.
  std::optional<Match> Next();

 private:
  struct MatchDataDeleter {
    void operator()(pcre2_real_match_data_8* data) const;
  };
  struct MatchContextDeleter {
    void operator()(pcre2_real_match_context_8* context) const;
  };
  std::optional<Match> MatchFrom(size_t start);

  std::unique_ptr<pcre2_real_match_data_8, MatchDataDeleter> data_;
  std::unique_ptr<pcre2_real_match_context_8, MatchContextDeleter> context_;
  const Regex* regex_ = nullptr;
  std::string_view text_;
  size_t position_ = 0;
  std::optional<size_t> last_end_;
};

}  // namespace sluice
