#include "engine/memory_plan.h"

#include <algorithm>
#include <bit>
#include <string>

#include "base/error.h"
#include "device/cuda_stream.h"
#include "model/model_weights.h"
#include "sampling/device_sampler.h"

namespace sluice {
namespace {

// What a server of the embedded model is measured to take beside weights, pages and scratch, with
// room for the tokenizer of a large vocabulary.
constexpr uint64_t kProcessBytes = 64 << 20;
// What a CUDA device is measured to hold beside them once a runner has worked: kernels' code and
// recorded steps.
constexpr uint64_t kDeviceProcessBytes = 320 << 20;
// Partial sums of products and of attention that are cut so that each multiprocessor has a part:
// they do not grow with the step.
constexpr uint64_t kPartialSumBytes = 64 << 20;
// Most rows whose logits are held at once, and the fewest that room is made for: 64 rows of a 152k
// vocabulary are 39 MB.
constexpr int64_t kMaxLogitRows = 256;
constexpr int64_t kMinLogitRows = 64;

constexpr DType kWeightDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

// Bytes of a row that attention takes: its input, queries, what is written to the pages, what was
// attended. `product` is the size of an element of a product's input.
int64_t AttentionRow(const ModelSpec& spec, int64_t product) {
  const AttentionSpec& a = spec.attention;
  const auto size = static_cast<int64_t>(sizeof(float));
  const int64_t input = product * spec.hidden_size;
  if (a.kind == AttentionKind::kHeads) {
    const int64_t queries = int64_t{a.num_heads} * a.head_dim;
    const int64_t keys = int64_t{a.num_kv_heads} * a.head_dim;
    return input + size * (queries + 2 * keys) + product * queries;
  }
  const LatentSpec& l = a.latent;
  const int64_t head = int64_t{a.head_dim} + 2 * int64_t{l.kv_rank} + l.value_dim;
  const int64_t row = a.num_heads * head + l.q_rank + l.kv_rank + l.rope_dim;
  // What goes from one product into another is narrowed on the way.
  const int64_t narrowed = int64_t{a.num_heads} * std::max(l.kv_rank, l.value_dim);
  return input + size * row + product * narrowed;
}

// Bytes of a row that the wider of the two kinds of feed-forward takes.
int64_t FeedForwardRow(const ModelSpec& spec, int64_t product) {
  const auto size = static_cast<int64_t>(sizeof(float));
  const int64_t input = product * spec.hidden_size;
  const int64_t dense = (2 * size + product) * spec.dense.intermediate;
  const MoeSpec& m = spec.moe;
  const int64_t choice = size * spec.hidden_size + product * m.expert_ffn + 4 * size;
  const int64_t shared = m.shared_ffn == 0 ? 0
                                           : (2 * size + product) * m.shared_ffn +
                                                 size * (spec.hidden_size + int64_t{1});
  const int64_t routed = size * m.num_experts + m.top_k * choice + shared;
  return input + std::max(dense, m.num_experts > 0 ? routed : 0);
}

// What the Decoder takes from the arena for a step: residual, norms and angles of every row, and
// the widest of a layer's parts; or the logits.
uint64_t ScratchBytes(const ModelSpec& spec, const RunnerOptions& options) {
  const auto size = static_cast<int64_t>(sizeof(float));
  const bool cuda = options.cuda.has_value();
  const int64_t product = cuda ? static_cast<int64_t>(SizeOf(options.dtype)) : size;
  const int64_t rows = options.max_step_rows;
  const int64_t lasting = rows * size * (2 * spec.hidden_size + spec.attention.rope.rotary_dim);
  const int64_t attention = rows * AttentionRow(spec, product);
  const int64_t feed_forward = rows * FeedForwardRow(spec, product);
  const int64_t logits =
      MaxLogitRows(options) * (size * spec.vocab_size + (size + product) * spec.hidden_size);
  if (cuda) {
    return static_cast<uint64_t>(lasting + std::max({attention, feed_forward, logits})) +
           kPartialSumBytes;
  }
  // The host's arena grows by doubling, so it may hold twice of what is asked for.
  return 2 * static_cast<uint64_t>(lasting + attention + feed_forward + logits);
}

int64_t PagesOf(int64_t positions, int page_size) {
  return (positions + page_size - 1) / page_size;
}

// What the host tells a step's kernels: tokens, places, page tables, experts that are given, slots
// of those that come while it runs.
uint64_t InboxBytes(const ModelSpec& spec, const RunnerOptions& options) {
  constexpr int64_t kRowBytes = 64;
  constexpr int64_t kSequenceBytes = 512;
  constexpr int64_t kAlignment = 256;
  constexpr int64_t kPieces = 16 * kAlignment;
  constexpr int64_t kWaves = 24;  // of a layer's experts, where nearly all of many have to come
  const auto layers = static_cast<int64_t>(MoeLayers(spec).size());
  const int64_t given = layers * spec.moe.top_k * 2 * static_cast<int64_t>(sizeof(float));
  const auto table =
      std::bit_ceil(static_cast<uint64_t>(PagesOf(options.max_model_len, options.page_size)));
  const bool streams = options.expert_slots > 0;
  const int64_t slots =
      streams ? layers * kWaves * (4 * int64_t{spec.moe.num_experts} + kAlignment) : 0;
  const int64_t sequences = (streams ? 2 : 1) * options.max_sequences;  // all, and parts of a step
  return static_cast<uint64_t>(options.max_step_rows * (kRowBytes + given) +
                               sequences * kSequenceBytes + kPieces + slots) +
         sequences * table * sizeof(int32_t);
}

// What would fit beside the weights and a step, and by which flag.
std::string Advice(const ModelSpec& spec, const RunnerOptions& options, const MemoryNeeds& needs,
                   uint64_t available) {
  const std::string last =
      std::string(options.dtype == DType::kF32 ? "--dtype bf16, or " : "") +
      (options.cuda.has_value()
           ? "--vram-budget to keep experts in the host's memory"
           : "--vram-budget or --expert-slots to keep fewer experts in memory");
  const uint64_t fixed = needs.total() - needs.kv_bytes;
  const auto page = static_cast<uint64_t>(KvLayoutOf(spec, options).BytesPerPage());
  const uint64_t pages = available > fixed ? (available - fixed) / page : 0;
  if (pages == 0) {
    const std::string step =
        needs.scratch_bytes > needs.total() / 10 ? "a smaller --max-num-batched-tokens, " : "";
    return "not one KV page fits beside the rest: try " + step + last;
  }
  const int64_t positions = static_cast<int64_t>(pages) * options.page_size;
  const int64_t each = std::max<int64_t>(1, PagesOf(options.max_model_len, options.page_size));
  const int64_t sequences = static_cast<int64_t>(pages) / each;
  std::string fits = "one sequence of " +
                     std::to_string(std::min<int64_t>(positions, spec.max_positions)) +
                     " positions would fit (--max-model-len)";
  if (sequences > 0) {
    fits += ", or " + std::to_string(sequences) + " of " + std::to_string(options.max_model_len) +
            " (--max-num-seqs, --batch-size in bench)";
  }
  return fits + "; or try " + last;
}

// What a CUDA device's runner takes of the host's memory.
void CheckHostFits(const MemoryNeeds& needs) {
  const uint64_t host = QueryMemory().available_bytes;
  if (needs.swap_bytes + needs.host_expert_bytes <= host) return;
  const bool experts = needs.host_expert_bytes > needs.swap_bytes;
  throw Error(ErrorCode::kResourceExhausted,
              "needs " + FormatBytes(needs.swap_bytes + needs.host_expert_bytes) +
                  " of the host's memory (pages for what is swapped out " +
                  FormatBytes(needs.swap_bytes) + ", experts " +
                  FormatBytes(needs.host_expert_bytes) + "), " + FormatBytes(host) +
                  " available: try a smaller " + (experts ? "--ram-budget" : "--swap-space"));
}

}  // namespace

std::span<const DType> WeightDTypes() {
  return kWeightDTypes;
}

int64_t MaxLogitRows(const RunnerOptions& options) {
  return std::clamp<int64_t>(options.max_sequences, kMinLogitRows, kMaxLogitRows);
}

KvLayout KvLayoutOf(const ModelSpec& spec, const RunnerOptions& options) {
  const DType weights = options.dtype == DType::kF16 ? DType::kF32 : options.dtype;
  const AttentionSpec& attention = spec.attention;
  KvGroup group{.num_layers = spec.num_layers,
                .num_kv_heads = attention.num_kv_heads,
                .head_dim = attention.head_dim,
                .dtype = options.kv_dtype.value_or(weights)};
  if (attention.kind == AttentionKind::kLatent) {
    group.kind = KvGroup::Kind::kLatent;
    group.num_kv_heads = 1;
    group.head_dim = attention.latent.kv_rank + attention.latent.rope_dim;
  }
  return {.page_size = options.page_size, .groups = {group}};
}

bool RunsLayerGroups(const RunnerOptions& options) {
  return options.expert_slots > 0 && options.offload.prefill_layer_groups > 1;
}

int LocalExperts(const ModelSpec& spec, const RunnerOptions& options) {
  const int ranks = options.expert_parallel == nullptr ? 1 : options.expert_parallel->size();
  if (spec.moe.num_experts % ranks != 0) {
    throw Error(ErrorCode::kUnsupported, std::to_string(spec.moe.num_experts) +
                                             " experts cannot be shared evenly by " +
                                             std::to_string(ranks) + " expert-parallel ranks");
  }
  return spec.moe.num_experts / ranks;
}

MemoryNeeds EstimateMemory(const ModelSpec& spec, const RunnerOptions& options) {
  MemoryNeeds needs;
  needs.weight_bytes = WeightBytes(spec, options.dtype);
  if (options.shared_weights != nullptr) needs.shared_bytes = options.shared_weights->NumBytes();
  const auto moe_layers = static_cast<int64_t>(MoeLayers(spec).size());
  if (moe_layers > 0) {
    // The table counts every expert; the store may hold fewer.
    const int64_t expert = ExpertLayoutOf(spec, options.dtype).SlotBytes();
    const int64_t all = moe_layers * spec.moe.num_experts;
    const int64_t local = moe_layers * LocalExperts(spec, options);
    const int64_t held =
        options.expert_slots == 0 ? local : std::min<int64_t>(options.expert_slots, local);
    needs.weight_bytes -= std::min<int64_t>(needs.weight_bytes, (all - held) * expert);
    needs.expert_bytes = held * expert;
    const bool own_tier = options.expert_slots > 0 && options.offload.shared_host == nullptr;
    if (own_tier) needs.host_expert_bytes = options.offload.host_slots * expert;
    if (!options.cuda.has_value()) needs.weight_bytes += needs.host_expert_bytes;
  }
  const int64_t page_bytes = KvLayoutOf(spec, options).BytesPerPage();
  needs.kv_bytes = page_bytes * options.num_pages;
  needs.swap_bytes = page_bytes * options.num_host_pages;
  if (!options.cuda.has_value()) needs.kv_bytes += needs.swap_bytes;
  needs.arena_bytes = ScratchBytes(spec, options);
  needs.scratch_bytes = needs.arena_bytes;
  if (RunsLayerGroups(options)) {
    needs.scratch_bytes += int64_t{options.max_step_rows} * spec.hidden_size * sizeof(float);
  }
  needs.process_bytes = kProcessBytes;
  if (options.cuda.has_value()) {
    needs.inbox_bytes = InboxBytes(spec, options);
    needs.scratch_bytes +=
        needs.inbox_bytes + DeviceSampler::DeviceBytes(static_cast<int>(MaxLogitRows(options)));
    needs.process_bytes = kDeviceProcessBytes;
  }
  return needs;
}

uint64_t AvailableMemory(const RunnerOptions& options) {
  if (!options.cuda.has_value()) return QueryMemory().available_bytes;
  const CudaDeviceInfo device = FindCudaDevice(*options.cuda);
  const uint64_t free = CudaFreeBytes(device.ordinal);
  const double reserved =
      (1.0 - options.gpu_memory_utilization) * static_cast<double>(device.total_bytes);
  return free - std::min(free, static_cast<uint64_t>(std::max(0.0, reserved)));
}

void CheckFits(const ModelSpec& spec, const RunnerOptions& options, const MemoryNeeds& needs) {
  const bool cuda = options.cuda.has_value();
  if (cuda) CheckHostFits(needs);
  const uint64_t available = AvailableMemory(options) + needs.shared_bytes;
  if (needs.total() <= available) return;
  throw Error(ErrorCode::kResourceExhausted,
              "needs " + FormatBytes(needs.total()) + (cuda ? " of GPU memory" : " of memory") +
                  " (weights " + FormatBytes(needs.weight_bytes) + ", KV cache " +
                  FormatBytes(needs.kv_bytes) + ", a step's scratch " +
                  FormatBytes(needs.scratch_bytes) + ", " +
                  (cuda ? "kernels and recorded steps " : "the process itself ") +
                  FormatBytes(needs.process_bytes) + "), " + FormatBytes(available) +
                  " available: " + Advice(spec, options, needs, available));
}

}  // namespace sluice
