#include "bench/offload.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <numeric>
#include <utility>

#include "base/check.h"
#include "base/machine.h"
#include "bench/decode_batch.h"
#include "bench/timing.h"
#include "plan/batch_theory.h"

namespace sluice {
namespace {

// Experts that were in a slot without having been brought for this run.
uint64_t Kept(const LayerOffloadStats& stats) {
  return stats.hits - std::min(stats.hits, stats.prefetch_used);
}

double Share(double part, double whole) {
  return whole > 0 ? part / whole : 0.0;
}

// What began before the steps that are measured and ends in them may count as more than all.
double AtMostAll(double share) {
  return std::min(1.0, share);
}

boost::json::object LayerJson(const LayerOffloadStats& stats) {
  return {{"requests", stats.requests},
          {"hits", stats.hits},
          {"misses", stats.misses},
          {"cpu", stats.cpu},
          {"failed", stats.failed},
          {"prefetched", stats.prefetched},
          {"prefetch_used", stats.prefetch_used},
          {"forecast", stats.forecast},
          {"forecast_hits", stats.forecast_hits},
          {"link_bytes", stats.link_bytes},
          {"disk_bytes", stats.disk_bytes},
          {"wait_s", stats.wait_s},
          {"between_s", stats.between_s}};
}

// What a runner's counters say now.
struct Counters {
  std::vector<LayerOffloadStats> layers;
  LinkUse link;

  explicit Counters(ModelRunner& runner) {
    if (runner.offload_stats() != nullptr) layers = runner.offload_stats()->layers;
    if (runner.link() != nullptr) link = runner.link()->Use();
  }
};

}  // namespace

double OffloadRun::Seconds() const {
  return std::accumulate(step_s.begin(), step_s.end(), 0.0);
}

OffloadRun RunOffload(ModelRunner& runner, int sequences, const OffloadBenchOptions& options) {
  SLUICE_CHECK_GE(options.output_tokens, 1);
  OffloadRun run{.sequences = sequences};
  DecodeBatch batch(runner, {.sequences = sequences,
                             .prompt_tokens = options.prompt_tokens,
                             .output_tokens = options.Positions() - options.prompt_tokens,
                             .seed = options.seed});
  const BenchClock::time_point start = BenchClock::now();
  batch.Step(0);
  run.prefill_s = SecondsSince(start);
  batch.Decode(options.warmup_tokens, [] {});
  const Counters before(runner);
  const double stolen_before = StolenSeconds();
  BenchClock::time_point last = BenchClock::now();
  batch.Decode(options.output_tokens, [&] {
    const BenchClock::time_point now = BenchClock::now();
    run.step_s.push_back(std::chrono::duration<double>(now - std::exchange(last, now)).count());
  });
  run.stolen_s = StolenSeconds() - stolen_before;
  const Counters after(runner);
  for (size_t i = 0; i < after.layers.size(); ++i) {
    run.layers.push_back(Since(before.layers[i], after.layers[i]));
  }
  run.link = {.copies = after.link.copies - before.link.copies,
              .bytes = after.link.bytes - before.link.bytes,
              .busy_s = after.link.busy_s - before.link.busy_s};
  run.tokens = batch.tokens();
  return run;
}

ByteBound BoundOf(const OffloadRun& run, const ModelFootprint& model,
                  const HardwareProfile& profile, int context) {
  const auto steps = static_cast<double>(run.step_s.size());
  const LayerOffloadStats total = Total(run.layers);
  // Where every expert has a slot nobody counts those that are needed.
  const double needed = run.layers.empty()
                            ? model.moe_layers * ExpectedDistinctExperts(model.num_experts,
                                                                         model.top_k, run.sequences)
                            : static_cast<double>(total.requests) / steps;
  const double without_slot = static_cast<double>(total.requests - Kept(total)) / steps;
  const double computed_there = static_cast<double>(total.cpu) / steps;
  ByteBound bound;
  bound.link_s = (without_slot - computed_there) * model.expert_bytes / *profile.link_bandwidth;
  bound.host_s = without_slot * model.expert_bytes / *profile.host_bandwidth;
  const double kv = static_cast<double>(run.sequences) * context * model.kv_bytes;
  const double experts = (needed - computed_there) * model.expert_bytes;
  bound.gpu_s = (model.resident_read_bytes + experts + kv) / *profile.gpu_bandwidth;
  const std::pair<double, const char*> paths[] = {
      {bound.link_s, "link"}, {bound.host_s, "host memory"}, {bound.gpu_s, "GPU memory"}};
  const auto& longest =
      *std::max_element(std::begin(paths), std::end(paths),
                        [](const auto& a, const auto& b) { return a.first < b.first; });
  bound.step_s = longest.first;
  bound.bound = longest.second;
  return bound;
}

boost::json::object ToJson(const OffloadRun& run, const ByteBound& bound) {
  const auto steps = static_cast<double>(run.step_s.size());
  const double seconds = run.Seconds();
  const LayerOffloadStats total = Total(run.layers);
  const auto requests = static_cast<double>(total.requests);
  boost::json::array layers;
  for (const LayerOffloadStats& layer : run.layers) layers.push_back(LayerJson(layer));
  const double bound_rate = run.sequences / bound.step_s;
  return {{"sequences", run.sequences},
          {"prefill_s", run.prefill_s},
          {"tokens_per_s", run.TokensPerSecond()},
          {"step_ms", 1e3 * seconds / steps},
          {"step_p50_ms", 1e3 * Median(run.step_s)},
          {"step_max_ms", 1e3 * Quantile(run.step_s, 1.0)},
          {"stolen_share", run.stolen_s / seconds},
          {"hit_rate", Share(static_cast<double>(Kept(total)), requests)},
          {"ready_rate", Share(static_cast<double>(total.hits), requests)},
          {"forecast_hit_rate",
           Share(static_cast<double>(total.forecast_hits), static_cast<double>(total.forecast))},
          {"prefetch_used_share", AtMostAll(Share(static_cast<double>(total.prefetch_used),
                                                  static_cast<double>(total.prefetched)))},
          {"cpu_share", Share(static_cast<double>(total.cpu), requests)},
          {"distinct_experts_per_step", requests / steps},
          {"link_bytes", run.link.bytes},
          {"link_copies", run.link.copies},
          {"disk_bytes", total.disk_bytes},
          {"link_bytes_per_s", Share(static_cast<double>(run.link.bytes), run.link.busy_s)},
          {"link_busy_share", AtMostAll(run.link.busy_s / seconds)},
          {"wait_within_ms", 1e3 * total.wait_s / steps},
          {"wait_between_ms", 1e3 * total.between_s / steps},
          {"bound_link_ms", 1e3 * bound.link_s},
          {"bound_host_ms", 1e3 * bound.host_s},
          {"bound_gpu_ms", 1e3 * bound.gpu_s},
          {"bound", bound.bound},
          {"bound_tokens_per_s", bound_rate},
          {"share_of_bound", run.TokensPerSecond() / bound_rate},
          {"experts", LayerJson(total)},
          {"layers", std::move(layers)},
          {"step_s", boost::json::array(run.step_s.begin(), run.step_s.end())}};
}

std::string FirstDifference(const OffloadRun& a, const OffloadRun& b) {
  const size_t sequences = std::min(a.tokens.size(), b.tokens.size());
  for (size_t s = 0; s < sequences; ++s) {
    const auto [left, right] = std::mismatch(a.tokens[s].begin(), a.tokens[s].end(),
                                             b.tokens[s].begin(), b.tokens[s].end());
    if (left == a.tokens[s].end() && right == b.tokens[s].end()) continue;
    return "sequence " + std::to_string(s) + " from token " +
           std::to_string(left - a.tokens[s].begin()) + " on";
  }
  return "";
}

}  // namespace sluice
