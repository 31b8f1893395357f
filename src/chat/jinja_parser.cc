#include "chat/jinja_parser.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "chat/jinja_filters.h"
#include "chat/jinja_lexer.h"
#include "chat/jinja_methods.h"

namespace sluice::jinja {
namespace {

// Levels of expressions, and of blocks and brackets. Evaluation recurses as deep as this.
constexpr int kMaxNesting = 100;

using Kind = Expression::Kind;

class Parser {
 public:
  explicit Parser(std::string_view source) : tokens_(Lex(source)) {}

  Body Run() {
    Body body = ParseBody({});
    if (Now().kind != Token::Kind::kEnd) throw Broken("unexpected " + Now().text);
    return body;
  }

 private:
  // Counts the parser's own recursion.
  class Level {
   public:
    explicit Level(Parser& parser) : parser_(parser) {
      if (++parser_.nesting_ > kMaxNesting) throw parser_.Unsupported("nesting this deep");
    }
    ~Level() { --parser_.nesting_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    Parser& parser_;
  };

  // --- tokens ---

  const Token& Now() const { return tokens_[next_]; }
  const Token& Ahead() const { return tokens_[std::min(next_ + 1, tokens_.size() - 1)]; }
  bool Is(Token::Kind kind, std::string_view text) const {
    return Now().kind == kind && Now().text == text;
  }
  bool IsName(std::string_view name) const { return Is(Token::Kind::kName, name); }
  bool IsOperator(std::string_view text) const { return Is(Token::Kind::kOperator, text); }
  Token Take() {
    Token token = Now();
    if (next_ + 1 < tokens_.size()) ++next_;
    return token;
  }
  bool SkipName(std::string_view name) { return IsName(name) && (Take(), true); }
  bool SkipOperator(std::string_view text) { return IsOperator(text) && (Take(), true); }
  void ExpectOperator(std::string_view text) {
    if (!SkipOperator(text)) throw Expected("'" + std::string(text) + "'");
  }
  void ExpectKeyword(std::string_view name) {
    if (!SkipName(name)) throw Expected("'" + std::string(name) + "'");
  }
  std::string ExpectName() {
    if (Now().kind != Token::Kind::kName) throw Expected("a name");
    return Take().text;
  }
  void ExpectBlockEnd() {
    if (Now().kind != Token::Kind::kBlockEnd) throw Expected("the end of the block");
    Take();
  }

  Error Broken(const std::string& message) const {
    return ErrorAt(ErrorCode::kDataLoss, Now().place, message);
  }
  Error Unsupported(const std::string& what) const { return UnsupportedAt(Now().place, what); }
  static Error UnsupportedAt(Place place, const std::string& what) {
    return ErrorAt(ErrorCode::kUnsupported, place, what + " is not supported");
  }
  Error Expected(const std::string& what) const {
    const std::string got = Now().kind == Token::Kind::kEnd ? "the end of the template"
                            : Now().text.empty()            ? "the end of the tag"
                                                            : "'" + Now().text + "'";
    return Broken("expected " + what + ", got " + got);
  }

  // --- statements ---

  bool AtAnyBlock(const std::vector<std::string_view>& names) const {
    return Now().kind == Token::Kind::kBlockBegin && Ahead().kind == Token::Kind::kName &&
           std::ranges::find(names, Ahead().text) != names.end();
  }

  // Parses up to a block with one of the names, which is left to the caller, or to the end.
  Body ParseBody(const std::vector<std::string_view>& ends) {
    const Level level(*this);
    Body body;
    while (Now().kind != Token::Kind::kEnd && !AtAnyBlock(ends)) {
      switch (Now().kind) {
        case Token::Kind::kText: {
          Statement& text = Append(&body, Statement::Kind::kText);
          text.text = Take().text;
          break;
        }
        case Token::Kind::kPrintBegin: {
          Statement& print = Append(&body, Statement::Kind::kPrint);
          Take();
          print.expression = ParseTuple();
          if (Now().kind != Token::Kind::kPrintEnd) throw Expected("the end of the print");
          Take();
          break;
        }
        default:
          ParseBlock(&body);
      }
    }
    return body;
  }

  Statement& Append(Body* body, Statement::Kind kind) {
    Statement& statement = body->emplace_back();
    statement.kind = kind;
    statement.place = Now().place;
    return statement;
  }

  // Leaves "{% end" behind, and with `close` also the end of that block.
  Body ParseBodyUntil(std::string_view end) {
    Body body = ParseBody({end});
    if (!AtAnyBlock({end})) throw Expected("{% " + std::string(end) + " %}");
    Take();
    Take();
    ExpectBlockEnd();
    return body;
  }

  void ParseBlock(Body* body) {
    const Place place = Now().place;
    Take();
    const std::string name = ExpectName();
    if (name == "if") return ParseIf(body);
    if (name == "for") return ParseFor(body);
    if (name == "set") return ParseSet(body);
    if (name == "macro") return ParseMacro(body);
    if (name == "break" || name == "continue") {
      if (loops_ == 0) throw ErrorAt(ErrorCode::kDataLoss, place, name + " outside a loop");
      Append(body, name == "break" ? Statement::Kind::kBreak : Statement::Kind::kContinue);
      return ExpectBlockEnd();
    }
    if (name == "generation") {
      // Marks the assistant's text for training; the text is rendered as it stands.
      ExpectBlockEnd();
      Statement& block = Append(body, Statement::Kind::kBlock);
      block.body = ParseBodyUntil("endgeneration");
      return;
    }
    static constexpr std::array<std::string_view, 11> kKnown = {
        "include", "import", "from",       "extends", "block", "filter",
        "call",    "with",   "autoescape", "raw",     "do"};
    if (std::ranges::find(kKnown, name) != kKnown.end()) {
      throw UnsupportedAt(place, "{% " + name + " %}");
    }
    throw ErrorAt(ErrorCode::kDataLoss, place, "unexpected block {% " + name + " %}");
  }

  void ParseIf(Body* body) {
    Statement& statement = Append(body, Statement::Kind::kIf);
    bool has_else = false;
    while (true) {
      Statement::Branch branch;
      if (!has_else) branch.condition = ParseTuple(/*with_condition=*/false);
      ExpectBlockEnd();
      branch.body = has_else ? ParseBody({"endif"}) : ParseBody({"elif", "else", "endif"});
      statement.branches.push_back(std::move(branch));
      if (Now().kind != Token::Kind::kBlockBegin) throw Expected("{% endif %}");
      Take();
      const std::string name = ExpectName();
      if (name == "endif") return ExpectBlockEnd();
      has_else = name == "else";
    }
  }

  void ParseFor(Body* body) {
    Statement& statement = Append(body, Statement::Kind::kFor);
    statement.target = ParseTarget(/*with_namespace=*/false);
    ExpectKeyword("in");
    statement.expression = ParseTuple(/*with_condition=*/false);
    if (SkipName("if")) statement.condition = ParseExpression();
    if (IsName("recursive")) throw Unsupported("a recursive loop");
    ExpectBlockEnd();
    ++loops_;
    statement.body = ParseBody({"else", "endfor"});
    --loops_;
    if (AtAnyBlock({"else"})) {
      Take();
      Take();
      ExpectBlockEnd();
      statement.else_body = ParseBody({"endfor"});
    }
    if (Now().kind != Token::Kind::kBlockBegin) throw Expected("{% endfor %}");
    Take();
    Take();
    ExpectBlockEnd();
  }

  void ParseSet(Body* body) {
    Statement& statement = Append(body, Statement::Kind::kSet);
    statement.target = ParseTarget(/*with_namespace=*/true);
    if (SkipOperator("=")) {
      statement.expression = ParseTuple();
      return ExpectBlockEnd();
    }
    if (IsOperator("|")) throw Unsupported("a filter on a block set");
    ExpectBlockEnd();
    statement.kind = Statement::Kind::kSetBlock;
    statement.body = ParseBodyUntil("endset");
  }

  void ParseMacro(Body* body) {
    Statement& statement = Append(body, Statement::Kind::kMacro);
    statement.macro = std::make_unique<MacroStatement>();
    MacroStatement& macro = *statement.macro;
    macro.name = ExpectName();
    ExpectOperator("(");
    while (!IsOperator(")")) {
      if (!macro.parameters.empty()) ExpectOperator(",");
      macro.parameters.push_back(ExpectName());
      if (SkipOperator("=")) {
        macro.defaults.push_back(ParseExpression());
      } else if (!macro.defaults.empty()) {
        throw Broken("a parameter without a default behind one with a default");
      }
    }
    Take();
    ExpectBlockEnd();
    const int loops = std::exchange(loops_, 0);
    macro.body = ParseBodyUntil("endmacro");
    loops_ = loops;
  }

  Target ParseTarget(bool with_namespace) {
    Target target;
    const bool bracketed = SkipOperator("(");
    while (true) {
      if (IsOperator("(")) throw Unsupported("a tuple within the names assigned to");
      target.names.push_back(ExpectName());
      if (with_namespace && !bracketed && SkipOperator(".")) {
        target.attribute = ExpectName();
        if (IsOperator(",") || target.names.size() > 1) {
          throw Unsupported("an attribute among several names");
        }
        return target;
      }
      if (!SkipOperator(",")) break;
      target.unpacks = true;
      if (Now().kind != Token::Kind::kName || IsName("in")) break;
    }
    if (bracketed) ExpectOperator(")");
    return target;
  }

  // --- expressions ---

  ExpressionPtr Node(Kind kind, Place place, std::vector<ExpressionPtr> operands = {},
                     std::string name = {}) {
    auto node = std::make_unique<Expression>();
    node->kind = kind;
    node->place = place;
    node->name = std::move(name);
    node->operands = std::move(operands);
    MeasureDepth(node.get());
    return node;
  }

  void MeasureDepth(Expression* node) {
    for (const auto& operand : node->operands) {
      if (operand) node->depth = std::max(node->depth, operand->depth + 1);
    }
    for (const auto& [name, operand] : node->named) {
      node->depth = std::max(node->depth, operand->depth + 1);
    }
    if (node->depth > kMaxNesting) throw UnsupportedAt(node->place, "an expression this deep");
  }

  template <class... Parts>
  static std::vector<ExpressionPtr> Operands(Parts... parts) {
    std::vector<ExpressionPtr> operands;
    (operands.push_back(std::move(parts)), ...);
    return operands;
  }

  ExpressionPtr Constant(Place place, Value value) {
    ExpressionPtr node = Node(Kind::kConstant, place);
    node->constant = std::move(value);
    return node;
  }

  // One expression, or several with commas, which make a tuple.
  ExpressionPtr ParseTuple(bool with_condition = true) {
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

  bool AtTupleEnd() const {
    return Now().kind == Token::Kind::kPrintEnd || Now().kind == Token::Kind::kBlockEnd ||
           IsOperator(")") || IsName("in") || IsName("if");
  }

  ExpressionPtr ParseExpression() {
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

  ExpressionPtr ParseOr() {
    ExpressionPtr left = ParseAnd();
    while (IsName("or")) {
      const Place place = Take().place;
      left = Node(Kind::kOr, place, Operands(std::move(left), ParseAnd()));
    }
    return left;
  }

  ExpressionPtr ParseAnd() {
    ExpressionPtr left = ParseNot();
    while (IsName("and")) {
      const Place place = Take().place;
      left = Node(Kind::kAnd, place, Operands(std::move(left), ParseNot()));
    }
    return left;
  }

  ExpressionPtr ParseNot() {
    if (!IsName("not")) return ParseCompare();
    const Level level(*this);
    const Place place = Take().place;
    return Node(Kind::kNot, place, Operands(ParseNot()));
  }

  std::optional<Operator> TakeComparison() {
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

  ExpressionPtr ParseCompare() {
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
  ExpressionPtr ParseLeftToRight(
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

  ExpressionPtr ParseSum() {
    return ParseLeftToRight({{"+", Operator::kAdd}, {"-", Operator::kSubtract}},
                            [this] { return ParseConcatenation(); });
  }

  ExpressionPtr ParseConcatenation() {
    const Place place = Now().place;
    std::vector<ExpressionPtr> parts = Operands(ParseProduct());
    while (SkipOperator("~")) parts.push_back(ParseProduct());
    if (parts.size() == 1) return std::move(parts.front());
    return Node(Kind::kConcatenate, place, std::move(parts));
  }

  ExpressionPtr ParseProduct() {
    return ParseLeftToRight({{"*", Operator::kMultiply},
                             {"/", Operator::kDivide},
                             {"//", Operator::kFloorDivide},
                             {"%", Operator::kModulo}},
                            [this] { return ParsePower(); });
  }

  ExpressionPtr ParsePower() {
    return ParseLeftToRight({{"**", Operator::kPower}},
                            [this] { return ParseUnary(/*with_filters=*/true); });
  }

  ExpressionPtr ParseUnary(bool with_filters) {
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

  ExpressionPtr ParsePrimary() {
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

  ExpressionPtr ParseName() {
    const Token token = Take();
    const std::string& name = token.text;
    if (name == "true" || name == "True") return Constant(token.place, Value::Bool(true));
    if (name == "false" || name == "False") return Constant(token.place, Value::Bool(false));
    if (name == "none" || name == "None") return Constant(token.place, Value());
    return Node(Kind::kName, token.place, {}, name);
  }

  Value ParseNumber() {
    const std::string& text = Now().text;
    const char* end = text.data() + text.size();
    if (Now().kind == Token::Kind::kInteger) {
      int64_t integer = 0;
      if (std::from_chars(text.data(), end, integer).ec != std::errc()) {
        throw Unsupported("an integer over 64 bits");
      }
      Take();
      return Value::Int(integer);
    }
    double number = 0;
    if (std::from_chars(text.data(), end, number).ec != std::errc()) {
      throw Unsupported("a number of this size");
    }
    Take();
    return Value::Float(number);
  }

  ExpressionPtr ParseBracketed() {
    const Place place = Take().place;
    if (SkipOperator(")")) return Node(Kind::kTuple, place);
    ExpressionPtr inner = ParseTuple();
    ExpectOperator(")");
    return inner;
  }

  ExpressionPtr ParseList() {
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

  ExpressionPtr ParseDict() {
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

  ExpressionPtr ParsePostfix(ExpressionPtr node) {
    while (true) {
      const Place place = Now().place;
      if (SkipOperator(".")) {
        if (Now().kind == Token::Kind::kInteger) {
          node =
              Node(Kind::kItem, place, Operands(std::move(node), Constant(place, ParseNumber())));
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

  ExpressionPtr ParseSubscript(ExpressionPtr node) {
    const Place place = Take().place;
    std::array<ExpressionPtr, 3> parts;
    size_t colons = 0;
    while (!IsOperator("]")) {
      if (SkipOperator(":")) {
        if (++colons > 2) throw Broken("a slice of over three parts");
      } else if (parts[colons]) {
        if (IsOperator(",")) throw Unsupported("an index of several parts");
        throw Expected("']'");
      } else {
        parts[colons] = ParseExpression();
      }
    }
    Take();
    if (colons == 0) {
      if (!parts[0]) throw Broken("an index without a value");
      return Node(Kind::kItem, place, Operands(std::move(node), std::move(parts[0])));
    }
    return Node(
        Kind::kSlice, place,
        Operands(std::move(node), std::move(parts[0]), std::move(parts[1]), std::move(parts[2])));
  }

  // Parses "( ... )" into operands and named arguments.
  void ParseArguments(Expression* node) {
    ExpectOperator("(");
    while (!IsOperator(")")) {
      if (IsOperator("*") || IsOperator("**")) throw Unsupported("unpacking arguments");
      if (Now().kind == Token::Kind::kName && Ahead().kind == Token::Kind::kOperator &&
          Ahead().text == "=") {
        std::string name = Take().text;
        Take();
        node->named.emplace_back(std::move(name), ParseExpression());
      } else {
        if (!node->named.empty()) throw Broken("a positional argument behind a named one");
        node->operands.push_back(ParseExpression());
      }
      if (!IsOperator(")")) ExpectOperator(",");
    }
    Take();
    MeasureDepth(node);
  }

  ExpressionPtr ParseCall(ExpressionPtr callee) {
    if (callee->kind == Kind::kAttribute && !IsMethodName(callee->name)) {
      throw UnsupportedAt(callee->place, "the method " + callee->name + "()");
    }
    ExpressionPtr node = Node(Kind::kCall, Now().place, Operands(std::move(callee)));
    ParseArguments(node.get());
    return node;
  }

  ExpressionPtr ParseFiltersAndTests(ExpressionPtr node) {
    while (true) {
      if (IsOperator("|")) {
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

  ExpressionPtr ParseFilter(ExpressionPtr input) {
    const Place place = Take().place;
    const std::string name = ExpectName();
    if (!IsFilterName(name)) throw UnsupportedAt(place, "the filter " + name);
    ExpressionPtr node = Node(Kind::kFilter, place, Operands(std::move(input)), name);
    if (IsOperator("(")) ParseArguments(node.get());
    return node;
  }

  ExpressionPtr ParseTest(ExpressionPtr input) {
    const Place place = Take().place;
    const bool negated = SkipName("not");
    const std::string name = ExpectName();
    if (!IsTestName(name)) throw UnsupportedAt(place, "the test " + name);
    ExpressionPtr node = Node(Kind::kTest, place, Operands(std::move(input)), name);
    if (IsOperator("(")) {
      ParseArguments(node.get());
      if (!node->named.empty()) throw UnsupportedAt(place, "a named argument of a test");
    } else if (TestTakesArgument(name)) {
      node->operands.push_back(ParsePostfix(ParsePrimary()));
      MeasureDepth(node.get());
    }
    return negated ? Node(Kind::kNot, place, Operands(std::move(node))) : std::move(node);
  }

  std::vector<Token> tokens_;
  size_t next_ = 0;
  int nesting_ = 0;
  int loops_ = 0;
};

}  // namespace

Body Parse(std::string_view source) {
  return Parser(source).Run();
}

}  // namespace sluice::jinja
