#pragma once

#include <cstdint>
#include <filesystem>
#include <map>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace sluice {

// What a forest predicts from: a number within the range of its training, or one of the words that
// were seen.
struct ForestFeature {
  std::string name;
  bool is_number = true;
  double min = 0.0;
  double max = 0.0;
  std::vector<double> seen;          // numbers in training, ascending
  std::vector<std::string> choices;  // of a word
};

struct ForestPrediction {
  std::string target;
  double value = 0.0;
  double low = 0.0;  // of the trees
  double high = 0.0;
};

// A random forest (Breiman, "Random Forests", Machine Learning 45, 2001) that studies/ trained on
// measured runs with scikit-learn and exported as JSON, one for each target. Numbers are compared
// with thresholds as scikit-learn does, rounded to f32, so that both predict the same. Immutable.
class Forest {
 public:
  // Throws Error(kInvalidArgument), naming `where`, for what studies/ does not write: not JSON, of
  // another format, past a bound (64 MiB, 256 features, 64 targets, 2^22 nodes), a tree whose
  // branches lead back or out of it, numbers that are not finite.
  static Forest FromJson(std::string_view text, const std::string& where);
  // Throws Error(kNotFound) for a file that cannot be read, else as FromJson.
  static Forest Read(const std::filesystem::path& path);

  const std::vector<ForestFeature>& features() const { return features_; }
  const std::string& source() const { return source_; }
  int64_t trained_on() const { return trained_on_; }  // runs

  // How far predictions were off for runs that the forest had not seen.
  struct Target {
    std::string name;
    double r2 = 0.0;              // 1 is perfect, 0 no better than the mean
    double relative_error = 0.0;  // median of |predicted - measured| / measured
  };
  std::vector<Target> targets() const;

  using Values = std::map<std::string, std::string>;

  // What of `values` lies outside the training, in words: "threads is 64, trained on 1 to 8".
  // Throws Error(kInvalidArgument) for features that are missing or not known, numbers that are
  // none, and words that training has not seen: nothing can be predicted from those.
  std::vector<std::string> Outside(const Values& values) const;

  // Predictions for every target, from values that Outside accepts. Outside the training's range a
  // forest predicts what it would at the range's border.
  std::vector<ForestPrediction> Predict(const Values& values) const;

 private:
  struct Tree {
    std::vector<int32_t> column;  // [nodes] that a node compares
    std::vector<double> threshold;
    std::vector<int32_t> left;  // -1 at a leaf; else after the node itself
    std::vector<int32_t> right;
    std::vector<double> value;
    double Evaluate(const std::vector<float>& columns) const;
  };
  struct TargetForest {
    Target about;
    bool log = false;  // trees hold logarithms
    std::vector<Tree> trees;
  };
  class Reader;

  // Numbers as they are, each word as a column for every choice. [columns]
  std::vector<float> Columns(const Values& values) const;

  std::string source_;
  int64_t trained_on_ = 0;
  std::vector<ForestFeature> features_;
  std::vector<TargetForest> targets_;
};

}  // namespace sluice
