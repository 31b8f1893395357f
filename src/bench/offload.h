#pragma once

#include <boost/json/object.hpp>
#include <cstdint>
#include <string>
#include <vector>

#include "engine/model_runner.h"
#include "offload/expert_link.h"
#include "offload/offload_stats.h"
#include "plan/hardware_profile.h"
#include "plan/offload_plan.h"

namespace sluice {

struct OffloadBenchOptions {
  int prompt_tokens = 32;
  int warmup_tokens = 8;  // decoded before the clock runs: slots fill, forecasts are learnt
  int output_tokens = 32;
  uint64_t seed = 0;  // of the prompts: the n-th sequence has the same one in every run

  // Positions that a sequence comes to.
  int Positions() const { return prompt_tokens + 1 + warmup_tokens + output_tokens; }
};

// What it took to decode some sequences together. Statistics are those of the timed steps.
struct OffloadRun {
  int sequences = 0;
  double prefill_s = 0.0;
  std::vector<double> step_s;                // [output_tokens]
  double stolen_s = 0.0;                     // of these, in the mean of all cores: StolenSeconds
  std::vector<LayerOffloadStats> layers;     // empty where every expert has a slot
  LinkUse link;                              // likewise zero
  std::vector<std::vector<TokenId>> tokens;  // of each sequence, with its prompt

  double Seconds() const;  // of all steps
  double TokensPerSecond() const { return sequences * StepsPerSecond(); }
  double StepsPerSecond() const { return static_cast<double>(step_s.size()) / Seconds(); }
};

// Prefills and decodes `sequences` random prompts on a runner that has pages for their positions.
OffloadRun RunOffload(ModelRunner& runner, int sequences, const OffloadBenchOptions& options);

// What the bytes that a run's steps could not do without take on a machine, in seconds a step.
struct ByteBound {
  double link_s = 0.0;  // experts that had no slot, over the link
  double host_s = 0.0;  // the same, and those computed on the CPU, read from host memory
  double gpu_s = 0.0;   // weights, keys and values, read where they are computed with
  double step_s = 0.0;  // the longest
  const char* bound = "";
};
ByteBound BoundOf(const OffloadRun& run, const ModelFootprint& model,
                  const HardwareProfile& profile, int context);

// The figures of a run: rates, hits, what went over the link, waits and the bound.
boost::json::object ToJson(const OffloadRun& run, const ByteBound& bound);

// The first sequence and token at which two runs of the same prompts differ, in words; empty where
// they do not. Sequences that only one of them has are left out.
std::string FirstDifference(const OffloadRun& a, const OffloadRun& b);

}  // namespace sluice
