#pragma once

#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "chat/jinja_value.h"

namespace sluice::jinja {

// Where a construct stands in the template, both from 1.
struct Place {
  int line = 1;
  int column = 1;
};

struct Expression;
using ExpressionPtr = std::unique_ptr<Expression>;

enum class Operator {
  kAdd,
  kSubtract,
  kMultiply,
  kDivide,
  kFloorDivide,
  kModulo,
  kPower,
  kEqual,
  kNotEqual,
  kLess,
  kLessEqual,
  kGreater,
  kGreaterEqual,
  kIn,
  kNotIn,
};

struct Expression {
  enum class Kind {
    kConstant,   // constant
    kName,       // name
    kList,       // operands
    kTuple,      // operands
    kDict,       // operands: key, value, key, value, ...
    kAttribute,  // operands[0] . name
    kItem,       // operands[0] [ operands[1] ]
    kSlice,      // operands[0] [ operands[1] : operands[2] : operands[3] ], each may be null
    kCall,       // operands[0] ( operands[1...], named )
    kFilter,     // operands[0] | name ( operands[1...], named )
    kTest,       // operands[0] is name ( operands[1...] )
    kNot,
    kNegate,
    kPlus,  // operands[0]
    kAnd,
    kOr,           // operands[0], operands[1]
    kArithmetic,   // operands[0] operators[0] operands[1]
    kConcatenate,  // operands
    kCompare,      // operands[0] operators[0] operands[1] operators[1] operands[2] ...
    kConditional,  // operands[1] if operands[0] else operands[2], which may be null
  };
  Kind kind;
  Place place;
  int depth = 1;  // levels of expressions, bounded by the parser
  std::string name;
  Value constant;
  std::vector<ExpressionPtr> operands;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  std::vector<Operator> operators;
};

// What a set or for assigns to: names, or one attribute of a namespace.
struct Target {
  std::vector<std::string> names;
  bool unpacks = false;   // several names, or one with a comma
  std::string attribute;  // empty unless names[0].attribute
};

struct Statement;
using Body = std::vector<Statement>;

struct MacroStatement {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // of the last parameters
  Body body;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kPrint,     // expression
    kIf,        // branches; the last may have no condition
    kFor,       // target, expression, condition (may be null), body, else_body
    kSet,       // target, expression
    kSetBlock,  // target, body
    kMacro,     // macro
    kBlock,     // body
    kBreak,
    kContinue,
  };
  struct Branch {
    ExpressionPtr condition;
    Body body;
  };
  Kind kind;
  Place place;
  std::string text;
  ExpressionPtr expression;
  ExpressionPtr condition;
  Target target;
  std::vector<Branch> branches;
  Body body;
  Body else_body;
  std::unique_ptr<MacroStatement> macro;
};

}  // namespace sluice::jinja
