#pragma once

#include <boost/json/value.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace sluice {

// One setting of a factor.
struct FactorLevel {
  boost::json::value value;            // as it is recorded: a number, a bool or a name
  std::vector<std::string> arguments;  // of the command line
};

struct Factor {
  std::string name;
  std::vector<FactorLevel> levels;
};

// With levels written as -1 and +1, `factor` is the product of others.
struct DesignGenerator {
  std::string factor;
  std::vector<std::string> of;
};

// Which combinations of levels are run: all of them, or with generators the fraction 1 / 2^p of
// two-level factors in which p of them follow from the others (Box, Hunter & Hunter, "Statistics
// for Experimenters", chapters 5 and 6).
struct FactorialDesign {
  std::vector<Factor> factors;
  std::vector<DesignGenerator> generators;
  std::vector<std::vector<int>> points;  // [runs][factors] level; the first factor varies fastest
  // Of a fraction: products of factors that are constant over it, each as "a*b*c", and the number
  // of factors in the shortest: 3 mixes main effects up with pairs, 4 pairs with pairs. Else 0.
  std::vector<std::string> defining_words;
  int resolution = 0;
};

// Throws Error(kInvalidArgument) for what cannot be run: no factor, one of fewer than two levels,
// two of a name, equal levels; generators of factors that are not there, not of two levels, not
// basic themselves, or that leave two factors the same; more than 100,000 points.
FactorialDesign MakeDesign(std::vector<Factor> factors, std::vector<DesignGenerator> generators);

// Pairs of factors, and factors, whose effects a fraction cannot tell apart, as "a = b*c"; up to
// products of two. Empty for a full design.
std::vector<std::string> Aliases(const FactorialDesign& design);

struct PlannedRun {
  int point = 0;
  int repeat = 0;
};

// Every point `repeats` times. Each repeat is a block with an order of its own, drawn from `seed`,
// so that what drifts on the machine is not taken for a factor, and a study that is stopped has
// whole repeats.
std::vector<PlannedRun> RandomOrder(const FactorialDesign& design, int repeats, uint64_t seed);

}  // namespace sluice
