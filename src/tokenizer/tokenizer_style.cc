#include "tokenizer/tokenizer_style.h"

#include <boost/json/parse.hpp>
#include <boost/json/value.hpp>

namespace sluice {
namespace {

// Whether a part, or one of a Sequence's, is of the type.
bool HasPart(const boost::json::value& part, std::string_view type) {
  if (part.is_array()) {
    for (const boost::json::value& inner : part.get_array()) {
      if (HasPart(inner, type)) return true;
    }
    return false;
  }
  const boost::json::object* object = part.if_object();
  if (object == nullptr) return false;
  const boost::json::value* own = object->if_contains("type");
  if (own != nullptr && own->is_string() && own->get_string() == type) return true;
  for (const char* list : {"pretokenizers", "decoders", "normalizers"}) {
    const boost::json::value* inner = object->if_contains(list);
    if (inner != nullptr && inner->is_array() && HasPart(*inner, type)) return true;
  }
  return false;
}

}  // namespace

std::string TokenizerStyle(std::string_view tokenizer_json) {
  boost::json::error_code error;
  const boost::json::value root = boost::json::parse(tokenizer_json, error);
  const boost::json::object* object = error ? nullptr : root.if_object();
  const boost::json::value* model = object ? object->if_contains("model") : nullptr;
  const boost::json::object* fields = model ? model->if_object() : nullptr;
  if (fields == nullptr) return "";
  const boost::json::value* type = fields->if_contains("type");
  std::string style =
      type != nullptr && type->is_string() ? std::string(type->get_string()) : "BPE";
  const boost::json::value* fallback = fields->if_contains("byte_fallback");
  if (fallback != nullptr && fallback->is_bool() && fallback->get_bool())
    style += ", byte fallback";
  for (const char* part : {"pre_tokenizer", "decoder"}) {
    const boost::json::value* found = object->if_contains(part);
    if (found != nullptr && HasPart(*found, "ByteLevel")) return style + ", byte level";
  }
  return style;
}

}  // namespace sluice
