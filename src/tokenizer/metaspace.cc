#include "tokenizer/metaspace.h"

#include "tokenizer/json_fields.h"
#include "tokenizer/utf8.h"

namespace sluice {
namespace {

PrependScheme PrependSchemeFromName(std::string_view name, const std::string& where) {
  if (name == "always") return PrependScheme::kAlways;
  if (name == "first") return PrependScheme::kFirst;
  if (name == "never") return PrependScheme::kNever;
  throw DataLoss(where + ".prepend_scheme \"" + std::string(name) + "\" is not known");
}

}  // namespace

Metaspace Metaspace::FromJson(const boost::json::object& object, const std::string& where) {
  Metaspace metaspace;
  metaspace.replacement =
      OneCharacter(RequireField(object, "replacement", where), where + ".replacement");
  if (const auto* scheme = FindField(object, "prepend_scheme")) {
    const std::string_view name = RequireString(*scheme, where + ".prepend_scheme");
    metaspace.prepend = PrependSchemeFromName(name, where);
  }
  // Files from before prepend_scheme.
  if (!BoolField(object, "add_prefix_space", true, where)) {
    if (FindField(object, "prepend_scheme") != nullptr &&
        metaspace.prepend != PrependScheme::kNever) {
      throw DataLoss(where + ".add_prefix_space contradicts prepend_scheme");
    }
    metaspace.prepend = PrependScheme::kNever;
  }
  metaspace.split = BoolField(object, "split", true, where);
  return metaspace;
}

}  // namespace sluice
