#pragma once

#include <boost/json/fwd.hpp>
#include <cstdint>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "tokenizer/metaspace.h"
#include "tokenizer/text_pattern.h"
#include "tokenizer/token_id.h"
#include "tokenizer/utf8.h"

namespace sluice {

// How the contents of tokens become text, as the "decoder" of tokenizer.json says. Immutable; safe
// to call from any thread.
//
// A decoder is a list of steps. All that published files use is of one form, which is what can be
// decoded as the tokens come:
//   1. steps on each token's content: Replace, Metaspace, Strip;
//   2. ByteFallback: a run of tokens like <0xE2> becomes the text that its bytes are, or U+FFFD for
//      each when they are none; and steps as in 1 on that text;
//   3. ByteLevel, which reads each content as bytes, or Fuse, which joins the texts;
//   4. Strip from the ends of the whole.
class TokenDecoder {
 public:
  // Reads the steps. Throws Error(kUnsupported) for other steps or another order.
  static TokenDecoder FromJson(const boost::json::value* json);

  // Works out each token's text once and for all. Throws Error(kUnsupported) when these are out of
  // all proportion.
  void IndexTokens(const std::map<TokenId, std::string_view>& contents);

  // The highest id plus one.
  TokenId size() const { return static_cast<TokenId>(kinds_.size()); }

  // Returns the bytes that the token contributes to text other than as its first token, not UTF-8
  // by themselves. Empty for an id of no token.
  std::string_view Text(TokenId id) const;

  // Whether the token stands for one byte of a ByteFallback.
  bool IsByte(TokenId id) const { return KindOf(id) == Kind::kByte; }

  // Decodes one sequence as its tokens come. The pieces are well-formed UTF-8, and what they add up
  // to does not depend on how they were cut. Not thread-safe.
  class Stream {
   public:
    // `decoder` must outlive the stream.
    explicit Stream(const TokenDecoder& decoder);

    // Appends the text that this token makes certain. Held back are a character cut by the token's
    // end, a run of byte tokens until it ends, and what a Strip may take off the end. Ids of no
    // token are passed over.
    void Push(TokenId id, std::string* out);

    // Ends the sequence: appends what was held back.
    void Finish(std::string* out);

   private:
    // What a Strip of the whole has left to take.
    struct StripState {
      size_t left;      // characters it may still take off the start
      size_t held = 0;  // characters held back that it may take off the end
    };
    void EmitToken(std::string_view text, std::string* out);
    void EmitRun(std::string* out);
    void EmitText(std::string_view text, size_t strip, std::string* out);

    const TokenDecoder& decoder_;
    std::string run_;  // bytes of a run of byte tokens
    bool is_first_ = true;
    Utf8Repairer repairer_;
    std::vector<StripState> strips_;
  };

 private:
  enum class Kind : uint8_t { kNone, kText, kByte };
  struct Strip {
    std::string content;  // one character
    size_t start;         // at most so many off the start
    size_t stop;          // and off the end
  };
  // A step on one token's content; one of the three.
  struct Map {
    std::optional<TextPattern> pattern;
    std::string content;
    std::optional<Metaspace> metaspace;
    std::optional<Strip> strip;
  };
  // Strings by id, one after another in one buffer.
  struct Table {
    std::string bytes;
    std::vector<uint32_t> ends;
    void Append(std::string_view text, size_t index);
    std::string_view At(size_t index) const;
  };

  void AppendStep(const boost::json::value& json);
  void AppendMap(Map map, std::string_view type);
  static Strip ReadStrip(const boost::json::object& object);
  static std::string Apply(const std::vector<Map>& maps, std::string_view text, bool is_first);
  std::string TextOf(std::string_view content, bool is_first) const;
  Kind KindOf(TokenId id) const;
  bool DependsOnFirst() const;

  std::vector<Map> maps_;
  bool has_byte_fallback_ = false;
  std::vector<Map> maps_after_bytes_;
  bool is_byte_level_ = false;
  bool is_fused_ = false;
  std::vector<Strip> strips_;

  std::vector<Kind> kinds_;
  Table texts_;
  Table contents_;  // filled only when the first token is decoded in its own way
};

}  // namespace sluice
