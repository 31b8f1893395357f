#include "tokenizer/post_processor.h"

#include "tokenizer/bpe_file.h"
#include "tokenizer/json_fields.h"

namespace sluice {
namespace {

// Published files have up to two.
constexpr size_t kMaxAddedIds = 1024;

void CheckAddedIds(const PostProcessor& processor) {
  if (processor.prefix.size() + processor.suffix.size() <= kMaxAddedIds) return;
  throw Unsupported("post_processor adds more than " + std::to_string(kMaxAddedIds) + " tokens");
}

// Appends the ids that special_tokens gives for one entry of the template.
void AppendTemplateIds(const boost::json::object& processor, const boost::json::value& piece,
                       std::vector<TokenId>* ids) {
  constexpr std::string_view kWhere = "post_processor TemplateProcessing";
  const auto& special = RequireObject(piece, "post_processor.single[].SpecialToken");
  const std::string_view name =
      RequireString(RequireField(special, "id", kWhere), "post_processor.single[].id");
  const auto& table = RequireObject(RequireField(processor, "special_tokens", kWhere),
                                    "post_processor.special_tokens");
  const auto& entry = RequireObject(RequireField(table, name, "post_processor.special_tokens"),
                                    "post_processor.special_tokens[]");
  const auto& list = RequireField(entry, "ids", "post_processor.special_tokens[]");
  for (const auto& id : RequireArray(list, "post_processor.special_tokens[].ids")) {
    if (ids->size() > kMaxAddedIds) break;
    ids->push_back(TokenIdFromJson(id, "post_processor.special_tokens[].ids[]"));
  }
}

PostProcessor ReadTemplate(const boost::json::object& processor) {
  PostProcessor wrapping;
  constexpr std::string_view kWhere = "post_processor TemplateProcessing";
  bool seen_sequence = false;
  const auto& single = RequireField(processor, "single", kWhere);
  for (const auto& item : RequireArray(single, "post_processor.single")) {
    const auto& piece = RequireObject(item, "post_processor.single[]");
    if (const auto* special = FindField(piece, "SpecialToken")) {
      AppendTemplateIds(processor, *special, seen_sequence ? &wrapping.suffix : &wrapping.prefix);
      CheckAddedIds(wrapping);
      continue;
    }
    RequireField(piece, "Sequence", "post_processor.single[]");
    if (seen_sequence) throw Unsupported("post_processor template repeats its sequence");
    seen_sequence = true;
  }
  if (!seen_sequence) throw DataLoss("post_processor template leaves the sequence out");
  return wrapping;
}

// Puts `outer` around `inner`.
void Wrap(const PostProcessor& outer, PostProcessor* inner) {
  inner->prefix.insert(inner->prefix.begin(), outer.prefix.begin(), outer.prefix.end());
  inner->suffix.insert(inner->suffix.end(), outer.suffix.begin(), outer.suffix.end());
  CheckAddedIds(*inner);
}

}  // namespace

PostProcessor PostProcessor::FromJson(const boost::json::value* json) {
  if (json == nullptr) return {};
  const auto& object = RequireObject(*json, "post_processor");
  const std::string_view type = TypeOf(object, "post_processor");
  if (type == "ByteLevel") return {};
  if (type == "TemplateProcessing") return ReadTemplate(object);
  if (type != "Sequence") {
    throw Unsupported("post_processor \"" + std::string(type) +
                      "\" is not supported; ByteLevel, TemplateProcessing and Sequence are");
  }
  PostProcessor all;
  const auto& list = RequireField(object, "processors", "post_processor Sequence");
  for (const auto& step : RequireArray(list, "post_processor Sequence.processors")) {
    Wrap(FromJson(&step), &all);
  }
  return all;
}

}  // namespace sluice
