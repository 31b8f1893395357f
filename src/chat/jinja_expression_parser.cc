#include "chat/jinja_expression_parser.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "chat/jinja_filters.h"
#include "chat/jinja_methods.h"
#include "chat/jinja_tests.h"

namespace sluice::jinja {
namespace {

// Levels of expressions, and of blocks and brackets. Evaluation recurses as deep as this.
constexpr int kMaxNesting = 100;

using Kind = Expression::Kind;

template <class... Parts>
std::vector<ExpressionPtr> Operands(Parts... parts) {
  std::vector<ExpressionPtr> operands;
  (operands.push_back(std::move(parts)), ...);
  return operands;
}

bool IsConstantName(std::string_view name) {
  static constexpr std::array<std::string_view, 6> kNames = {"true", "false", "none",
                                                             "True", "False", "None"};
  return std::ranges::find(kNames, name) != kNames.end();
}

}  // namespace

ExpressionParser::Level::Level(ExpressionParser& parser) : parser_(parser) {
  if (++parser_.nesting_ > kMaxNesting) throw parser_.Unsupported("nesting this deep");
}

Token ExpressionParser::Take() {
  Token token = Now();
  if (next_ + 1 < tokens_.size()) ++next_;
  return token;
}

void ExpressionParser::ExpectOperator(std::string_view text) {
  if (!SkipOperator(text)) throw Expected("'" + std::string(text) + "'");
}

void ExpressionParser::ExpectKeyword(std::string_view name) {
  if (!SkipName(name)) throw Expected("'" + std::string(name) + "'");
}

std::string ExpressionParser::ExpectName() {
  if (Now().kind != Token::Kind::kName) throw Expected("a name");
  return Take().text;
}

std::string ExpressionParser::ExpectNewName() {
  if (Now().kind == Token::Kind::kName && IsConstantName(Now().text)) {
    throw Broken("cannot assign to " + Now().text);
  }
  return ExpectName();
}

Error ExpressionParser::Broken(const std::string& message) const {
  return ErrorAt(ErrorCode::kDataLoss, Now().place, message);
}

Error ExpressionParser::UnsupportedAt(Place place, const std::string& what) {
  return ErrorAt(ErrorCode::kUnsupported, place, what + " is not supported");
}

Error ExpressionParser::Expected(const std::string& what) const {
  const std::string got = Now().kind == Token::Kind::kEnd ? "the end of the template"
                          : Now().text.empty()            ? "the end of the tag"
                                                          : "'" + Now().text + "'";
  return Broken("expected " + what + ", got " + got);
}

ExpressionPtr ExpressionParser::Node(Kind kind, Place place, std::vector<ExpressionPtr> operands,
                                     std::string name) {
  auto node = std::make_unique<Expression>();
  node->kind = kind;
  node->place = place;
  node->name = std::move(name);
  node->operands = std::move(operands);
  MeasureDepth(node.get());
  return node;
}

void ExpressionParser::MeasureDepth(Expression* node) const {
  for (const auto& operand : node->operands) {
    if (operand) node->depth = std::max(node->depth, operand->depth + 1);
  }
  for (const auto& [name, operand] : node->named) {
    node->depth = std::max(node->depth, operand->depth + 1);
  }
  for (const ExpressionPtr* operand : {&node->sequence_argument, &node->mapping_argument}) {
    if (*operand) node->depth = std::max(node->depth, (*operand)->depth + 1);
  }
  if (node->depth > kMaxNesting) throw UnsupportedAt(node->place, "an expression this deep");
}

ExpressionPtr ExpressionParser::Constant(Place place, Value value) {
  ExpressionPtr node = Node(Kind::kConstant, place);
  node->constant = std::move(value);
  return node;
}

// One expression, or several with commas, which make a tuple.
ExpressionPtr ExpressionParser::ParseTuple(bool with_condition) {
  const Place place = Now().place;
  const auto parse = [&] { return with_condition ? ParseExpression() : ParseOr(); };
  ExpressionPtr first = parse();
  if (!IsOperator(",")) return first;
  std::vector<ExpressionPtr> items = Operands(std::move(first));
  while (SkipOperator(",")) {
    if (AtTupleEnd()) break;
    items.push_back(parse());
  }
  return Node(Kind::kTuple, place, std::move(items));
}

bool ExpressionParser::AtTupleEnd() const {
  return Now().kind == Token::Kind::kPrintEnd || Now().kind == Token::Kind::kBlockEnd ||
         IsOperator(")") || IsName("in") || IsName("if") || IsName("recursive");
}

ExpressionPtr ExpressionParser::ParseExpression() {
  const Level level(*this);
  const Place place = Now().place;
  ExpressionPtr value = ParseOr();
  while (SkipName("if")) {
    ExpressionPtr condition = ParseOr();
    ExpressionPtr other = SkipName("else") ? ParseExpression() : nullptr;
    value = Node(Kind::kConditional, place,
                 Operands(std::move(condition), std::move(value), std::move(other)));
  }
  return value;
}

ExpressionPtr ExpressionParser::ParseOr() {
  ExpressionPtr left = ParseAnd();
  while (IsName("or")) {
    const Place place = Take().place;
    left = Node(Kind::kOr, place, Operands(std::move(left), ParseAnd()));
  }
  return left;
}

ExpressionPtr ExpressionParser::ParseAnd() {
  ExpressionPtr left = ParseNot();
  while (IsName("and")) {
    const Place place = Take().place;
    left = Node(Kind::kAnd, place, Operands(std::move(left), ParseNot()));
  }
  return left;
}

ExpressionPtr ExpressionParser::ParseNot() {
  if (!IsName("not")) return ParseCompare();
  const Level level(*this);
  const Place place = Take().place;
  return Node(Kind::kNot, place, Operands(ParseNot()));
}

std::optional<Operator> ExpressionParser::TakeComparison() {
  static constexpr std::array<std::pair<std::string_view, Operator>, 6> kComparisons = {
      {{"==", Operator::kEqual},
       {"!=", Operator::kNotEqual},
       {"<", Operator::kLess},
       {"<=", Operator::kLessEqual},
       {">", Operator::kGreater},
       {">=", Operator::kGreaterEqual}}};
  for (const auto& [text, op] : kComparisons) {
    if (SkipOperator(text)) return op;
  }
  if (SkipName("in")) return Operator::kIn;
  if (IsName("not") && Ahead().kind == Token::Kind::kName && Ahead().text == "in") {
    Take();
    Take();
    return Operator::kNotIn;
  }
  return std::nullopt;
}

ExpressionPtr ExpressionParser::ParseCompare() {
  const Place place = Now().place;
  ExpressionPtr first = ParseSum();
  std::vector<Operator> operators;
  std::vector<ExpressionPtr> operands = Operands(std::move(first));
  while (const auto op = TakeComparison()) {
    operators.push_back(*op);
    operands.push_back(ParseSum());
  }
  if (operators.empty()) return std::move(operands.front());
  ExpressionPtr node = Node(Kind::kCompare, place, std::move(operands));
  node->operators = std::move(operators);
  return node;
}

template <class Parse>
ExpressionPtr ExpressionParser::ParseLeftToRight(
    std::initializer_list<std::pair<std::string_view, Operator>> operators, Parse parse) {
  ExpressionPtr left = parse();
  while (Now().kind == Token::Kind::kOperator) {
    const auto found = std::ranges::find_if(
        operators, [this](const auto& candidate) { return candidate.first == Now().text; });
    if (found == operators.end()) break;
    const Place place = Take().place;
    left = Node(Kind::kArithmetic, place, Operands(std::move(left), parse()));
    left->operators = {found->second};
  }
  return left;
}

ExpressionPtr ExpressionParser::ParseSum() {
  return ParseLeftToRight({{"+", Operator::kAdd}, {"-", Operator::kSubtract}},
                          [this] { return ParseConcatenation(); });
}

ExpressionPtr ExpressionParser::ParseConcatenation() {
  const Place place = Now().place;
  std::vector<ExpressionPtr> parts = Operands(ParseProduct());
  while (SkipOperator("~")) parts.push_back(ParseProduct());
  if (parts.size() == 1) return std::move(parts.front());
  return Node(Kind::kConcatenate, place, std::move(parts));
}

ExpressionPtr ExpressionParser::ParseProduct() {
  return ParseLeftToRight({{"*", Operator::kMultiply},
                           {"/", Operator::kDivide},
                           {"//", Operator::kFloorDivide},
                           {"%", Operator::kModulo}},
                          [this] { return ParsePower(); });
}

ExpressionPtr ExpressionParser::ParsePower() {
  return ParseLeftToRight({{"**", Operator::kPower}},
                          [this] { return ParseUnary(/*with_filters=*/true); });
}

ExpressionPtr ExpressionParser::ParseUnary(bool with_filters) {
  const Level level(*this);
  const Place place = Now().place;
  ExpressionPtr node;
  if (SkipOperator("-")) {
    node = Node(Kind::kNegate, place, Operands(ParseUnary(false)));
  } else if (SkipOperator("+")) {
    node = Node(Kind::kPlus, place, Operands(ParseUnary(false)));
  } else {
    node = ParsePostfix(ParsePrimary());
  }
  return with_filters ? ParseFiltersAndTests(std::move(node)) : std::move(node);
}

ExpressionPtr ExpressionParser::ParsePrimary() {
  const Place place = Now().place;
  switch (Now().kind) {
    case Token::Kind::kName:
      return ParseName();
    case Token::Kind::kString: {
      std::string text;
      while (Now().kind == Token::Kind::kString) text += Take().text;
      return Constant(place, Value::String(std::move(text)));
    }
    case Token::Kind::kInteger:
    case Token::Kind::kFloat:
      return Constant(place, ParseNumber());
    default:
      break;
  }
  if (IsOperator("(")) return ParseBracketed();
  if (IsOperator("[")) return ParseList();
  if (IsOperator("{")) return ParseDict();
  throw Expected("an expression");
}

ExpressionPtr ExpressionParser::ParseName() {
  const Token token = Take();
  const std::string& name = token.text;
  if (name == "true" || name == "True") return Constant(token.place, Value::Bool(true));
  if (name == "false" || name == "False") return Constant(token.place, Value::Bool(false));
  if (name == "none" || name == "None") return Constant(token.place, Value());
  for (MacroStatement* macro : open_macros_) {
    macro->uses_varargs |= name == "varargs";
    macro->uses_kwargs |= name == "kwargs";
    macro->uses_caller |= name == "caller";
  }
  return Node(Kind::kName, token.place, {}, name);
}

Value ExpressionParser::ParseNumber() {
  std::string_view text = Now().text;
  if (Now().kind == Token::Kind::kInteger) {
    int base = 10;
    if (text.size() > 2 && text[0] == '0') {
      const char letter = static_cast<char>(text[1] | 0x20);
      base = letter == 'x' ? 16 : letter == 'o' ? 8 : letter == 'b' ? 2 : 10;
      if (base != 10) text.remove_prefix(2);
    }
    int64_t integer = 0;
    if (std::from_chars(text.data(), text.data() + text.size(), integer, base).ec != std::errc()) {
      throw Unsupported("an integer over 64 bits");
    }
    Take();
    return Value::Int(integer);
  }
  double number = 0;
  if (std::from_chars(text.data(), text.data() + text.size(), number).ec != std::errc()) {
    throw Unsupported("a number of this size");
  }
  Take();
  return Value::Float(number);
}

ExpressionPtr ExpressionParser::ParseBracketed() {
  const Place place = Take().place;
  if (SkipOperator(")")) return Node(Kind::kTuple, place);
  ExpressionPtr inner = ParseTuple();
  ExpectOperator(")");
  return inner;
}

ExpressionPtr ExpressionParser::ParseList() {
  const Place place = Take().place;
  std::vector<ExpressionPtr> items;
  while (!IsOperator("]")) {
    if (!items.empty()) ExpectOperator(",");
    if (IsOperator("]")) break;
    items.push_back(ParseExpression());
  }
  Take();
  return Node(Kind::kList, place, std::move(items));
}

ExpressionPtr ExpressionParser::ParseDict() {
  const Place place = Take().place;
  std::vector<ExpressionPtr> items;
  while (!IsOperator("}")) {
    if (!items.empty()) ExpectOperator(",");
    if (IsOperator("}")) break;
    items.push_back(ParseExpression());
    ExpectOperator(":");
    items.push_back(ParseExpression());
  }
  Take();
  return Node(Kind::kDict, place, std::move(items));
}

ExpressionPtr ExpressionParser::ParsePostfix(ExpressionPtr node) {
  while (true) {
    const Place place = Now().place;
    if (SkipOperator(".")) {
      if (Now().kind == Token::Kind::kInteger) {
        node = Node(Kind::kItem, place, Operands(std::move(node), Constant(place, ParseNumber())));
      } else {
        node = Node(Kind::kAttribute, place, Operands(std::move(node)), ExpectName());
      }
    } else if (IsOperator("[")) {
      node = ParseSubscript(std::move(node));
    } else if (IsOperator("(")) {
      node = ParseCall(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::ParseSubscript(ExpressionPtr node) {
  const Place place = Take().place;
  node = ParseSubscripted(std::move(node));
  if (!IsOperator(",")) {
    ExpectOperator("]");
    return node;
  }
  if (node->kind == Kind::kSlice) throw Unsupported("a slice among several indices");
  std::vector<ExpressionPtr> parts = Operands(std::move(node->operands[1]));
  while (SkipOperator(",")) {
    if (IsOperator(":")) throw Unsupported("a slice among several indices");
    parts.push_back(ParseExpression());
  }
  ExpectOperator("]");
  return Node(Kind::kItem, place,
              Operands(std::move(node->operands[0]), Node(Kind::kTuple, place, std::move(parts))));
}

// One index or slice of `node`.
ExpressionPtr ExpressionParser::ParseSubscripted(ExpressionPtr node) {
  const Place place = Now().place;
  std::array<ExpressionPtr, 3> parts;
  size_t colons = 0;
  while (!IsOperator("]") && !IsOperator(",")) {
    if (SkipOperator(":")) {
      if (++colons > 2) throw Broken("a slice of over three parts");
    } else if (parts[colons]) {
      throw Expected("']'");
    } else {
      parts[colons] = ParseExpression();
    }
  }
  if (colons == 0) {
    if (!parts[0]) throw Expected("an index");
    return Node(Kind::kItem, place, Operands(std::move(node), std::move(parts[0])));
  }
  return Node(
      Kind::kSlice, place,
      Operands(std::move(node), std::move(parts[0]), std::move(parts[1]), std::move(parts[2])));
}

// Parses "( ... )" into operands, named arguments, *sequence and **mapping.
void ExpressionParser::ParseArguments(Expression* node) {
  ExpectOperator("(");
  bool first = true;
  while (!IsOperator(")")) {
    if (!std::exchange(first, false)) {
      ExpectOperator(",");
      if (IsOperator(")")) break;
    }
    ParseArgument(node);
  }
  Take();
  MeasureDepth(node);
}

void ExpressionParser::ParseArgument(Expression* node) {
  const auto require = [this](bool ordered) {
    if (!ordered) throw Broken("an argument out of order");
  };
  const bool has_mapping = node->mapping_argument != nullptr;
  if (SkipOperator("*")) {
    require(!node->sequence_argument && !has_mapping);
    node->sequence_argument = ParseExpression();
  } else if (SkipOperator("**")) {
    require(!has_mapping);
    node->mapping_argument = ParseExpression();
  } else if (Now().kind == Token::Kind::kName && Ahead().kind == Token::Kind::kOperator &&
             Ahead().text == "=") {
    require(!has_mapping);
    std::string name = Take().text;
    Take();
    for (const auto& [other, value] : node->named) {
      if (other == name) throw Broken("the argument " + name + " is given twice");
    }
    node->named.emplace_back(std::move(name), ParseExpression());
  } else {
    require(!node->sequence_argument && !has_mapping && node->named.empty());
    node->operands.push_back(ParseExpression());
  }
}

ExpressionPtr ExpressionParser::ParseCall(ExpressionPtr callee) {
  if (callee->kind == Kind::kAttribute && IsUnsupportedMethod(callee->name)) {
    throw UnsupportedAt(callee->place, "the method " + callee->name + "()");
  }
  const bool is_global =
      callee->kind == Kind::kName &&
      (callee->name == "lipsum" || callee->name == "cycler" || callee->name == "joiner");
  if (is_global) throw UnsupportedAt(callee->place, callee->name + "()");
  ExpressionPtr node = Node(Kind::kCall, Now().place, Operands(std::move(callee)));
  ParseArguments(node.get());
  return node;
}

ExpressionPtr ExpressionParser::ParseFiltersAndTests(ExpressionPtr node) {
  while (true) {
    if (SkipOperator("|")) {
      node = ParseFilter(std::move(node));
    } else if (IsName("is")) {
      node = ParseTest(std::move(node));
    } else if (IsOperator("(")) {
      node = ParseCall(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr ExpressionParser::ParseFilter(ExpressionPtr input) {
  const Place place = Now().place;
  std::string name = ExpectName();
  while (SkipOperator(".")) name += "." + ExpectName();
  if (!IsFilterName(name)) throw UnsupportedAt(place, "the filter " + name);
  ExpressionPtr node = Node(Kind::kFilter, place, Operands(std::move(input)), name);
  if (IsOperator("(")) ParseArguments(node.get());
  return node;
}

ExpressionPtr ExpressionParser::ParseFilterChain(ExpressionPtr input) {
  do {
    input = ParseFilter(std::move(input));
  } while (SkipOperator("|"));
  return input;
}

bool ExpressionParser::AtTestArgument() const {
  switch (Now().kind) {
    case Token::Kind::kName:
      return !IsName("else") && !IsName("or") && !IsName("and");
    case Token::Kind::kString:
    case Token::Kind::kInteger:
    case Token::Kind::kFloat:
      return true;
    default:
      return IsOperator("[") || IsOperator("{");
  }
}

ExpressionPtr ExpressionParser::ParseTest(ExpressionPtr input) {
  Take();
  const bool negated = SkipName("not");
  const Place place = Now().place;
  std::string name = ExpectName();
  while (SkipOperator(".")) name += "." + ExpectName();
  if (!IsTestName(name)) throw UnsupportedAt(place, "the test " + name);
  ExpressionPtr node = Node(Kind::kTest, place, Operands(std::move(input)), name);
  if (IsOperator("(")) {
    ParseArguments(node.get());
  } else if (AtTestArgument()) {
    if (IsName("is")) throw Broken("tests in a chain");
    node->operands.push_back(ParsePostfix(ParsePrimary()));
    MeasureDepth(node.get());
  }
  return negated ? Node(Kind::kNot, place, Operands(std::move(node))) : std::move(node);
}

}  // namespace sluice::jinja
