#include "chat/jinja_parser.h"

#include <algorithm>
#include <array>

#include "chat/jinja_expression_parser.h"

namespace sluice::jinja {
namespace {

// The statements of Jinja's grammar.
class Parser : private ExpressionParser {
 public:
  using ExpressionParser::ExpressionParser;

  Body Run() {
    Body body = ParseBody({});
    if (Now().kind != Token::Kind::kEnd) throw Broken("unexpected " + Now().text);
    return body;
  }

 private:
  void ExpectBlockEnd() {
    if (Now().kind != Token::Kind::kBlockEnd) throw Expected("the end of the block");
    Take();
  }

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
    using Parse = void (Parser::*)(Body*);
    static constexpr std::array<std::pair<std::string_view, Parse>, 10> kBlocks = {{
        {"if", &Parser::ParseIf},
        {"for", &Parser::ParseFor},
        {"set", &Parser::ParseSet},
        {"macro", &Parser::ParseMacro},
        {"call", &Parser::ParseCallBlock},
        {"filter", &Parser::ParseFilterBlock},
        {"with", &Parser::ParseWith},
        {"generation", &Parser::ParseGeneration},
        {"break", &Parser::ParseBreak},
        {"continue", &Parser::ParseContinue},
    }};
    static constexpr std::array<std::string_view, 6> kUnsupported = {
        "include", "import", "from", "extends", "block", "autoescape"};
    Take();
    const Token token = Now();
    const std::string name = ExpectName();
    if (std::ranges::find(kUnsupported, name) != kUnsupported.end()) {
      throw UnsupportedAt(token.place, "{% " + name + " %}");
    }
    const auto found =
        std::ranges::find(kBlocks, name, [](const auto& block) { return block.first; });
    if (found == kBlocks.end()) {
      throw ErrorAt(ErrorCode::kDataLoss, token.place, "unexpected block {% " + name + " %}");
    }
    (this->*found->second)(body);
  }

  void ParseBreak(Body* body) { ParseJump(body, Statement::Kind::kBreak); }
  void ParseContinue(Body* body) { ParseJump(body, Statement::Kind::kContinue); }
  void ParseJump(Body* body, Statement::Kind kind) {
    if (loops_ == 0) throw Broken("break or continue outside a loop");
    Append(body, kind);
    ExpectBlockEnd();
  }

  // Marks the assistant's text for training; the text is rendered as it stands.
  void ParseGeneration(Body* body) {
    ExpectBlockEnd();
    Statement& block = Append(body, Statement::Kind::kBlock);
    const int loops = std::exchange(loops_, 0);
    block.body = ParseBodyUntil("endgeneration");
    loops_ = loops;
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
    statement.recursive = SkipName("recursive");
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

  ExpressionPtr Captured() { return Node(Expression::Kind::kCaptured, Now().place); }

  void ParseSet(Body* body) {
    Statement& statement = Append(body, Statement::Kind::kSet);
    statement.target = ParseTarget(/*with_namespace=*/true);
    if (SkipOperator("=")) {
      statement.expression = ParseTuple();
      return ExpectBlockEnd();
    }
    if (SkipOperator("|")) statement.expression = ParseFilterChain(Captured());
    ExpectBlockEnd();
    statement.kind = Statement::Kind::kSetBlock;
    statement.body = ParseBodyUntil("endset");
  }

  void ParseFilterBlock(Body* body) {
    Statement& statement = Append(body, Statement::Kind::kFilter);
    statement.expression = ParseFilterChain(Captured());
    ExpectBlockEnd();
    statement.body = ParseBodyUntil("endfilter");
  }

  void ParseWith(Body* body) {
    Statement& statement = Append(body, Statement::Kind::kWith);
    while (Now().kind != Token::Kind::kBlockEnd) {
      if (!statement.assignments.empty()) ExpectOperator(",");
      Target target = ParseTarget(/*with_namespace=*/false);
      ExpectOperator("=");
      statement.assignments.emplace_back(std::move(target), ParseExpression());
    }
    ExpectBlockEnd();
    statement.body = ParseBodyUntil("endwith");
  }

  void ParseMacro(Body* body) {
    Statement& statement = Append(body, Statement::Kind::kMacro);
    statement.macro = std::make_unique<MacroStatement>();
    statement.macro->name = ExpectNewName();
    open_macros_.push_back(statement.macro.get());
    ParseSignature(statement.macro.get());
    ParseMacroBody(statement.macro.get(), "endmacro");
  }

  void ParseCallBlock(Body* body) {
    Statement& statement = Append(body, Statement::Kind::kCall);
    statement.macro = std::make_unique<MacroStatement>();
    statement.macro->name = "caller";
    open_macros_.push_back(statement.macro.get());
    if (IsOperator("(")) ParseSignature(statement.macro.get());
    // The call itself stands outside the body.
    open_macros_.pop_back();
    statement.expression = ParseExpression();
    if (statement.expression->kind != Expression::Kind::kCall) throw Expected("a call");
    open_macros_.push_back(statement.macro.get());
    ParseMacroBody(statement.macro.get(), "endcall");
  }

  void ParseSignature(MacroStatement* macro) {
    ExpectOperator("(");
    while (!IsOperator(")")) {
      if (!macro->parameters.empty()) ExpectOperator(",");
      macro->parameters.push_back(ExpectNewName());
      if (SkipOperator("=")) {
        macro->defaults.push_back(ParseExpression());
      } else if (!macro->defaults.empty()) {
        throw Broken("a parameter without a default behind one with a default");
      }
    }
    Take();
  }

  void ParseMacroBody(MacroStatement* macro, std::string_view end) {
    ExpectBlockEnd();
    const int loops = std::exchange(loops_, 0);
    macro->body = ParseBodyUntil(end);
    loops_ = loops;
    open_macros_.pop_back();
    // A parameter of the name hides it.
    const auto is_parameter = [&](std::string_view name) {
      return std::ranges::find(macro->parameters, name) != macro->parameters.end();
    };
    macro->uses_varargs &= !is_parameter("varargs");
    macro->uses_kwargs &= !is_parameter("kwargs");
    macro->uses_caller &= !is_parameter("caller");
  }

  Target ParseTarget(bool with_namespace) {
    Target first = ParseTargetPart(with_namespace);
    if (!IsOperator(",")) return first;
    Target target{.name = {}, .attribute = {}, .unpacks = true, .parts = {}};
    target.parts.push_back(std::move(first));
    while (SkipOperator(",")) {
      if (IsName("in") || IsOperator("=") || IsOperator(")") ||
          Now().kind == Token::Kind::kBlockEnd)
        break;
      target.parts.push_back(ParseTargetPart(with_namespace));
    }
    return target;
  }

  Target ParseTargetPart(bool with_namespace) {
    const Level level(*this);
    Target target;
    if (SkipOperator("(")) {
      target = ParseTarget(with_namespace);
      ExpectOperator(")");
      return target;
    }
    target.name = ExpectNewName();
    if (with_namespace && SkipOperator(".")) target.attribute = ExpectName();
    return target;
  }

  int loops_ = 0;
};

}  // namespace

Body Parse(std::string_view source) {
  return Parser(source).Run();
}

}  // namespace sluice::jinja
