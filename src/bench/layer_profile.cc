#include "bench/layer_profile.h"

#include <algorithm>
#include <cstring>
#include <numeric>
#include <vector>

#include "base/error.h"
#include "bench/timing.h"
#include "moe/moe_layer.h"
#include "ops/common/upload.h"
#include "ops/gemm/gemm.h"

namespace sluice {
namespace {

// Weights that calls take in turn: more than caches hold.
constexpr int64_t kTurnBytes = int64_t{256} << 20;
// Each byte of weights and pages that no source fills: 0.0115 in bf16 and f32, 1.06 in f16.
constexpr uint8_t kByte = 0x3c;

int64_t TensorBytes(const TensorRule& rule, DType dtype) {
  return rule.shape.NumElements() * static_cast<int64_t>(SizeOf(dtype));
}

// Bytes of what every layer has: attention and norms.
int64_t AttentionBytes(const ModelSpec& spec, DType dtype) {
  int64_t bytes = 0;
  for (const TensorRule& rule : spec.tensors) {
    if (rule.layers == LayerSet::kAll) bytes += TensorBytes(rule, dtype);
  }
  return bytes;
}

int64_t GateBytes(const ModelSpec& spec, DType dtype) {
  int64_t bytes = 0;
  for (const TensorRole role : {TensorRole::kRouter, TensorRole::kRouterBias}) {
    const TensorRule* rule = FindRule(spec, role);
    if (rule != nullptr) bytes += TensorBytes(*rule, dtype);
  }
  return bytes;
}

// The model cut to `layers` layers, all with experts, and a small vocabulary.
ModelSpec CutTo(const ModelSpec& spec, int layers) {
  ModelSpec cut = spec;
  cut.num_layers = layers;
  cut.ffn.assign(layers, FfnKind::kMoe);
  if (!cut.attention.windowed.empty()) cut.attention.windowed.resize(layers);
  cut.vocab_size = 16;
  for (TensorRule& rule : cut.tensors) {
    const bool vocabulary = rule.role == TensorRole::kEmbedding || rule.role == TensorRole::kLmHead;
    if (vocabulary) rule.shape[0] = cut.vocab_size;
  }
  return cut;
}

int LayersToKeep(const ModelSpec& spec, DType dtype) {
  if (spec.NumMoeLayers() == 0) {
    throw Error(ErrorCode::kUnsupported,
                "the model has no layer with experts, whose latencies were asked for");
  }
  const int64_t one = AttentionBytes(spec, dtype) + GateBytes(spec, dtype);
  return static_cast<int>(std::clamp<int64_t>(kTurnBytes / one, 1, spec.NumMoeLayers()));
}

class LayerBench {
 public:
  LayerBench(const ModelSpec& spec, const RunnerOptions& options, int rows, int context)
      : whole_(spec),
        options_(options),
        rows_(rows),
        context_(context),
        expert_rows_(
            std::max(1, (rows * spec.moe.top_k + spec.moe.num_experts - 1) / spec.moe.num_experts)),
        spec_(CutTo(spec, LayersToKeep(spec, options.dtype))),
        pool_(options.num_threads),
        stream_(options.cuda ? std::make_unique<CudaStream>(*options.cuda) : nullptr),
        memory_(options.cuda ? MemoryKind::kCuda : MemoryKind::kHost),
        arena_(memory_),
        inbox_(stream_ == nullptr
                   ? nullptr
                   : std::make_unique<ops::Inbox>(*stream_, ops::Inbox::Sends::kEach)),
        context_of_ops_{.pool = pool_,
                        .arena = arena_,
                        .tier = options.tier,
                        .cuda = stream_.get(),
                        .inbox = inbox_.get()},
        source_(ListTensors(spec_), options.dtype, 0),
        weights_(spec_, source_, options.dtype, pool_, {}, stream_.get()) {}

  double Attention();
  double Gate();
  double Expert();
  // Of `bytes`, of which the model has `count`.
  double Load(int64_t bytes, int64_t count);

  int expert_rows() const { return expert_rows_; }
  int64_t expert_bytes() const { return ExpertLayoutOf(whole_, options_.dtype).SlotBytes(); }

 private:
  TensorView Filled(DType dtype, const Shape& shape) {
    const TensorView tensor = arena_.Allocate(dtype, shape);
    FillBytes(tensor.raw(), tensor.NumBytes());
    return tensor;
  }
  void FillBytes(void* target, int64_t bytes) {
    if (stream_ != nullptr) {
      stream_->Fill(target, kByte, bytes);
    } else {
      std::memset(target, kByte, bytes);
    }
  }
  double Time(const std::function<void(int)>& call) {
    const double seconds = TimeCalls(stream_.get(), call);
    if (stream_ != nullptr) stream_->Synchronize();
    return seconds;
  }

  const ModelSpec& whole_;
  const RunnerOptions& options_;
  int rows_;
  int context_;
  int expert_rows_;
  ModelSpec spec_;
  ThreadPool pool_;
  std::unique_ptr<CudaStream> stream_;  // null on the CPU
  MemoryKind memory_;
  Arena arena_;
  std::unique_ptr<ops::Inbox> inbox_;
  ops::OpContext context_of_ops_;
  DummySource source_;
  ModelWeights weights_;
};

double LayerBench::Attention() {
  const Arena::Scope scope(arena_);
  const int page_size = options_.page_size;
  const int pages_each = (context_ + page_size - 1) / page_size;
  const PagePool pages(KvLayoutOf(spec_, options_), rows_ * pages_each, memory_);
  for (int layer = 0; layer < spec_.num_layers; ++layer) {
    for (const TensorView& part : {pages.Keys(layer), pages.Values(layer), pages.Latents(layer)}) {
      if (!part.empty()) FillBytes(part.raw(), part.NumBytes());
    }
  }
  const std::vector<int32_t> tokens(rows_, 1);
  const std::vector<int32_t> positions(rows_, context_ - 1);
  std::vector<int32_t> page_ids(static_cast<size_t>(rows_) * pages_each);
  std::iota(page_ids.begin(), page_ids.end(), 0);
  std::vector<int64_t> kv_slots;
  std::vector<ops::AttentionSequence> sequences;
  for (int row = 0; row < rows_; ++row) {
    kv_slots.push_back(int64_t{row} * pages_each * page_size + context_ - 1);
    sequences.push_back(
        {.query_begin = row,
         .query_count = 1,
         .positions = std::span(positions).subspan(row, 1),
         .pages = std::span(page_ids).subspan(static_cast<size_t>(row) * pages_each, pages_each),
         .kv_length = context_,
         .mask = spec_.attention.mask,
         .slots_of_queries = std::span(positions).subspan(row, 1)});
  }
  ops::OpContext& ctx = context_of_ops_;
  const DecoderInput input{.tokens = ops::Upload(std::span(tokens), ctx),
                           .positions = ops::Upload(std::span(positions), ctx),
                           .kv_slots = ops::Upload(std::span(kv_slots), ctx),
                           .attention = ops::PlaceSequences(sequences, ctx)};
  const ops::RopeDesc& rope = spec_.attention.rope;
  const TensorView cos_sin = arena_.Allocate(DType::kF32, {rows_, 2, rope.rotary_dim / 2});
  ops::RopeAngles(rope, input.positions, cos_sin, ctx);
  const TensorView x = Filled(DType::kF32, {rows_, spec_.hidden_size});
  const Decoder decoder(spec_, weights_);
  return Time([&](int call) {
    decoder.AttentionLayer(call % spec_.num_layers, input, cos_sin, pages, x, ctx);
  });
}

double LayerBench::Gate() {
  const Arena::Scope scope(arena_);
  ops::OpContext& ctx = context_of_ops_;
  const MoeSpec& moe = spec_.moe;
  const TensorView x = Filled(ctx.ProductDType(options_.dtype), {rows_, spec_.hidden_size});
  const TensorView logits = arena_.Allocate(DType::kF32, {rows_, moe.num_experts});
  const TensorView chosen = arena_.Allocate(DType::kF32, {rows_, moe.top_k});
  const TensorView ids = arena_.Allocate(DType::kI32, {rows_, moe.top_k});
  const ops::RouterDesc desc = RouterDescOf(moe);
  return Time([&](int call) {
    const MoeWeights& weights = weights_.layer(call % spec_.num_layers).moe;
    ops::Gemm({}, x, weights.router, {}, logits, ctx);
    ops::Router(desc, logits, weights.router_bias, chosen, ids, {}, ctx);
  });
}

double LayerBench::Expert() {
  const Arena::Scope scope(arena_);
  ops::OpContext& ctx = context_of_ops_;
  const ExpertLayout layout = ExpertLayoutOf(spec_, options_.dtype);
  const int64_t experts = int64_t{whole_.NumMoeLayers()} * whole_.moe.num_experts;
  const int64_t count = std::clamp<int64_t>(kTurnBytes / layout.SlotBytes(), 1, experts);
  const Buffer slab(count * layout.SlotBytes(), memory_);
  FillBytes(slab.data(), static_cast<int64_t>(slab.size()));
  const ExpertMatrices matrices = MatricesOf(layout, slab.data());
  std::vector<int32_t> slot_ids(count);
  std::iota(slot_ids.begin(), slot_ids.end(), 0);
  const std::vector<int32_t> row_ends = {0, expert_rows_};
  const TensorView slots = ops::Upload(std::span(slot_ids), ctx);
  const TensorView offsets = ops::Upload(std::span(row_ends), ctx);
  const DType product = ctx.ProductDType(layout.dtype);
  const TensorView x = Filled(product, {expert_rows_, layout.hidden});
  const TensorView inner = arena_.Allocate(product, {expert_rows_, layout.ffn});
  const TensorView y = arena_.Allocate(DType::kF32, {expert_rows_, layout.hidden});
  return Time([&](int call) {
    const int64_t turn = call % count;
    const ConstTensorView slot = slots.Slice(turn, turn + 1);
    ops::GroupedGemm({.epilogue = ops::GroupedEpilogue::kSwiGlu}, x, {}, offsets, slot,
                     matrices.gate_up, {}, inner, ctx);
    ops::GroupedGemm({.epilogue = ops::GroupedEpilogue::kNone}, inner, {}, offsets, slot,
                     matrices.down, {}, y, ctx);
  });
}

double LayerBench::Load(int64_t bytes, int64_t count) {
  const int64_t turns = std::clamp<int64_t>(kTurnBytes / bytes, 1, count);
  const Buffer source(turns * bytes, stream_ ? MemoryKind::kPinned : MemoryKind::kHost);
  const Buffer target(turns * bytes, memory_);
  std::memset(source.data(), kByte, source.size());
  FillBytes(target.data(), turns * bytes);
  return Time([&](int call) {
    const int64_t at = call % turns * bytes;
    if (stream_ != nullptr) {
      stream_->Copy(target.data() + at, source.data() + at, bytes);
      return;
    }
    pool_.ParallelFor(bytes, int64_t{256} << 10, [&](int64_t begin, int64_t end, int) {
      std::memcpy(target.data() + at + begin, source.data() + at + begin, end - begin);
    });
  });
}

}  // namespace

LayerLatencies MeasureLayer(const ModelSpec& spec, const std::string& name,
                            const RunnerOptions& options, int rows, int context) {
  LayerBench bench(spec, options, rows, context);
  const int layers = spec.NumMoeLayers();
  return {
      .model = name,
      .dtype = std::string(DTypeName(options.dtype)),
      .copied = options.cuda ? "pinned host memory to GPU" : "host memory to host memory",
      .rows = rows,
      .context = context,
      .expert_rows = bench.expert_rows(),
      .num_experts = spec.moe.num_experts,
      .top_k = spec.moe.top_k,
      .num_layers = layers,
      .attention_s = bench.Attention(),
      .gate_s = bench.Gate(),
      .expert_s = bench.Expert(),
      .attention_load_s = bench.Load(AttentionBytes(spec, options.dtype), layers),
      .gate_load_s = bench.Load(GateBytes(spec, options.dtype), layers),
      .expert_load_s = bench.Load(bench.expert_bytes(), int64_t{layers} * spec.moe.num_experts)};
}

}  // namespace sluice
