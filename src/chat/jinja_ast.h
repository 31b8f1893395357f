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
    kTest,       // operands[0] is name ( operands[1...], named )
    kNot,
    kNegate,
    kPlus,  // operands[0]
    kAnd,
    kOr,           // operands[0], operands[1]
    kArithmetic,   // operands[0] operators[0] operands[1]
    kConcatenate,  // operands
    kCompare,      // operands[0] operators[0] operands[1] operators[1] operands[2] ...
    kConditional,  // operands[1] if operands[0] else operands[2], which may be null
    kCaptured,     // what the body of a filter or set block rendered
  };
  Kind kind;
  Place place;
  int depth = 1;  // levels of expressions, bounded by the parser
  std::string name;
  Value constant;
  std::vector<ExpressionPtr> operands;
  std::vector<std::pair<std::string, ExpressionPtr>> named;
  // The arguments *sequence and **mapping, either may be null.
  ExpressionPtr sequence_argument;
  ExpressionPtr mapping_argument;
  std::vector<Operator> operators;
};

// What a set, for or with assigns to: a name, an attribute of a namespace, or several of them
// that a sequence is unpacked to.
struct Target {
  std::string name;
  std::string attribute;  // empty unless name.attribute
  bool unpacks = false;
  std::vector<Target> parts;  // when it unpacks
};

struct Statement;
using Body = std::vector<Statement>;

// A macro, or the body of a call block, which is the macro "caller".
struct MacroStatement {
  std::string name;
  std::vector<std::string> parameters;
  std::vector<ExpressionPtr> defaults;  // of the last parameters
  Body body;
  // Whether the body names what a call may bring beyond the parameters.
  bool uses_varargs = false;
  bool uses_kwargs = false;
  bool uses_caller = false;
};

struct Statement {
  enum class Kind {
    kText,      // text
    kPrint,     // expression
    kIf,        // branches; the last may have no condition
    kFor,       // target, expression, condition (may be null), recursive, body, else_body
    kSet,       // target, expression
    kSetBlock,  // target, body, expression (the filters of the body, or null)
    kMacro,     // macro
    kCall,      // expression (a kCall), macro
    kFilter,    // body, expression (the filters of the body)
    kWith,      // assignments, body
    kBlock,     // body, in a scope of its own
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
  bool recursive = false;
  std::vector<Branch> branches;
  std::vector<std::pair<Target, ExpressionPtr>> assignments;
  Body body;
  Body else_body;
  std::unique_ptr<MacroStatement> macro;
};

}  // namespace sluice::jinja
