#include "tokenizer/token_decoder.h"

#include <algorithm>

#include "base/check.h"
#include "tokenizer/byte_level.h"
#include "tokenizer/json_fields.h"

namespace sluice {
namespace {

constexpr std::string_view kReplacement = "\xEF\xBF\xBD";

// What steps may make of one content, and all contents of a vocabulary: far beyond any published.
constexpr size_t kMaxGrowth = 64;
constexpr size_t kMaxTextSize = 4096;
constexpr size_t kMaxTableSize = size_t{64} << 20;

int HexDigit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  if (c >= 'A' && c <= 'F') return c - 'A' + 10;
  return -1;
}

// The byte that a content like "<0xE2>" names.
std::optional<char> ByteOfContent(std::string_view content) {
  if (content.size() != 6 || !content.starts_with("<0x") || content[5] != '>') return std::nullopt;
  const int high = HexDigit(content[3]);
  const int low = HexDigit(content[4]);
  if (high < 0 || low < 0) return std::nullopt;
  return static_cast<char>(high * 16 + low);
}

std::string ApplyMetaspace(const Metaspace& metaspace, std::string_view text, bool is_first) {
  const std::string& mark = metaspace.replacement;
  const bool drops = is_first && metaspace.prepend != PrependScheme::kNever;
  std::string result;
  size_t done = 0;
  for (size_t at = text.find(mark); at != text.npos; at = text.find(mark, done)) {
    result += text.substr(done, at - done);
    if (!drops) result += ' ';
    done = at + mark.size();
  }
  return result.append(text.substr(done));
}

}  // namespace

TokenDecoder TokenDecoder::FromJson(const boost::json::value* json) {
  if (json == nullptr) throw Unsupported("there is no decoder");
  TokenDecoder decoder;
  decoder.AppendStep(*json);
  return decoder;
}

void TokenDecoder::AppendStep(const boost::json::value& json) {
  const auto& object = RequireObject(json, "decoder");
  const std::string_view type = TypeOf(object, "decoder");
  if (type == "Sequence") {
    const auto& list = RequireField(object, "decoders", "decoder Sequence");
    for (const auto& step : RequireArray(list, "decoder Sequence.decoders")) AppendStep(step);
  } else if (type == "Fuse") {
    is_fused_ = true;
  } else if (type == "ByteLevel" || type == "ByteFallback") {
    if (is_fused_ || has_byte_fallback_) {
      throw Unsupported("decoder \"" + std::string(type) +
                        "\" after Fuse, ByteLevel or ByteFallback is not supported");
    }
    const bool is_byte_level = type == "ByteLevel";
    is_fused_ = is_byte_level;
    is_byte_level_ = is_byte_level;
    has_byte_fallback_ = !is_byte_level;
  } else if (type == "Strip") {
    if (!is_fused_) return AppendMap({.strip = ReadStrip(object)}, type);
    CheckStepCount(strips_.size(), "decoder");
    strips_.push_back(ReadStrip(object));
  } else if (type == "Metaspace") {
    AppendMap({.metaspace = Metaspace::FromJson(object, "decoder Metaspace")}, type);
  } else if (type == "Replace") {
    constexpr std::string_view kWhere = "decoder Replace";
    AppendMap({.pattern = TextPattern::FromJson(RequireField(object, "pattern", kWhere),
                                                "decoder Replace.pattern"),
               .content = std::string(RequireString(RequireField(object, "content", kWhere),
                                                    "decoder Replace.content"))},
              type);
  } else {
    throw Unsupported("decoder \"" + std::string(type) +
                      "\" is not supported; ByteLevel, ByteFallback, Replace, Metaspace, Strip, "
                      "Fuse and Sequence are");
  }
}

void TokenDecoder::AppendMap(Map map, std::string_view type) {
  if (is_fused_) {
    throw Unsupported("decoder \"" + std::string(type) +
                      "\" after Fuse or ByteLevel is not supported");
  }
  CheckStepCount(maps_.size() + maps_after_bytes_.size(), "decoder");
  (has_byte_fallback_ ? maps_after_bytes_ : maps_).push_back(std::move(map));
}

TokenDecoder::Strip TokenDecoder::ReadStrip(const boost::json::object& object) {
  constexpr std::string_view kWhere = "decoder Strip";
  // What may be taken off the end is held back while decoding.
  constexpr size_t kMaxCount = 1024;
  return {.content = OneCharacter(RequireField(object, "content", kWhere), "decoder Strip.content"),
          .start = CountField(object, "start", kMaxCount, kWhere),
          .stop = CountField(object, "stop", kMaxCount, kWhere)};
}

std::string TokenDecoder::Apply(const std::vector<Map>& maps, std::string_view text,
                                bool is_first) {
  const size_t max_size = kMaxTextSize + kMaxGrowth * text.size();
  std::string result(text);
  for (const Map& map : maps) {
    if (map.pattern) {
      result = map.pattern->Replace(result, map.content, max_size);
    } else if (map.metaspace) {
      result = ApplyMetaspace(*map.metaspace, result, is_first);
    } else {
      const std::string& content = map.strip->content;
      std::string_view rest = result;
      for (size_t i = 0; i < map.strip->start && rest.starts_with(content); ++i) {
        rest.remove_prefix(content.size());
      }
      for (size_t i = 0; i < map.strip->stop && rest.ends_with(content); ++i) {
        rest.remove_suffix(content.size());
      }
      result = std::string(rest);
    }
  }
  return result;
}

std::string TokenDecoder::TextOf(std::string_view content, bool is_first) const {
  std::string text = Apply(maps_, content, is_first);
  if (is_byte_level_) return ByteLevelTokenText(text);
  return Apply(maps_after_bytes_, text, is_first);
}

bool TokenDecoder::DependsOnFirst() const {
  const auto depends = [](const Map& map) {
    return map.metaspace && map.metaspace->prepend != PrependScheme::kNever;
  };
  return std::any_of(maps_.begin(), maps_.end(), depends) ||
         std::any_of(maps_after_bytes_.begin(), maps_after_bytes_.end(), depends);
}

void TokenDecoder::Table::Append(std::string_view text, size_t index) {
  if (bytes.size() + text.size() > kMaxTableSize) {
    throw Unsupported("the texts of all tokens take more than " + std::to_string(kMaxTableSize) +
                      " bytes");
  }
  ends.resize(index, static_cast<uint32_t>(bytes.size()));
  bytes += text;
  ends.push_back(static_cast<uint32_t>(bytes.size()));
}

std::string_view TokenDecoder::Table::At(size_t index) const {
  const size_t begin = index == 0 ? 0 : ends[index - 1];
  return std::string_view(bytes).substr(begin, ends[index] - begin);
}

void TokenDecoder::IndexTokens(const std::map<TokenId, std::string_view>& contents) {
  const bool depends_on_first = DependsOnFirst();
  for (const auto& [id, content] : contents) {
    const auto index = static_cast<size_t>(id);
    kinds_.resize(index + 1);
    kinds_[index] = Kind::kText;
    if (depends_on_first) contents_.Append(content, index);
    if (has_byte_fallback_) {
      if (const auto byte = ByteOfContent(Apply(maps_, content, /*is_first=*/false))) {
        kinds_[index] = Kind::kByte;
        texts_.Append(std::string_view(&*byte, 1), index);
        continue;
      }
    }
    texts_.Append(TextOf(content, /*is_first=*/false), index);
  }
}

TokenDecoder::Kind TokenDecoder::KindOf(TokenId id) const {
  return id >= 0 && id < size() ? kinds_[static_cast<size_t>(id)] : Kind::kNone;
}

std::string_view TokenDecoder::Text(TokenId id) const {
  return KindOf(id) == Kind::kNone ? std::string_view() : texts_.At(static_cast<size_t>(id));
}

TokenDecoder::Stream::Stream(const TokenDecoder& decoder) : decoder_(decoder) {
  for (const Strip& strip : decoder.strips_) strips_.push_back({.left = strip.start});
}

void TokenDecoder::Stream::Push(TokenId id, std::string* out) {
  const Kind kind = decoder_.KindOf(id);
  if (kind == Kind::kNone) return;
  if (kind == Kind::kByte) {
    run_ += decoder_.Text(id);
    return;
  }
  EmitRun(out);
  if (is_first_ && !decoder_.contents_.ends.empty()) {
    const std::string_view content = decoder_.contents_.At(static_cast<size_t>(id));
    return EmitToken(decoder_.TextOf(content, /*is_first=*/true), out);
  }
  EmitToken(decoder_.Text(id), out);
}

void TokenDecoder::Stream::EmitRun(std::string* out) {
  if (run_.empty()) return;
  const std::string run = std::move(run_);
  run_.clear();
  // An ill-formed run becomes a token for each byte, a well-formed one a single token.
  if (RepairUtf8(run) == run) {
    return EmitToken(Apply(decoder_.maps_after_bytes_, run, is_first_), out);
  }
  for (size_t i = 0; i < run.size(); ++i) {
    EmitToken(Apply(decoder_.maps_after_bytes_, kReplacement, is_first_), out);
  }
}

void TokenDecoder::Stream::EmitToken(std::string_view text, std::string* out) {
  is_first_ = false;
  if (!decoder_.is_byte_level_) return EmitText(text, 0, out);
  if (strips_.empty()) return repairer_.Push(text, out);
  std::string repaired;
  repairer_.Push(text, &repaired);
  EmitText(repaired, 0, out);
}

void TokenDecoder::Stream::EmitText(std::string_view text, size_t strip, std::string* out) {
  if (strip == strips_.size()) {
    *out += text;
    return;
  }
  const Strip& step = decoder_.strips_[strip];
  StripState& state = strips_[strip];
  while (state.left > 0 && !text.empty()) {
    if (text.starts_with(step.content)) {
      text.remove_prefix(step.content.size());
      --state.left;
    } else {
      state.left = 0;
    }
  }
  if (text.empty()) return;
  if (step.stop == 0) return EmitText(text, strip + 1, out);
  // Of what was held and the text, as much is held back now as the step may take off the end.
  std::string whole;
  for (size_t i = 0; i < state.held; ++i) whole += step.content;
  whole += text;
  std::string_view rest = whole;
  state.held = 0;
  while (state.held < step.stop && rest.ends_with(step.content)) {
    rest.remove_suffix(step.content.size());
    ++state.held;
  }
  if (!rest.empty()) EmitText(rest, strip + 1, out);
}

void TokenDecoder::Stream::Finish(std::string* out) {
  EmitRun(out);
  std::string rest;
  repairer_.Finish(&rest);
  EmitText(rest, 0, out);
}

}  // namespace sluice
