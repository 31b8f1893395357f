#include "study/factorial_design.h"

#include <algorithm>
#include <bit>
#include <boost/json/serialize.hpp>
#include <map>
#include <numeric>
#include <utility>

#include "base/error.h"
#include "sampling/random.h"

namespace sluice {
namespace {

constexpr uint64_t kMaxPoints = 100'000;
constexpr size_t kMaxFactors = 32;  // the factors of a word are bits of 32

[[noreturn]] void Fail(const std::string& message) {
  throw Error(ErrorCode::kInvalidArgument, message);
}

size_t FactorIndex(const std::vector<Factor>& factors, const std::string& name,
                   const std::string& whose) {
  const auto found = std::find_if(factors.begin(), factors.end(),
                                  [&](const Factor& factor) { return factor.name == name; });
  if (found == factors.end()) Fail(whose + " names " + name + ", which is no factor");
  return found - factors.begin();
}

void CheckFactors(const std::vector<Factor>& factors) {
  if (factors.empty()) Fail("a design needs at least one factor");
  if (factors.size() > kMaxFactors) {
    Fail("a design has at most " + std::to_string(kMaxFactors) + " factors, got " +
         std::to_string(factors.size()));
  }
  for (size_t f = 0; f < factors.size(); ++f) {
    const Factor& factor = factors[f];
    if (factor.levels.size() < 2) {
      Fail("factor " + factor.name + " has " + std::to_string(factor.levels.size()) +
           " level(s); two are the fewest that show an effect: what does not vary belongs to "
           "'fixed'");
    }
    for (size_t a = 0; a < factor.levels.size(); ++a) {
      for (size_t b = 0; b < a; ++b) {
        if (factor.levels[a].value == factor.levels[b].value) {
          Fail("factor " + factor.name + " has the level " +
               boost::json::serialize(factor.levels[a].value) + " twice");
        }
      }
    }
    for (size_t other = 0; other < f; ++other) {
      if (factors[other].name == factor.name) Fail("two factors are named " + factor.name);
    }
  }
}

// A generator as a word: bits of its factor and of those it is the product of.
uint32_t WordOf(const std::vector<Factor>& factors, const DesignGenerator& generator,
                uint32_t generated) {
  const std::string whose = "the generator of " + generator.factor;
  uint32_t word = 0;
  for (const std::string& name : generator.of) {
    const uint32_t bit = uint32_t{1} << FactorIndex(factors, name, whose);
    if ((word & bit) != 0) Fail(whose + " names " + name + " twice");
    if ((generated & bit) != 0) {
      Fail(whose + " names " + name + ", which has a generator itself; write out its factors");
    }
    word |= bit;
  }
  if (std::popcount(word) < 2) {
    Fail(whose + " is the product of " + std::to_string(generator.of.size()) +
         " factor(s); with fewer than two it is the same factor over again");
  }
  return word | (uint32_t{1} << FactorIndex(factors, generator.factor, "a generator"));
}

std::vector<uint32_t> GeneratorWords(const std::vector<Factor>& factors,
                                     const std::vector<DesignGenerator>& generators) {
  uint32_t generated = 0;
  for (const DesignGenerator& generator : generators) {
    const uint32_t bit = uint32_t{1} << FactorIndex(factors, generator.factor, "a generator");
    if ((generated & bit) != 0) Fail("factor " + generator.factor + " has two generators");
    generated |= bit;
  }
  for (const Factor& factor : factors) {
    if (!generators.empty() && factor.levels.size() != 2) {
      Fail("a fractional design is of two-level factors; " + factor.name + " has " +
           std::to_string(factor.levels.size()) + " levels: drop levels, or the generators");
    }
  }
  std::vector<uint32_t> words;
  for (const DesignGenerator& generator : generators) {
    words.push_back(WordOf(factors, generator, generated));
  }
  return words;
}

// All products of the generators' words, shortest first.
std::vector<uint32_t> DefiningRelation(const std::vector<uint32_t>& generators) {
  std::vector<uint32_t> words = {0};
  for (const uint32_t generator : generators) {
    const size_t before = words.size();
    for (size_t i = 0; i < before; ++i) words.push_back(words[i] ^ generator);
  }
  words.erase(words.begin());
  std::sort(words.begin(), words.end(), [](uint32_t a, uint32_t b) {
    return std::pair(std::popcount(a), a) < std::pair(std::popcount(b), b);
  });
  return words;
}

std::string WordText(const std::vector<Factor>& factors, uint32_t word) {
  std::string text;
  for (size_t f = 0; f < factors.size(); ++f) {
    if ((word >> f & 1) != 0) text += (text.empty() ? "" : "*") + factors[f].name;
  }
  return text;
}

// Points of the factors in `basic`, the first of them varying fastest; the others are at 0.
std::vector<std::vector<int>> CrossLevels(const std::vector<Factor>& factors, uint32_t generated) {
  uint64_t count = 1;
  for (size_t f = 0; f < factors.size(); ++f) {
    if ((generated >> f & 1) == 0) count *= factors[f].levels.size();
    if (count > kMaxPoints) {
      Fail("the design has more than " + std::to_string(kMaxPoints) +
           " points; take fewer levels, or generators");
    }
  }
  std::vector<std::vector<int>> points(count, std::vector<int>(factors.size(), 0));
  uint64_t stride = 1;
  for (size_t f = 0; f < factors.size(); ++f) {
    if ((generated >> f & 1) != 0) continue;
    const uint64_t levels = factors[f].levels.size();
    for (uint64_t p = 0; p < count; ++p) points[p][f] = static_cast<int>(p / stride % levels);
    stride *= levels;
  }
  return points;
}

}  // namespace

FactorialDesign MakeDesign(std::vector<Factor> factors, std::vector<DesignGenerator> generators) {
  CheckFactors(factors);
  const std::vector<uint32_t> words = GeneratorWords(factors, generators);
  FactorialDesign design{.factors = std::move(factors), .generators = std::move(generators)};
  uint32_t generated = 0;
  for (const DesignGenerator& generator : design.generators) {
    generated |= uint32_t{1} << FactorIndex(design.factors, generator.factor, "a generator");
  }
  const std::vector<uint32_t> relation = DefiningRelation(words);
  for (const uint32_t word : relation) {
    design.defining_words.push_back(WordText(design.factors, word));
  }
  if (!relation.empty()) design.resolution = std::popcount(relation.front());
  if (design.resolution == 2) {
    Fail("in this fraction " + design.defining_words.front() +
         " is constant: two factors always change together, and no study can tell their effects "
         "apart; choose other generators");
  }
  design.points = CrossLevels(design.factors, generated);
  for (std::vector<int>& point : design.points) {
    for (size_t g = 0; g < words.size(); ++g) {
      const size_t target = FactorIndex(design.factors, design.generators[g].factor, "");
      const uint32_t of = words[g] & ~(uint32_t{1} << target);
      int low = 0;  // factors at their first level, which is written -1
      for (size_t f = 0; f < point.size(); ++f) low += (of >> f & 1) != 0 && point[f] == 0 ? 1 : 0;
      point[target] = low % 2 == 0 ? 1 : 0;
    }
  }
  return design;
}

std::vector<std::string> Aliases(const FactorialDesign& design) {
  std::vector<uint32_t> effects;
  const size_t factors = design.factors.size();
  for (size_t a = 0; a < factors; ++a) effects.push_back(uint32_t{1} << a);
  for (size_t a = 0; a < factors; ++a) {
    for (size_t b = a + 1; b < factors; ++b) {
      effects.push_back(uint32_t{1} << a | uint32_t{1} << b);
    }
  }
  std::vector<uint32_t> generators;
  if (!design.generators.empty()) generators = GeneratorWords(design.factors, design.generators);
  const std::vector<uint32_t> relation = DefiningRelation(generators);
  // Effects that differ by a constant word are one: the least product names them all.
  std::map<uint32_t, std::vector<uint32_t>> same;
  for (const uint32_t effect : effects) {
    uint32_t name = effect;
    for (const uint32_t word : relation) name = std::min(name, effect ^ word);
    same[name].push_back(effect);
  }
  std::vector<std::string> aliases;
  for (const auto& [name, group] : same) {
    if (group.size() < 2) continue;
    std::string text;
    for (const uint32_t effect : group) {
      text += (text.empty() ? "" : " = ") + WordText(design.factors, effect);
    }
    aliases.push_back(text);
  }
  return aliases;
}

std::vector<PlannedRun> RandomOrder(const FactorialDesign& design, int repeats, uint64_t seed) {
  const size_t count = design.points.size();
  std::vector<PlannedRun> runs;
  for (int repeat = 0; repeat < repeats; ++repeat) {
    std::vector<int> order(count);
    std::iota(order.begin(), order.end(), 0);
    for (size_t left = count; left > 1; --left) {
      const double draw = UniformAt(seed, left, static_cast<uint32_t>(repeat));
      const auto chosen = static_cast<size_t>(draw * static_cast<double>(left));
      std::swap(order[left - 1], order[chosen]);
    }
    for (const int point : order) runs.push_back({.point = point, .repeat = repeat});
  }
  return runs;
}

}  // namespace sluice
