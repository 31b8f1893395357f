#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "chat/jinja_ast.h"

namespace sluice::jinja {

struct Token {
  enum class Kind {
    kText,
    kPrintBegin,
    kPrintEnd,  // {{ }}
    kBlockBegin,
    kBlockEnd,  // {% %}
    kName,
    kString,
    kInteger,
    kFloat,
    kOperator,  // text is the operator or bracket
    kEnd,
  };
  Kind kind;
  Place place;
  std::string text;
};

// Cuts a template into tokens as Jinja does with trim_blocks and lstrip_blocks: the newline behind
// a block and the blanks before one that begins its line are dropped, as are comments, what the
// signs in {%- -%} take, and one newline at the end. Throws Error(kDataLoss) for what is not Jinja.
std::vector<Token> Lex(std::string_view source);

// An Error whose message names the place.
Error ErrorAt(ErrorCode code, Place place, const std::string& message);

}  // namespace sluice::jinja
