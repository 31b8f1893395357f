#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "chat/jinja_ast.h"
#include "chat/jinja_lexer.h"

namespace sluice::jinja {

// The tokens of a template and the part of Jinja's grammar inside its tags. All Parse functions
// throw Error(kDataLoss) where it is not Jinja and Error(kUnsupported) for Jinja that is not
// written here, with line and column.
class ExpressionParser {
 public:
  explicit ExpressionParser(std::string_view source) : tokens_(Lex(source)) {}

 protected:
  // Counts the parser's own recursion.
  class Level {
   public:
    explicit Level(ExpressionParser& parser);
    ~Level() { --parser_.nesting_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    ExpressionParser& parser_;
  };

  // --- tokens ---

  const Token& Now() const { return tokens_[next_]; }
  const Token& Ahead() const {
    return tokens_[next_ + 1 < tokens_.size() ? next_ + 1 : tokens_.size() - 1];
  }
  bool Is(Token::Kind kind, std::string_view text) const {
    return Now().kind == kind && Now().text == text;
  }
  bool IsName(std::string_view name) const { return Is(Token::Kind::kName, name); }
  bool IsOperator(std::string_view text) const { return Is(Token::Kind::kOperator, text); }
  Token Take();
  bool SkipName(std::string_view name) { return IsName(name) && (Take(), true); }
  bool SkipOperator(std::string_view text) { return IsOperator(text) && (Take(), true); }
  void ExpectOperator(std::string_view text);
  void ExpectKeyword(std::string_view name);
  std::string ExpectName();
  // A name that something may be assigned to.
  std::string ExpectNewName();

  Error Broken(const std::string& message) const;
  Error Unsupported(const std::string& what) const { return UnsupportedAt(Now().place, what); }
  static Error UnsupportedAt(Place place, const std::string& what);
  Error Expected(const std::string& what) const;

  // --- expressions ---

  // One expression, or several with commas, which make a tuple.
  ExpressionPtr ParseTuple(bool with_condition = true);
  ExpressionPtr ParseExpression();
  // "| name(...)" any number of times, the first without its bar, applied to `input`.
  ExpressionPtr ParseFilterChain(ExpressionPtr input);
  ExpressionPtr Node(Expression::Kind kind, Place place, std::vector<ExpressionPtr> operands = {},
                     std::string name = {});

  // The macros whose bodies are being parsed, innermost last.
  std::vector<MacroStatement*> open_macros_;

 private:
  void MeasureDepth(Expression* node) const;
  ExpressionPtr Constant(Place place, Value value);
  bool AtTupleEnd() const;
  ExpressionPtr ParseOr();
  ExpressionPtr ParseAnd();
  ExpressionPtr ParseNot();
  ExpressionPtr ParseCompare();
  std::optional<Operator> TakeComparison();
  template <class Parse>
  ExpressionPtr ParseLeftToRight(
      std::initializer_list<std::pair<std::string_view, Operator>> operators, Parse parse);
  ExpressionPtr ParseSum();
  ExpressionPtr ParseConcatenation();
  ExpressionPtr ParseProduct();
  ExpressionPtr ParsePower();
  ExpressionPtr ParseUnary(bool with_filters);
  ExpressionPtr ParsePrimary();
  ExpressionPtr ParseName();
  Value ParseNumber();
  ExpressionPtr ParseBracketed();
  ExpressionPtr ParseList();
  ExpressionPtr ParseDict();
  ExpressionPtr ParsePostfix(ExpressionPtr node);
  ExpressionPtr ParseSubscript(ExpressionPtr node);
  ExpressionPtr ParseSubscripted(ExpressionPtr node);
  void ParseArguments(Expression* node);
  void ParseArgument(Expression* node);
  ExpressionPtr ParseCall(ExpressionPtr callee);
  ExpressionPtr ParseFiltersAndTests(ExpressionPtr node);
  ExpressionPtr ParseFilter(ExpressionPtr input);
  ExpressionPtr ParseTest(ExpressionPtr input);
  bool AtTestArgument() const;

  std::vector<Token> tokens_;
  size_t next_ = 0;
  int nesting_ = 0;
};

}  // namespace sluice::jinja
