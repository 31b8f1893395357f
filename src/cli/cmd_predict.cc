#include <fmt/format.h>

#include <CLI/CLI.hpp>
#include <algorithm>
#include <boost/json/array.hpp>
#include <boost/json/object.hpp>
#include <boost/json/serialize.hpp>
#include <memory>

#include "base/error.h"
#include "cli/commands.h"
#include "plan/forest.h"

namespace sluice {
namespace {

namespace json = boost::json;

struct PredictFlags {
  std::string forest;
  std::vector<std::string> values;
  std::string best;
  std::string by;
  bool extrapolate = false;
  bool json = false;
};

// What is asked for one setting of the features.
struct Asked {
  Forest::Values values;
  std::vector<std::string> outside;
  std::vector<ForestPrediction> predictions;
};

Forest::Values ParseValues(const std::vector<std::string>& texts) {
  Forest::Values values;
  for (const std::string& text : texts) {
    const size_t equals = text.find('=');
    if (equals == std::string::npos || equals == 0) {
      throw Error(ErrorCode::kInvalidArgument,
                  "expected FEATURE=VALUE, as threads=4; got '" + text + "'");
    }
    if (!values.emplace(text.substr(0, equals), text.substr(equals + 1)).second) {
      throw Error(ErrorCode::kInvalidArgument, text.substr(0, equals) + " is given twice");
    }
  }
  return values;
}

// The settings to predict: one, or one for each value of --best's feature that was trained on.
std::vector<Forest::Values> Settings(const Forest& forest, const PredictFlags& flags) {
  const Forest::Values given = ParseValues(flags.values);
  if (flags.best.empty()) return {given};
  const auto found =
      std::find_if(forest.features().begin(), forest.features().end(),
                   [&](const ForestFeature& feature) { return feature.name == flags.best; });
  if (found == forest.features().end() || given.contains(flags.best)) {
    throw Error(ErrorCode::kInvalidArgument,
                "--best " + flags.best + ": expected a feature of the forest without a value");
  }
  std::vector<std::string> choices = found->choices;
  for (const double number : found->seen) choices.push_back(fmt::format("{:g}", number));
  std::vector<Forest::Values> settings;
  for (const std::string& choice : choices) {
    settings.push_back(given);
    settings.back()[flags.best] = choice;
  }
  return settings;
}

std::vector<Asked> PredictAll(const Forest& forest, const PredictFlags& flags) {
  std::vector<Asked> asked;
  for (Forest::Values& values : Settings(forest, flags)) {
    std::vector<std::string> outside = forest.Outside(values);
    if (!outside.empty() && !flags.extrapolate) {
      throw Error(
          ErrorCode::kInvalidArgument,
          fmt::format("outside of what the forest was trained on: {}; with --extrapolate it "
                      "says what it would at the border of that",
                      fmt::join(outside, "; ")));
    }
    asked.push_back({values, std::move(outside), forest.Predict(values)});
  }
  return asked;
}

// Index of the target that --best ranks by.
size_t RankedTarget(const Forest& forest, const PredictFlags& flags) {
  if (flags.by.empty()) return 0;
  const std::vector<Forest::Target> targets = forest.targets();
  for (size_t t = 0; t < targets.size(); ++t) {
    if (targets[t].name == flags.by) return t;
  }
  throw Error(ErrorCode::kInvalidArgument, "--by " + flags.by + ": the forest has no such target");
}

// Times are better when low, rates when high.
bool LowIsBetter(const std::string& target) {
  return target.ends_with("_ms") || (target.ends_with("_s") && !target.ends_with("_per_s"));
}

size_t BestOf(const std::vector<Asked>& asked, size_t target) {
  const auto better = [&](const Asked& a, const Asked& b) {
    const ForestPrediction& left = a.predictions[target];
    const ForestPrediction& right = b.predictions[target];
    return LowIsBetter(left.target) ? left.value < right.value : left.value > right.value;
  };
  return std::min_element(asked.begin(), asked.end(), better) - asked.begin();
}

json::object Describe(const Asked& asked) {
  json::object values;
  for (const auto& [name, value] : asked.values) values[name] = value;
  json::object predictions;
  for (const ForestPrediction& prediction : asked.predictions) {
    predictions[prediction.target] = json::object{
        {"value", prediction.value}, {"low", prediction.low}, {"high", prediction.high}};
  }
  return {{"values", std::move(values)},
          {"outside", json::array(asked.outside.begin(), asked.outside.end())},
          {"predictions", std::move(predictions)}};
}

int RunPredict(const PredictFlags& flags) {
  const Forest forest = Forest::Read(flags.forest);
  const size_t ranked = RankedTarget(forest, flags);
  const std::vector<Asked> asked = PredictAll(forest, flags);
  const size_t best = BestOf(asked, ranked);
  if (flags.json) {
    json::array settings;
    for (const Asked& one : asked) settings.push_back(Describe(one));
    json::object report{{"source", forest.source()},
                        {"trained_on", forest.trained_on()},
                        {"settings", std::move(settings)}};
    if (!flags.best.empty()) report["best"] = asked[best].values.at(flags.best);
    fmt::print("{}\n", json::serialize(report));
    return 0;
  }
  fmt::print("forest of {} runs: {}\n", forest.trained_on(), forest.source());
  for (const Asked& one : asked) {
    if (!flags.best.empty()) {
      fmt::print("{} = {}{}\n", flags.best, one.values.at(flags.best),
                 &one == &asked[best] ? "  <- best" : "");
    }
    for (const std::string& outside : one.outside) fmt::print("  EXTRAPOLATED: {}\n", outside);
    for (size_t t = 0; t < one.predictions.size(); ++t) {
      const ForestPrediction& prediction = one.predictions[t];
      const Forest::Target about = forest.targets()[t];
      fmt::print(
          "  {:<28} {:>12.5g}   trees {:.5g} to {:.5g}; unseen runs: off by {:.1f} %, R2 "
          "{:.3f}\n",
          prediction.target, prediction.value, prediction.low, prediction.high,
          100 * about.relative_error, about.r2);
    }
  }
  return 0;
}

}  // namespace

Command AddPlanPredict(CLI::App& app) {
  auto flags = std::make_shared<PredictFlags>();
  CLI::App* command = app.add_subcommand(
      "predict", "Predict a run's figures by a forest that was trained on measured runs");
  command->add_option("forest", flags->forest, "JSON that studies/train_predictor.py wrote")
      ->required();
  command->add_option("values", flags->values, "FEATURE=VALUE for each feature, as threads=2")
      ->multi_option_policy(CLI::MultiOptionPolicy::TakeAll);
  command->add_option("--best", flags->best,
                      "Try every value of this feature that was trained on, and name the best");
  command->add_option("--by", flags->by, "Target that --best goes by; default: the first");
  command->add_flag("--extrapolate", flags->extrapolate,
                    "Predict outside the training's ranges too, and say so");
  command->add_flag("--json", flags->json, "Print every figure as JSON");
  return [flags] { return RunPredict(*flags); };
}

}  // namespace sluice
