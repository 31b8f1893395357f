#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "study/factorial_design.h"

namespace sluice {

// A study as its YAML file declares it:
//
//   name: cpu-threads              letters, digits, . _ -
//   description: ...               optional
//   command: bench latency         of this binary, one that prints JSON with --json
//   fixed: {output-len: 32}        optional; flags alike in all runs, as in a --config file
//   factors:
//     threads: [1, 2]              the flag's values
//     workload:                    or levels by name, each of several flags
//       short: {input-len: 32}
//       long: {input-len: 256}
//   generators:                    optional; the design is then a fraction of two-level factors
//     chunk: [threads, workload]
//   responses: [tpot_ms]           numbers of the result, each by its path: a.b, list.0.b, or
//                                  list.key=value.b for the element whose key has that value
//   repeats: 3                     optional, 1
//   seed: 7                        optional, 0: of the order
//   timeout-s: 600                 optional, 600: of one run
struct StudyPlan {
  std::string name;
  std::string description;
  std::vector<std::string> command;
  std::vector<std::string> fixed;
  FactorialDesign design;
  std::vector<std::string> responses;
  int repeats = 1;
  uint64_t seed = 0;
  double timeout_s = 600.0;
};

// Throws Error(kInvalidArgument), naming `origin`, for what is not such a file: keys that are not
// known or missing, commands that are not measured by runs, numbers out of range, a flag that two
// factors or a factor and `fixed` give, and designs as MakeDesign refuses them.
StudyPlan ParseStudy(std::string_view text, const std::string& origin);

// The arguments of a run at `point`.
std::vector<std::string> RunArguments(const StudyPlan& plan, int point);

// The study as JSON: all but the timeout, which does not change what a run gives.
boost::json::object ToJson(const StudyPlan& plan);

}  // namespace sluice
