#include "bench/latency.h"

#include <algorithm>
#include <boost/json/array.hpp>
#include <chrono>
#include <set>
#include <utility>

#include "base/check.h"
#include "bench/bandwidth.h"
#include "bench/decode_batch.h"
#include "bench/timing.h"
#include "trace/router_observer.h"

namespace sluice {
namespace {

using Clock = BenchClock;

// Counts the (layer, expert) pairs that each step reads.
class DistinctExperts : public RouterObserver {
 public:
  void Observe(uint64_t, int, std::span<const RoutingKey>, ConstTensorView,
               ConstTensorView ids) override {
    const int32_t* id = ids.data<int32_t>();
    total_ += static_cast<int64_t>(std::set<int32_t>(id, id + ids.NumElements()).size());
    ++layers_;
  }
  void Reset() { total_ = layers_ = 0; }
  double PerLayer() const {
    return layers_ == 0 ? 0.0 : static_cast<double>(total_) / static_cast<double>(layers_);
  }

 private:
  int64_t total_ = 0;
  int64_t layers_ = 0;
};

// What was planned of memory and what was taken, and by how much that is more than the plan.
boost::json::object MemoryJson(const ModelRunner& runner) {
  const MemoryUse use = runner.Memory();
  const MemoryNeeds& planned = use.planned;
  boost::json::object memory{{"planned_bytes", planned.total()},
                             {"weight_bytes", planned.weight_bytes},
                             {"kv_bytes", planned.kv_bytes},
                             {"scratch_bytes", planned.scratch_bytes},
                             {"process_bytes", planned.process_bytes},
                             {"arena_bytes", planned.arena_bytes},
                             {"arena_peak_bytes", use.arena_peak_bytes}};
  if (runner.stream() == nullptr) return memory;
  memory["taken_bytes"] = use.taken_bytes;
  memory["taken_over_planned"] =
      static_cast<double>(use.taken_bytes) / static_cast<double>(planned.total());
  memory["recorded_graphs"] = runner.graphs().recorded();
  return memory;
}

boost::json::array ToJson(const std::vector<double>& values) {
  return boost::json::array(values.begin(), values.end());
}

// Bytes that a decode step must read: all weights but the embedding rows it does not use, the
// distinct experts it touches, and the keys and values of the context.
double DecodeStepBytes(const ModelRunner& runner, const LatencyOptions& options,
                       double experts_per_layer) {
  const ModelSpec& spec = runner.spec();
  const auto dtype = runner.options().dtype;
  double bytes = static_cast<double>(ActiveBytesPerToken(spec, dtype));
  const auto moe_layers = static_cast<double>(MoeLayers(spec).size());
  if (moe_layers > 0) {
    const double expert =
        3.0 * spec.hidden_size * spec.moe.expert_ffn * static_cast<double>(SizeOf(dtype));
    bytes += moe_layers * expert * (experts_per_layer - spec.moe.top_k);
  }
  const KvLayout kv = KvLayoutOf(spec, runner.options());
  const double context = options.prompt_tokens + options.output_tokens / 2.0;
  return bytes + options.batch * context * static_cast<double>(kv.BytesPerPage()) / kv.page_size;
}

// Multiplications and additions of a decode step: two for each weight that a token meets, and the
// scores and sums of attention over half the output's context.
double DecodeStepFlops(const ModelRunner& runner, const LatencyOptions& options) {
  const ModelSpec& spec = runner.spec();
  const AttentionSpec& a = spec.attention;
  auto weights = static_cast<double>(ActiveParameterCount(spec));
  if (!spec.tie_embeddings) weights -= static_cast<double>(spec.vocab_size) * spec.hidden_size;
  const double context = options.prompt_tokens + options.output_tokens / 2.0;
  const int width =
      a.kind == AttentionKind::kLatent ? 2 * a.latent.kv_rank + a.latent.rope_dim : 2 * a.head_dim;
  const double attention = context * a.num_heads * width * spec.num_layers;
  return 2.0 * options.batch * (weights + attention);
}

DecodeBatch::Options BatchOf(const LatencyOptions& options) {
  return {.sequences = options.batch,
          .prompt_tokens = options.prompt_tokens,
          .output_tokens = options.output_tokens,
          .prefill_chunk = options.prefill_chunk,
          .seed = options.seed};
}

void CheckOptions(const ModelRunner& runner, const LatencyOptions& options) {
  SLUICE_CHECK_GE(options.batch, 1);
  SLUICE_CHECK_GE(options.prompt_tokens, 1);
  SLUICE_CHECK_GE(options.prefill_chunk, 0);
  SLUICE_CHECK_GE(options.output_tokens, 2);
  SLUICE_CHECK_GE(options.repeats, 1);
  if (options.prompt_tokens + options.output_tokens > runner.options().max_model_len) {
    throw Error(
        ErrorCode::kInvalidArgument,
        "prompt and output are " + std::to_string(options.prompt_tokens + options.output_tokens) +
            " tokens, the model's context has " + std::to_string(runner.options().max_model_len));
  }
}

}  // namespace

boost::json::object BenchLatency(ModelRunner& runner, const LatencyOptions& options) {
  CheckOptions(runner, options);
  DecodeBatch batch(runner, BatchOf(options));
  DistinctExperts experts;
  // Seconds, [repeats] and twice [repeats * (output - 1)].
  std::vector<double> prefill, decode, host;
  // One run counts the experts, so that nobody looks on while the clock runs; one warms up.
  for (int repeat = -2; repeat < options.repeats; ++repeat) {
    batch.Reset();
    const Clock::time_point start = Clock::now();
    batch.Step(0);
    if (repeat >= 0) prefill.push_back(SecondsSince(start));
    if (repeat == -2) runner.SetObserver(&experts);
    double waited = runner.SecondsWaited();
    Clock::time_point last = Clock::now();
    batch.Decode(options.output_tokens - 1, [&] {
      const Clock::time_point now = Clock::now();
      const std::chrono::duration<double> step = now - std::exchange(last, now);
      const double wait = runner.SecondsWaited() - waited;
      waited += wait;
      if (repeat < 0) return;
      decode.push_back(step.count());
      host.push_back(step.count() - wait);
    });
    runner.SetObserver(nullptr);
  }
  const boost::json::object memory = MemoryJson(runner);
  const double step_bytes = DecodeStepBytes(runner, options, experts.PerLayer());
  const double bandwidth =
      runner.stream() != nullptr
          ? MeasureDeviceBandwidth(*runner.stream())
          : MeasureReadBandwidth(runner.pool(), static_cast<int64_t>(step_bytes));
  const double floor = step_bytes / bandwidth;
  const double tpot = Median(decode);
  return {{"batch", options.batch},
          {"prompt_tokens", options.prompt_tokens},
          {"output_tokens", options.output_tokens},
          {"prefill_chunk", options.prefill_chunk},
          {"ttft_ms", Median(prefill) * 1e3},
          {"prefill_tokens_per_s", options.batch * options.prompt_tokens / Median(prefill)},
          {"tpot_ms", tpot * 1e3},
          {"decode_tokens_per_s", options.batch / tpot},
          {"distinct_experts_per_layer", experts.PerLayer()},
          {"decode_step_bytes", step_bytes},
          {"decode_step_flops", DecodeStepFlops(runner, options)},
          {"read_bandwidth_bytes_per_s", bandwidth},
          {"floor_ms", floor * 1e3},
          {"share_of_floor", floor / tpot},
          {"memory", memory},
          {"decode_host_ms", runner.stream() == nullptr ? 0.0 : Median(host) * 1e3},
          {"prefill_s", ToJson(prefill)},
          {"decode_step_s", ToJson(decode)}};
}

boost::json::object BenchKvCache(ModelRunner& runner, const LatencyOptions& options) {
  CheckOptions(runner, options);
  DecodeBatch batch(runner, BatchOf(options));
  std::vector<double> with, without, ttft;
  std::vector<std::vector<TokenId>> expected;
  bool same_tokens = true;
  for (int repeat = -1; repeat < options.repeats; ++repeat) {
    batch.Reset();
    Clock::time_point start = Clock::now();
    batch.Step(0);
    const double first = SecondsSince(start);
    for (int i = 1; i < options.output_tokens; ++i) batch.Step(batch.length() - 1);
    const double cached = SecondsSince(start);
    expected = batch.tokens();

    batch.Reset();
    start = Clock::now();
    for (int i = 0; i < options.output_tokens; ++i) batch.Step(0);
    const double uncached = SecondsSince(start);
    // On the CPU the order of sums does not depend on the cache.
    same_tokens = same_tokens && batch.tokens() == expected;
    SLUICE_CHECK(same_tokens || runner.stream() != nullptr);
    if (repeat < 0) continue;
    ttft.push_back(first);
    with.push_back(cached);
    without.push_back(uncached);
  }
  const double tokens = static_cast<double>(options.batch) * options.output_tokens;
  return {{"batch", options.batch},
          {"prompt_tokens", options.prompt_tokens},
          {"output_tokens", options.output_tokens},
          {"ttft_ms", Median(ttft) * 1e3},
          {"with_cache_ms", Median(with) * 1e3},
          {"with_cache_tokens_per_s", tokens / Median(with)},
          {"without_cache_ms", Median(without) * 1e3},
          {"without_cache_tokens_per_s", tokens / Median(without)},
          {"ratio", Median(without) / Median(with)},
          {"same_tokens", same_tokens},
          {"with_cache_s", ToJson(with)},
          {"without_cache_s", ToJson(without)}};
}

}  // namespace sluice
