#include "chat/jinja_evaluator.h"

#include <unordered_map>

#include "chat/jinja_arguments.h"
#include "chat/jinja_filters.h"
#include "chat/jinja_functions.h"
#include "chat/jinja_lexer.h"
#include "chat/jinja_methods.h"
#include "chat/jinja_operators.h"
#include "chat/jinja_tests.h"
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
enum class Flow { kNext, kBreak, kContinue };

using Kind = Expression::Kind;

class Evaluator {
 public:
  explicit Evaluator(std::chrono::system_clock::time_point now) : now_(now) {}

  std::string Run(const Body& body, const Dict& variables) {
    scope_ = std::make_shared<Scope>();
    for (const std::string_view name : FunctionNames()) {
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

  // Filter and call blocks do not turn what they get into text.
  void EmitString(const Value& value) {
    if (!value.IsString()) {
      throw Failure(std::string("a block must give a str, not a ") + value.TypeName());
    }
    Emit(value.Text());
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
        Emit(ToText(Evaluate(*statement.expression), &budget_));
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
      case Statement::Kind::kFilter:
        return ExecuteCapture(statement);
      case Statement::Kind::kMacro:
        scope_->variables[statement.macro->name] = MacroValue(*statement.macro);
        return Flow::kNext;
      case Statement::Kind::kCall:
        EmitString(Call(*statement.expression, statement.macro.get()));
        return Flow::kNext;
      case Statement::Kind::kWith:
        return ExecuteWith(statement);
      case Statement::Kind::kBlock: {
        const Opened scope(*this, scope_);
        return Execute(statement.body);
      }
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
    RunLoop(statement, Evaluate(*statement.expression), /*depth0=*/0);
  }

  // Runs a for over the items of a value; a recursive one calls this again for each level.
  void RunLoop(const Statement& statement, const Value& over, int64_t depth0) {
    std::vector<Value> items = ItemsOf(over, &budget_);
    if (statement.condition) items = Filtered(statement, std::move(items));
    auto list = std::make_shared<List>();
    list->items = std::move(items);
    auto loop = std::make_shared<Loop>();
    loop->items = list;
    loop->depth0 = depth0;
    loop->statement = statement.recursive ? &statement : nullptr;
    loop->scope = scope_;
    // As Jinja has it, the else runs unless a turn came to its end.
    bool completed = false;
    for (Flow flow = Flow::kNext; flow != Flow::kBreak && loop->index < list->items.size();
         ++loop->index) {
      const Opened scope(*this, scope_);
      scope_->variables["loop"] = Value(Value::Storage(loop));
      Assign(statement.target, list->items[loop->index]);
      flow = Execute(statement.body);
      completed |= flow == Flow::kNext;
    }
    if (completed) return;
    const Opened scope(*this, scope_);
    Execute(statement.else_body);
  }

  Value CallLoop(const Loop& loop, const Arguments& arguments) {
    if (loop.statement == nullptr) throw Failure("the loop must be recursive to be called");
    arguments.Check("loop", {"iterable"});
    const Value* over = arguments.Find(0, "iterable");
    std::shared_ptr<Scope> home = loop.scope.lock();
    if (over == nullptr || home == nullptr) throw Failure("loop() needs what to run over");
    std::string before = std::exchange(out_, {});
    {
      const Opened scope(*this, std::move(home));
      RunLoop(*loop.statement, *over, loop.depth0 + 1);
    }
    return Value::String(std::exchange(out_, std::move(before)));
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
      scope_->variables[target.name] = std::move(value);
      return;
    }
    const std::vector<Value> items = ItemsOf(value, &budget_);
    if (items.size() != target.parts.size()) {
      throw Failure("expected " + std::to_string(target.parts.size()) + " values to unpack, got " +
                    std::to_string(items.size()));
    }
    for (size_t i = 0; i < items.size(); ++i) Assign(target.parts[i], items[i]);
  }

  void AssignAttribute(const Target& target, Value value) {
    const Value owner = Lookup(target.name);
    const auto* space = owner.If<std::shared_ptr<Namespace>>();
    if (space == nullptr) {
      throw Failure("cannot set an attribute of '" + target.name + "', which is a " +
                    owner.TypeName() + " and not a namespace");
    }
    CheckStorable(value);
    budget_.Step((*space)->attributes.entries.size() / 16);
    (*space)->attributes.Set(Value::String(target.attribute), std::move(value));
  }

  // A set or filter block: what its body renders is filtered, then set or put out.
  Flow ExecuteCapture(const Statement& statement) {
    Flow flow = Flow::kNext;
    std::string before = std::exchange(out_, {});
    {
      const Opened scope(*this, scope_);
      flow = Execute(statement.body);
    }
    Value value = Value::String(std::exchange(out_, std::move(before)));
    if (flow != Flow::kNext) return flow;
    if (statement.expression) {
      captured_ = std::move(value);
      value = Evaluate(*statement.expression);
    }
    if (statement.kind == Statement::Kind::kFilter) {
      EmitString(value);
    } else {
      Assign(statement.target, std::move(value));
    }
    return Flow::kNext;
  }

  // The values are those of the scope around.
  Flow ExecuteWith(const Statement& statement) {
    std::vector<Value> values;
    for (const auto& [target, expression] : statement.assignments) {
      values.push_back(Evaluate(*expression));
    }
    const Opened scope(*this, scope_);
    for (size_t i = 0; i < values.size(); ++i) {
      Assign(statement.assignments[i].first, std::move(values[i]));
    }
    return Execute(statement.body);
  }

  Value MacroValue(const MacroStatement& macro) {
    auto callable = std::make_shared<Callable>();
    callable->kind = Callable::Kind::kMacro;
    callable->name = macro.name;
    callable->macro = &macro;
    callable->scope = scope_;
    return CallableValue(std::move(callable));
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
        return Call(node, /*caller=*/nullptr);
      case Kind::kFilter: {
        const Value input = Evaluate(*node.operands[0]);
        return ApplyFilter(node.name, input, EvaluateArguments(node), &budget_);
      }
      case Kind::kTest: {
        const Value input = Evaluate(*node.operands[0]);
        return Value::Bool(ApplyTest(node.name, input, EvaluateArguments(node), &budget_));
      }
      case Kind::kCaptured:
        return captured_;
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
      CheckKey(key);
      budget_.Step(dict.entries.size() / 16);
      dict.Set(key, Evaluate(*node.operands[i + 1]));
    }
    return Value::Of(std::move(dict));
  }

  Value Concatenate(const Expression& node, const Value& first) {
    std::string text = ToText(first, &budget_);
    for (size_t i = 1; i < node.operands.size(); ++i) {
      text += ToText(Evaluate(*node.operands[i]), &budget_);
    }
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
    for (const auto& [name, value] : node.named) {
      arguments.named.emplace_back(name, Evaluate(*value));
    }
    if (node.sequence_argument) {
      for (Value& item : ItemsOf(Evaluate(*node.sequence_argument), &budget_)) {
        arguments.positional.push_back(std::move(item));
      }
    }
    if (node.mapping_argument) AddNamed(Evaluate(*node.mapping_argument), &arguments);
    return arguments;
  }

  void AddNamed(const Value& mapping, Arguments* arguments) {
    if (mapping.IfDict() == nullptr) throw Failure("an argument behind ** must be a dict");
    for (const auto& [key, value] : mapping.IfDict()->entries) {
      if (!key.IsString()) throw Failure("the keys of an argument behind ** must be str");
      budget_.Step(arguments->named.size());
      for (const auto& [name, other] : arguments->named) {
        if (name == key.Text()) throw Failure("the argument " + name + " is given twice");
      }
      arguments->named.emplace_back(key.Text(), value);
    }
  }

  // `caller` is the body of the call block that the call stands in, or null.
  Value Call(const Expression& node, const MacroStatement* caller) {
    const Value callee = Evaluate(*node.operands[0]);
    Arguments arguments = EvaluateArguments(node);
    if (caller != nullptr) arguments.named.emplace_back("caller", MacroValue(*caller));
    place_ = node.place;
    if (callee.IsUndefined()) throw UndefinedFailure(*callee.If<Undefined>());
    if (const auto* loop = callee.If<std::shared_ptr<Loop>>()) return CallLoop(**loop, arguments);
    const auto* callable = callee.If<std::shared_ptr<const Callable>>();
    if (callable == nullptr) {
      throw Failure(std::string("a ") + callee.TypeName() + " cannot be called");
    }
    switch ((*callable)->kind) {
      case Callable::Kind::kMethod:
        return CallMethod(**callable, arguments, &budget_);
      case Callable::Kind::kMacro:
        return CallMacro(**callable, arguments);
      default:
        return CallFunction((*callable)->name, arguments, now_, &budget_);
    }
  }

  Value CallMacro(const Callable& callable, const Arguments& arguments) {
    std::shared_ptr<Scope> home = callable.scope.lock();
    if (home == nullptr) {
      throw Failure("the macro " + callable.name + " is called outside its loop");
    }
    std::string before = std::exchange(out_, {});
    {
      const Opened scope(*this, std::move(home));
      BindParameters(*callable.macro, arguments);
      BindRest(*callable.macro, arguments);
      Execute(callable.macro->body);
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

  // What a call brings beyond the parameters: varargs, kwargs and caller, each only when the
  // macro's body names it.
  void BindRest(const MacroStatement& macro, const Arguments& arguments) {
    const size_t count = std::min(arguments.positional.size(), macro.parameters.size());
    const auto takes = [&](std::string_view name) {
      const auto first = macro.parameters.begin() + static_cast<ptrdiff_t>(count);
      return std::find(first, macro.parameters.end(), name) != macro.parameters.end();
    };
    Dict rest;
    Value caller = Value::NotDefined("caller");
    for (const auto& [name, value] : arguments.named) {
      if (takes(name)) continue;
      if (macro.uses_caller && name == "caller") {
        caller = value;
      } else if (macro.uses_kwargs) {
        rest.Set(Value::String(name), value);
      } else {
        throw Failure("the macro " + macro.name + " takes no argument " + name);
      }
    }
    if (arguments.positional.size() > count && !macro.uses_varargs) {
      throw Failure("the macro " + macro.name + " takes at most " +
                    std::to_string(macro.parameters.size()) + " arguments");
    }
    if (macro.uses_caller) scope_->variables["caller"] = std::move(caller);
    if (macro.uses_kwargs) scope_->variables["kwargs"] = Value::Of(std::move(rest));
    if (macro.uses_varargs) {
      scope_->variables["varargs"] =
          Value::Of({arguments.positional.begin() + static_cast<ptrdiff_t>(count),
                     arguments.positional.end()},
                    List::Form::kTuple);
    }
  }

  const std::chrono::system_clock::time_point now_;
  Budget budget_;
  Place place_;
  std::shared_ptr<Scope> scope_;
  std::string out_;
  Value captured_;  // what the filters of a block take
  int levels_ = 0;
};

}  // namespace

std::string Render(const Body& body, const Dict& variables,
                   std::chrono::system_clock::time_point now) {
  return Evaluator(now).Run(body, variables);
}

}  // namespace sluice::jinja
