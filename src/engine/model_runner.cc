#include "engine/model_runner.h"

#include <algorithm>
#include <mutex>
#include <utility>
#include <vector>

#include "base/check.h"
#include "ops/attention/attention.h"
#include "ops/common/upload.h"

namespace sluice {
namespace {

// Rows whose logits are held at once: a batch's worth of decode rows, and a bound on memory when a
// long prompt is scored (64 rows of a 152k vocabulary are 39 MB).
constexpr int64_t kLogitRows = 64;

// What a server of the embedded model is measured to take beside weights, pages and scratch, with
// room for the tokenizer of a large vocabulary.
constexpr uint64_t kProcessBytes = 64 << 20;

constexpr DType kWeightDTypes[] = {DType::kF32, DType::kBF16, DType::kF16};

int ExpertsPerRank(const ModelSpec& spec, const RunnerOptions& options) {
  const int ranks = options.expert_parallel == nullptr ? 1 : options.expert_parallel->size();
  if (spec.moe.num_experts % ranks != 0) {
    throw Error(ErrorCode::kUnsupported, std::to_string(spec.moe.num_experts) +
                                             " experts cannot be shared evenly by " +
                                             std::to_string(ranks) + " expert-parallel ranks");
  }
  return spec.moe.num_experts / ranks;
}

// Floats of a row that attention takes: queries, what is written to the pages, what was attended.
int64_t AttentionRow(const AttentionSpec& a) {
  if (a.kind == AttentionKind::kHeads) {
    return (2 * int64_t{a.num_heads} + 2 * int64_t{a.num_kv_heads}) * a.head_dim;
  }
  const LatentSpec& l = a.latent;
  const int64_t head = int64_t{a.head_dim} + 2 * int64_t{l.kv_rank} + l.value_dim;
  return a.num_heads * head + l.q_rank + l.kv_rank + l.rope_dim;
}

// What the Decoder and MoeLayer take from the arena for a step, f32: residual, norms, projections
// and the wider of the two kinds of feed-forward, then the logits. The arena grows by doubling, so
// it may hold twice of it.
uint64_t ScratchBytes(const ModelSpec& spec, int64_t rows) {
  const int64_t dense = 3 * int64_t{spec.dense.intermediate};
  const int64_t routed = int64_t{spec.moe.top_k} * (spec.hidden_size + spec.moe.expert_ffn + 3);
  const int64_t moe = spec.moe.num_experts + routed + 3 * int64_t{spec.moe.shared_ffn};
  const int64_t row =
      4 * int64_t{spec.hidden_size} + AttentionRow(spec.attention) + std::max(dense, moe);
  const auto logits = kLogitRows * (spec.vocab_size + spec.hidden_size);
  return 2 * sizeof(float) * static_cast<uint64_t>(rows * row + logits);
}

ops::AttentionMask MaskOf(const ModelSpec& spec, StepMask mask) {
  return mask == StepMask::kTree ? ops::AttentionMask::kTree : spec.attention.mask;
}

void CheckFits(const MemoryNeeds& needs, const RunnerOptions& options) {
  const uint64_t available = AvailableMemory(options);
  if (needs.total() <= available) return;
  const bool cuda = options.cuda.has_value();
  const std::string process =
      cuda ? "" : ", the process itself " + FormatBytes(needs.process_bytes);
  throw Error(ErrorCode::kResourceExhausted,
              "needs " + FormatBytes(needs.total()) + (cuda ? " of GPU memory" : " of memory") +
                  " (weights " + FormatBytes(needs.weight_bytes) + ", KV cache " +
                  FormatBytes(needs.kv_bytes) + ", a step's scratch " +
                  FormatBytes(needs.scratch_bytes) + process + "), " + FormatBytes(available) +
                  " available: try a smaller --max-model-len or --max-num-seqs, --dtype bf16, or " +
                  (cuda ? "--device cpu" : "--expert-slots to keep fewer experts in memory"));
}

MemoryKind MemoryOf(const RunnerOptions& options) {
  return options.cuda.has_value() ? MemoryKind::kCuda : MemoryKind::kHost;
}

// Adds up what loading threads read. Copies share the count.
OnBytesRead CountBytes(int64_t total, const LoadProgress& progress) {
  if (!progress) return {};
  struct Count {
    std::mutex mutex;
    int64_t done = 0;
  };
  return [count = std::make_shared<Count>(), total, progress](int64_t bytes) {
    std::lock_guard lock(count->mutex);
    if (count->done >= total) return;  // loaded: experts that are read again later are no progress
    count->done = std::min(total, count->done + bytes);
    progress(count->done, total);
  };
}

}  // namespace

std::span<const DType> WeightDTypes() {
  return kWeightDTypes;
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

MemoryNeeds EstimateMemory(const ModelSpec& spec, const RunnerOptions& options) {
  MemoryNeeds needs;
  needs.weight_bytes = WeightBytes(spec, options.dtype);
  const auto moe_layers = static_cast<int64_t>(MoeLayers(spec).size());
  if (moe_layers > 0) {
    // The table counts every expert; the store may hold fewer.
    const int64_t expert = ExpertLayoutOf(spec, options.dtype).SlotBytes();
    const int64_t all = moe_layers * spec.moe.num_experts;
    const int64_t local = moe_layers * ExpertsPerRank(spec, options);
    const int64_t held =
        options.expert_slots == 0 ? local : std::min<int64_t>(options.expert_slots, local);
    needs.weight_bytes -= std::min<int64_t>(needs.weight_bytes, (all - held) * expert);
    needs.expert_bytes = held * expert;
  }
  needs.kv_bytes = KvLayoutOf(spec, options).BytesPerPage() * options.num_pages;
  needs.scratch_bytes = ScratchBytes(spec, options.max_step_rows);
  needs.process_bytes = options.cuda.has_value() ? 0 : kProcessBytes;
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

ModelRunner::ModelRunner(const ModelSpec& spec, const WeightSource& source,
                         const RunnerOptions& options, std::unique_ptr<RoutingSource> routing,
                         const LoadProgress& progress)
    : spec_(spec),
      options_(options),
      pool_(options.num_threads),
      stream_(options.cuda.has_value() ? std::make_unique<CudaStream>(*options.cuda) : nullptr),
      arena_(MemoryOf(options)),
      staging_(MemoryKind::kPinned),
      routing_(std::move(routing)) {
  SLUICE_CHECK(routing_ != nullptr);
  SLUICE_CHECK_GE(options_.num_pages, 1);
  SLUICE_CHECK_LE(options_.max_model_len, spec_.max_positions);
  Validate(spec_);
  const MemoryNeeds needs = EstimateMemory(spec_, options_);
  CheckFits(needs, options_);
  if (stream_ != nullptr) stream_->SetBlocking(options_.blocking_launches);

  // Experts that are read when they are needed are not part of loading.
  const bool experts_wait = options_.expert_slots > 0;
  const uint64_t loaded = needs.weight_bytes - (experts_wait ? needs.expert_bytes : 0);
  const OnBytesRead on_read = CountBytes(static_cast<int64_t>(loaded), progress);
  weights_ =
      std::make_unique<ModelWeights>(spec_, source, options_.dtype, pool_, on_read, stream_.get());
  moe_layers_ = MoeLayers(spec_);
  if (!moe_layers_.empty()) {
    const int local = ExpertsPerRank(spec_, options_);
    ProcessGroup* group = options_.expert_parallel;
    expert_source_ =
        std::make_unique<CheckpointExperts>(spec_, source, experts_wait ? OnBytesRead() : on_read);
    experts_ = std::make_unique<ExpertStore>(
        ExpertLayoutOf(spec_, options_.dtype),
        ExpertStore::Options{.layers = moe_layers_,
                             .num_experts = local,
                             .first_expert = group == nullptr ? 0 : group->rank() * local,
                             .num_slots = options_.expert_slots,
                             .poison_freed = options_.poison_freed_slots,
                             .memory = MemoryOf(options_),
                             .stream = stream_.get()},
        *expert_source_, pool_);
    dispatcher_ = group == nullptr ? MakeLocalDispatcher(spec_.moe.num_experts)
                                   : MakeAllToAllDispatcher(spec_.moe.num_experts, *group);
  }
  pages_ = std::make_unique<PagePool>(KvLayoutOf(spec_, options_), options_.num_pages,
                                      MemoryOf(options_));
  decoder_ = std::make_unique<Decoder>(spec_, *weights_);
}

ModelRunner::~ModelRunner() = default;

WorkerInfo ModelRunner::Info() const {
  return {.vocab_size = spec_.vocab_size,
          .max_model_len = options_.max_model_len,
          .page_size = options_.page_size,
          .num_pages = options_.num_pages};
}

// The plan's rows laid behind each other, as the Decoder takes them.
struct ModelRunner::Rows {
  std::vector<int32_t> tokens;
  std::vector<int32_t> positions;
  std::vector<int64_t> kv_slots;
  std::vector<ops::AttentionSequence> sequences;
  std::vector<RoutingKey> keys;  // [T]
  // The rows whose logits are wanted: whose they are, and where they are among all.
  std::vector<WantedRow> wanted;
  std::vector<int32_t> wanted_rows;
};

ModelRunner::Rows ModelRunner::GatherRows(const StepPlan& plan) {
  Rows rows;
  int begin = 0;
  for (size_t s = 0; s < plan.slices.size(); ++s) {
    const SequenceSlice& slice = plan.slices[s];
    const int count = static_cast<int>(slice.tokens.size());
    SLUICE_CHECK_EQ(slice.positions.size(), slice.tokens.size());
    SLUICE_CHECK_EQ(slice.kv_positions.size(), slice.tokens.size());
    rows.tokens.insert(rows.tokens.end(), slice.tokens.begin(), slice.tokens.end());
    rows.positions.insert(rows.positions.end(), slice.positions.begin(), slice.positions.end());
    for (int i = 0; i < count; ++i) {
      const int position = slice.kv_positions[i];
      SLUICE_CHECK_LT(position, slice.kv_length);
      const int64_t page = slice.pages.at(position / options_.page_size);
      rows.kv_slots.push_back(page * options_.page_size + position % options_.page_size);
      rows.keys.push_back({.sequence = slice.sequence, .position = slice.positions[i]});
    }
    rows.sequences.push_back({.query_begin = begin,
                              .query_count = count,
                              .positions = slice.positions,
                              .pages = slice.pages,
                              .kv_length = slice.kv_length,
                              .mask = MaskOf(spec_, slice.mask),
                              .ancestors = slice.ancestors,
                              .slots_of_queries = slice.kv_positions});
    std::vector<int32_t> wanted(slice.sample_rows);
    for (const SequenceSlice::ScoreRow& score : slice.score_rows) wanted.push_back(score.row);
    std::sort(wanted.begin(), wanted.end());
    wanted.erase(std::unique(wanted.begin(), wanted.end()), wanted.end());
    for (int32_t row : wanted) {
      SLUICE_CHECK_LT(row, count);
      rows.wanted.push_back({.slice = static_cast<int>(s), .row = row});
      rows.wanted_rows.push_back(begin + row);
    }
    begin += count;
  }
  return rows;
}

void ModelRunner::Run(const StepPlan& plan, const LogitsSink& sink) {
  const Arena::Scope scope(arena_);
  const Arena::Scope staging_scope(staging_);
  ops::OpContext ctx{.pool = pool_,
                     .arena = arena_,
                     .tier = options_.tier,
                     .reference = options_.reference_ops,
                     .cuda = stream_.get(),
                     .staging = &staging_};
  // All that the host tells the step first: what follows can be a recorded graph.
  const Rows rows = GatherRows(plan);
  const DecoderInput input{.tokens = ops::Upload(std::span(rows.tokens), ctx),
                           .positions = ops::Upload(std::span(rows.positions), ctx),
                           .kv_slots = ops::Upload(std::span(rows.kv_slots), ctx),
                           .attention = ops::PlaceSequences(rows.sequences, ctx)};
  const ConstTensorView hidden_rows = ops::Upload(std::span(rows.wanted_rows), ctx);
  std::optional<StepRouting> routing;
  std::optional<MoeContext> moe;
  if (experts_ != nullptr) {
    routing.emplace(StepRouting::Options{.layers = moe_layers_,
                                         .top_k = spec_.moe.top_k,
                                         .source = *routing_,
                                         .observer = options_.observer,
                                         .step = plan.step,
                                         .tokens = rows.keys},
                    ctx);
    moe.emplace(MoeContext{.experts = *experts_, .dispatcher = *dispatcher_, .routing = *routing});
  }

  const int64_t wanted = std::ssize(rows.wanted);
  const int64_t first_wanted = std::min(kLogitRows, wanted);
  const auto compute = [&] {
    const TensorView hidden = decoder_->Forward(input, *pages_, moe ? &*moe : nullptr, ctx);
    return StepOutput{.hidden = hidden,
                      .logits = decoder_->Logits(hidden, hidden_rows.Slice(0, first_wanted), ctx)};
  };
  const std::optional<StepShape> shape =
      RecordableShape(rows, input, routing ? &*routing : nullptr);
  const StepOutput output = shape ? graphs_.Run(*shape, *stream_, compute) : compute();
  Deliver(rows.wanted, 0, output.logits, sink);
  for (int64_t begin = first_wanted; begin < wanted; begin += kLogitRows) {
    const Arena::Scope chunk_scope(arena_);
    const ConstTensorView chunk = hidden_rows.Slice(begin, std::min(begin + kLogitRows, wanted));
    Deliver(rows.wanted, begin, decoder_->Logits(output.hidden, chunk, ctx), sink);
  }
  if (routing) routing->Report();
  // The next step writes the staging memory and the arena anew.
  if (stream_ != nullptr) stream_->Synchronize();
}

std::optional<StepShape> ModelRunner::RecordableShape(const Rows& rows, const DecoderInput& input,
                                                      const StepRouting* routing) const {
  const bool decodes = std::all_of(rows.sequences.begin(), rows.sequences.end(),
                                   [](const auto& sequence) { return sequence.query_count == 1; });
  const bool fits = std::ssize(rows.wanted) <= kLogitRows;
  if (stream_ == nullptr || stream_->blocking() || !decodes || !fits) return std::nullopt;
  if (routing != nullptr && !routing->Recordable()) return std::nullopt;
  const ops::PlacedSequences& placed = input.attention.placed;
  return StepShape{.rows = input.tokens.dim(0),
                   .wanted = std::ssize(rows.wanted),
                   .table_width = placed.page_table.dim(1),
                   .kv_length = placed.max_kv_length,
                   .tree = placed.any_tree,
                   .routing_given = routing != nullptr && routing->given(),
                   .routing_kept = routing != nullptr && routing->kept()};
}

void ModelRunner::Deliver(std::span<const WantedRow> wanted, int64_t begin, ConstTensorView logits,
                          const LogitsSink& sink) {
  const Arena::Scope staging_scope(staging_);
  const ConstTensorView host = OnHost(logits);
  pool_.ParallelFor(host.dim(0), 1, [&](int64_t first, int64_t last, int thread) {
    for (int64_t i = first; i < last; ++i) {
      const WantedRow& row = wanted[begin + i];
      sink({.slice = row.slice,
            .row = row.row,
            .thread = thread,
            .logits = {host[i].data<float>(), static_cast<size_t>(spec_.vocab_size)}});
    }
  });
}

ConstTensorView ModelRunner::OnHost(ConstTensorView logits) {
  if (stream_ == nullptr || logits.dim(0) == 0) return logits;
  const TensorView host = staging_.Allocate(logits.dtype(), logits.shape());
  stream_->Copy(host.raw(), logits.raw(), logits.NumBytes());
  stream_->Synchronize();
  return host;
}

}  // namespace sluice
