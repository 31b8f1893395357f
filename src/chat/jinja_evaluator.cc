#include "chat/jinja_evaluator.h"

#include <array>
#include <unordered_map>

#include "chat/jinja_arguments.h"
#include "chat/jinja_filters.h"
#include "chat/jinja_lexer.h"
#include "chat/jinja_methods.h"
#include "chat/jinja_operators.h"
#include "chat/jinja_text.h"

namespace sluice::jinja {

// The names set in one body. Loops and macro calls open a scope; if does not.
struct Scope {
  std::unordered_map<std::string, Value> variables;
  std::shared_ptr<Scope> parent;
};

namespace {

// Statements, expressions and macro calls within one another: a level takes about 1 KB
// of stack, and some 15 KB under AddressSanitizer.
constexpr int kMaxLevels = 300;
// As Jinja's sandbox has it.
constexpr int64_t kMaxRange = 100'000;

constexpr std::array<std::string_view, 4> kFunctions = {"range", "namespace", "dict",
                                                        "raise_exception"};

enum class Flow { kNext, kBreak, kContinue };

using Kind = Expression::Kind;

class Evaluator {
 public:
  std::string Run(const Body& body, const Dict& variables) {
    scope_ = std::make_shared<Scope>();
    for (const std::string_view name : kFunctions) {
      auto function = std::make_shared<Callable>();
      function->kind = Callable::Kind::kFunction;
      function->name = name;
      scope_->variables[std::string(name)] = CallableValue(std::move(function));
    }
    for (const auto& [name, value] : variables.entries) scope_->variables[name.Text()] = value;
    try {
      Execute(body);
    } catch (const Error& error) {
      throw Error(error.code(), WithPlace(error.what()));
    }
    return std::move(out_);
  }

 private:
  // Opens a scope for its own lifetime.
  class Opened {
   public:
    Opened(Evaluator& evaluator, std::shared_ptr<Scope> parent)
        : evaluator_(evaluator), before_(evaluator.scope_) {
      evaluator_.scope_ = std::make_shared<Scope>();
      evaluator_.scope_->parent = std::move(parent);
    }
    ~Opened() { evaluator_.scope_ = before_; }
    Opened(const Opened&) = delete;
    Opened& operator=(const Opened&) = delete;

   private:
    Evaluator& evaluator_;
    std::shared_ptr<Scope> before_;
  };

  // Counts the evaluator's own recursion.
  class Level {
   public:
    explicit Level(int* levels) : levels_(levels) {
      if (*levels_ == kMaxLevels) throw Failure("macros call one another too deep");
      ++*levels_;
    }
    ~Level() { --*levels_; }
    Level(const Level&) = delete;
    Level& operator=(const Level&) = delete;

   private:
    int* levels_;
  };

  static Value CallableValue(std::shared_ptr<Callable> callable) {
    return Value(Value::Storage(std::shared_ptr<const Callable>(std::move(callable))));
  }

  std::string WithPlace(const std::string& message) const {
    constexpr std::string_view kPrefix = "chat template";
    if (!message.starts_with(kPrefix)) return message;
    return std::string(kPrefix) + ", line " + std::to_string(place_.line) + ", column " +
           std::to_string(place_.column) + message.substr(kPrefix.size());
  }

  void Emit(const std::string& text) {
    budget_.Bytes(text.size());
    Budget::One(out_.size() + text.size());
    out_ += text;
  }

  // --- statements ---

  Flow Execute(const Body& body) {
    for (const Statement& statement : body) {
      budget_.Step();
      place_ = statement.place;
      const Flow flow = Execute(statement);
      if (flow != Flow::kNext) return flow;
    }
    return Flow::kNext;
  }

  Flow Execute(const Statement& statement) {
    const Level level(&levels_);
    switch (statement.kind) {
      case Statement::Kind::kText:
        Emit(statement.text);
        return Flow::kNext;
      case Statement::Kind::kPrint:
        Emit(ToText(Evaluate(*statement.expression)));
        return Flow::kNext;
      case Statement::Kind::kIf:
        return ExecuteIf(statement);
      case Statement::Kind::kFor:
        ExecuteFor(statement);
        return Flow::kNext;
      case Statement::Kind::kSet:
        Assign(statement.target, Evaluate(*statement.expression));
        return Flow::kNext;
      case Statement::Kind::kSetBlock:
        Assign(statement.target, Value::String(Capture(statement.body)));
        return Flow::kNext;
      case Statement::Kind::kMacro:
        DefineMacro(*statement.macro);
        return Flow::kNext;
      case Statement::Kind::kBlock:
        return Execute(statement.body);
      case Statement::Kind::kBreak:
        return Flow::kBreak;
      default:
        return Flow::kContinue;
    }
  }

  Flow ExecuteIf(const Statement& statement) {
    for (const Statement::Branch& branch : statement.branches) {
      if (!branch.condition || IsTrue(Evaluate(*branch.condition))) return Execute(branch.body);
    }
    return Flow::kNext;
  }

  void ExecuteFor(const Statement& statement) {
    std::vector<Value> items = ItemsOf(Evaluate(*statement.expression), &budget_);
    if (statement.condition) items = Filtered(statement, std::move(items));
    if (items.empty()) {
      const Opened scope(*this, scope_);
      Execute(statement.else_body);
      return;
    }
    auto list = std::make_shared<List>();
    list->items = std::move(items);
    auto loop = std::make_shared<Loop>();
    loop->items = list;
    for (; loop->index < list->items.size(); ++loop->index) {
      const Opened scope(*this, scope_);
      Assign(statement.target, list->items[loop->index]);
      scope_->variables["loop"] = Value(Value::Storage(loop));
      if (Execute(statement.body) == Flow::kBreak) return;
    }
  }

  std::vector<Value> Filtered(const Statement& statement, std::vector<Value> items) {
    std::vector<Value> kept;
    for (Value& item : items) {
      const Opened scope(*this, scope_);
      Assign(statement.target, item);
      if (IsTrue(Evaluate(*statement.condition))) kept.push_back(std::move(item));
    }
    return kept;
  }

  void Assign(const Target& target, Value value) {
    if (!target.attribute.empty()) return AssignAttribute(target, std::move(value));
    if (!target.unpacks) {
      scope_->variables[target.names.front()] = std::move(value);
      return;
    }
    std::vector<Value> items = ItemsOf(value, &budget_);
    if (items.size() != target.names.size()) {
      throw Failure("expected " + std::to_string(target.names.size()) + " values to unpack, got " +
                    std::to_string(items.size()));
    }
    for (size_t i = 0; i < items.size(); ++i) scope_->variables[target.names[i]] = items[i];
  }

  void AssignAttribute(const Target& target, Value value) {
    const Value owner = Lookup(target.names.front());
    const auto* space = owner.If<std::shared_ptr<Namespace>>();
    if (space == nullptr) {
      throw Failure("cannot set an attribute of '" + target.names.front() + "', which is a " +
                    owner.TypeName() + " and not a namespace");
    }
    CheckStorable(value);
    budget_.Step((*space)->attributes.entries.size() / 16);
    (*space)->attributes.Set(Value::String(target.attribute), std::move(value));
  }

  // What a body renders, apart from the output.
  std::string Capture(const Body& body) {
    std::string before = std::exchange(out_, {});
    {
      const Opened scope(*this, scope_);
      Execute(body);
    }
    return std::exchange(out_, std::move(before));
  }

  void DefineMacro(const MacroStatement& macro) {
    auto callable = std::make_shared<Callable>();
    callable->kind = Callable::Kind::kMacro;
    callable->name = macro.name;
    callable->macro = &macro;
    callable->scope = scope_;
    scope_->variables[macro.name] = CallableValue(std::move(callable));
  }

  // --- expressions ---

  Value Lookup(const std::string& name) const {
    for (const Scope* scope = scope_.get(); scope != nullptr; scope = scope->parent.get()) {
      const auto found = scope->variables.find(name);
      if (found != scope->variables.end()) return found->second;
    }
    return Value::NotDefined(name);
  }

  Value Evaluate(const Expression& node) {
    const Level level(&levels_);
    budget_.Step();
    place_ = node.place;
    switch (node.kind) {
      case Kind::kConstant:
        return node.constant;
      case Kind::kName:
        return Lookup(node.name);
      case Kind::kList:
        return Value::Of(EvaluateAll(node, 0));
      case Kind::kTuple:
        return Value::Of(EvaluateAll(node, 0), List::Form::kTuple);
      case Kind::kDict:
        return EvaluateDict(node);
      case Kind::kAttribute:
        return Attribute(Evaluate(*node.operands[0]), node.name, &budget_);
      case Kind::kItem: {
        const Value value = Evaluate(*node.operands[0]);
        return Item(value, Evaluate(*node.operands[1]), &budget_);
      }
      case Kind::kSlice:
        return Slice(Evaluate(*node.operands[0]), EvaluateOptional(node.operands[1]),
                     EvaluateOptional(node.operands[2]), EvaluateOptional(node.operands[3]),
                     &budget_);
      case Kind::kCall:
        return Call(node);
      case Kind::kFilter: {
        const Value input = Evaluate(*node.operands[0]);
        return ApplyFilter(node.name, input, EvaluateArguments(node), &budget_);
      }
      case Kind::kTest: {
        const Value input = Evaluate(*node.operands[0]);
        return Value::Bool(ApplyTest(node.name, input, EvaluateAll(node, 1), &budget_));
      }
      default:
        return EvaluateOperator(node);
    }
  }

  Value EvaluateOperator(const Expression& node) {
    const Value first = Evaluate(*node.operands[0]);
    switch (node.kind) {
      case Kind::kNot:
        return Value::Bool(!IsTrue(first));
      case Kind::kNegate:
        return Negate(first);
      case Kind::kPlus:
        return Negate(Negate(first));
      case Kind::kAnd:
        return IsTrue(first) ? Evaluate(*node.operands[1]) : first;
      case Kind::kOr:
        return IsTrue(first) ? first : Evaluate(*node.operands[1]);
      case Kind::kArithmetic:
        return Arithmetic(node.operators[0], first, Evaluate(*node.operands[1]), &budget_);
      case Kind::kConcatenate:
        return Concatenate(node, first);
      case Kind::kCompare:
        return CompareChain(node, first);
      default:
        break;
    }
    if (IsTrue(first)) return Evaluate(*node.operands[1]);
    if (node.operands[2]) return Evaluate(*node.operands[2]);
    return Value::NotDefined("the inline if without else");
  }

  Value EvaluateOptional(const ExpressionPtr& node) { return node ? Evaluate(*node) : Value(); }

  std::vector<Value> EvaluateAll(const Expression& node, size_t first) {
    std::vector<Value> values;
    budget_.Bytes((node.operands.size() - first) * sizeof(Value));
    for (size_t i = first; i < node.operands.size(); ++i) {
      values.push_back(Evaluate(*node.operands[i]));
    }
    return values;
  }

  Value EvaluateDict(const Expression& node) {
    Dict dict;
    for (size_t i = 0; i < node.operands.size(); i += 2) {
      const Value key = Evaluate(*node.operands[i]);
      if (key.IfList() || key.IfDict()) {
        throw Failure(std::string("a dict cannot have a ") + key.TypeName() + " as key");
      }
      budget_.Step(dict.entries.size() / 16);
      dict.Set(key, Evaluate(*node.operands[i + 1]));
    }
    return Value::Of(std::move(dict));
  }

  Value Concatenate(const Expression& node, const Value& first) {
    std::string text = ToText(first);
    for (size_t i = 1; i < node.operands.size(); ++i) text += ToText(Evaluate(*node.operands[i]));
    budget_.Bytes(text.size());
    return Value::String(std::move(text));
  }

  Value CompareChain(const Expression& node, Value left) {
    for (size_t i = 0; i < node.operators.size(); ++i) {
      Value right = Evaluate(*node.operands[i + 1]);
      if (!Compare(node.operators[i], left, right, &budget_)) return Value::Bool(false);
      left = std::move(right);
    }
    return Value::Bool(true);
  }

  // --- calls ---

  Arguments EvaluateArguments(const Expression& node) {
    Arguments arguments{.positional = EvaluateAll(node, 1), .named = {}};
    for (const auto& [name, value] : node.named)
      arguments.named.emplace_back(name, Evaluate(*value));
    return arguments;
  }

  Value Call(const Expression& node) {
    const Value callee = Evaluate(*node.operands[0]);
    const Arguments arguments = EvaluateArguments(node);
    place_ = node.place;
    if (callee.IsUndefined()) throw Failure("'" + callee.If<Undefined>()->name + "' is undefined");
    const auto* callable = callee.If<std::shared_ptr<const Callable>>();
    if (callable == nullptr)
      throw Failure(std::string("a ") + callee.TypeName() + " cannot be called");
    switch ((*callable)->kind) {
      case Callable::Kind::kMethod:
        return CallMethod(**callable, arguments, &budget_);
      case Callable::Kind::kMacro:
        return CallMacro(**callable, arguments);
      default:
        return CallFunction((*callable)->name, arguments);
    }
  }

  Value CallFunction(const std::string& name, const Arguments& arguments) {
    if (name == "range") return Range(arguments);
    if (name == "raise_exception") {
      arguments.Check(name, {"message"});
      throw Failure(ToText(arguments.Get(0, "message", Value::String(""))));
    }
    if (!arguments.positional.empty()) {
      throw Error(ErrorCode::kUnsupported,
                  "chat template: " + name + "() with a positional argument is not supported");
    }
    Dict dict;
    for (const auto& [key, value] : arguments.named) dict.Set(Value::String(key), value);
    if (name == "dict") return Value::Of(std::move(dict));
    auto space = std::make_shared<Namespace>();
    for (const auto& [key, value] : dict.entries) CheckStorable(value);
    space->attributes = std::move(dict);
    return Value(Value::Storage(std::move(space)));
  }

  Value Range(const Arguments& arguments) {
    arguments.Check("range", {"start", "stop", "step"});
    if (arguments.positional.empty()) throw Failure("range needs an argument");
    const bool one = arguments.positional.size() == 1;
    const int64_t start = one ? 0 : arguments.Integer(0, "start", 0);
    const int64_t stop = arguments.Integer(one ? 0 : 1, "stop", 0);
    const int64_t step = arguments.Integer(2, "step", 1);
    if (step == 0) throw Failure("range with step 0");
    std::vector<Value> items;
    for (int64_t i = start; step > 0 ? i < stop : i > stop;) {
      if (static_cast<int64_t>(items.size()) == kMaxRange) {
        throw Failure("a range of over " + std::to_string(kMaxRange) + " numbers");
      }
      items.push_back(Value::Int(i));
      if (__builtin_add_overflow(i, step, &i)) break;
    }
    budget_.Step(items.size());
    budget_.Bytes(items.size() * sizeof(Value));
    return Value::Of(std::move(items));
  }

  Value CallMacro(const Callable& callable, const Arguments& arguments) {
    const MacroStatement& macro = *callable.macro;
    std::vector<std::string_view> names(macro.parameters.begin(), macro.parameters.end());
    arguments.Check("macro " + macro.name, names);
    std::shared_ptr<Scope> home = callable.scope.lock();
    if (home == nullptr) throw Failure("the macro " + macro.name + " is called outside its loop");
    std::string before = std::exchange(out_, {});
    {
      const Opened scope(*this, std::move(home));
      BindParameters(macro, arguments);
      Execute(macro.body);
    }
    return Value::String(std::exchange(out_, std::move(before)));
  }

  void BindParameters(const MacroStatement& macro, const Arguments& arguments) {
    const size_t required = macro.parameters.size() - macro.defaults.size();
    for (size_t i = 0; i < macro.parameters.size(); ++i) {
      const std::string& name = macro.parameters[i];
      if (const Value* given = arguments.Find(i, name)) {
        scope_->variables[name] = *given;
      } else if (i >= required) {
        scope_->variables[name] = Evaluate(*macro.defaults[i - required]);
      } else {
        scope_->variables[name] = Value::NotDefined(name);
      }
    }
  }

  Budget budget_;
  Place place_;
  std::shared_ptr<Scope> scope_;
  std::string out_;
  int levels_ = 0;
};

}  // namespace

std::string Render(const Body& body, const Dict& variables) {
  return Evaluator().Run(body, variables);
}

}  // namespace sluice::jinja
