#pragma once

#include <boost/json/object.hpp>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <vector>

#include "arch/model_spec.h"
#include "bench/op_bench.h"

namespace sluice {

// The parts of a model timed one by one, by the ops that its steps run, at the model's shapes with
// random weights. Weights, keys and values are others in each call than in those before, and come
// from no cache; what a part gets from the op in front of it comes from where that leaves it.

// What a machine can do at most, as measured here.
struct MachineLimits {
  double bytes_per_s = 0.0;  // read from memory
  double flops_per_s = 0.0;  // of a large product: on a CUDA device of bf16
};
MachineLimits MeasureLimits(OpBench& bench);

// One part at one size.
struct PartRow {
  std::string part;           // "choice", "experts"
  boost::json::object shape;  // {"tokens": 8, "routing": "zipf"}
  std::optional<double> distinct_experts;
  double bytes = 0.0;           // that must be read and written
  double flops = 0.0;           // a multiply-add is two
  std::vector<double> seconds;  // samples of one call
  std::string left_out;         // why it was not timed, instead of `seconds`; mostly empty
};
using OnPartRow = std::function<void(const PartRow& row)>;

// The least time that a row can take.
struct PartFloor {
  double seconds = 0.0;
  const char* bound = "";  // what takes it: "memory" or "compute"
};
PartFloor FloorOf(const PartRow& row, const MachineLimits& limits);

// "tokens=8 routing=zipf"
std::string ShapeText(const PartRow& row);

// The row with floor, median, share and rates; every sample.
boost::json::object ToJson(const PartRow& row, const MachineLimits& limits);

// From logits, and from the residual, to the choice of experts, for each number of tokens. Throws
// Error(kUnsupported) for a model without experts.
void TimeRouter(const ModelSpec& spec, OpBench& bench, std::span<const int> tokens,
                const OnPartRow& on_row);

// For each number of tokens: a layer's norm and products, the head, and the experts from the
// router's logits to their combined output, with choices that are uniform, follow Zipf's law, or
// are the same for every token ("one": as few experts as can get all).
void TimeKernels(const ModelSpec& spec, OpBench& bench, std::span<const int> tokens,
                 const OnPartRow& on_row);

struct AttentionCase {
  int sequences = 1;
  int queries = 1;  // the last ones of each sequence
  int context = 1;  // positions of each
};
// The attention op alone over the pages of one layer.
void TimeAttention(const ModelSpec& spec, OpBench& bench, std::span<const AttentionCase> cases,
                   const OnPartRow& on_row);

}  // namespace sluice
