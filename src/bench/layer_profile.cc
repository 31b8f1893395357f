#include "bench/layer_profile.h"

#include <algorithm>
#include <cstring>
#include <span>
#include <vector>

#include "base/error.h"
#include "bench/op_bench.h"
#include "bench/timing.h"
#include "ops/common/upload.h"
#include "ops/router/norm_router.h"

namespace sluice {
namespace {

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
  return static_cast<int>(std::min<int64_t>(OpBench::Turns(one), spec.NumMoeLayers()));
}

class LayerBench {
 public:
  LayerBench(const ModelSpec& spec, const RunnerOptions& options, int rows, int context)
      : whole_(spec),
        rows_(rows),
        context_(context),
        expert_rows_(
            std::max(1, (rows * spec.moe.top_k + spec.moe.num_experts - 1) / spec.moe.num_experts)),
        spec_(CutTo(spec, LayersToKeep(spec, options.dtype))),
        bench_(options),
        source_(ListTensors(spec_), options.dtype, 0),
        weights_(spec_, source_, options.dtype, bench_.pool(), {}, bench_.stream()) {}

  double Attention();
  double Gate();
  double Expert();
  // Of `bytes`, of which the model has `count`.
  double Load(int64_t bytes, int64_t count);

  int expert_rows() const { return expert_rows_; }
  int64_t expert_bytes() const { return Layout().SlotBytes(); }

 private:
  DType dtype() const { return bench_.options().dtype; }
  ExpertLayout Layout() const { return ExpertLayoutOf(whole_, dtype()); }
  double Time(int64_t turns, const std::function<void(int64_t)>& call) {
    return Median(bench_.Sample(turns, call));
  }

  const ModelSpec& whole_;
  int rows_;
  int context_;
  int expert_rows_;
  ModelSpec spec_;
  OpBench bench_;
  DummySource source_;
  ModelWeights weights_;
};

double LayerBench::Attention() {
  ops::OpContext& ctx = bench_.context();
  const Arena::Scope scope(ctx.arena);
  const BenchSequences sequences(rows_, 1, context_, spec_.attention, bench_);
  const PagePool pages =
      RandomPages(KvLayoutOf(spec_, bench_.options()), sequences.num_pages(), bench_);
  const std::vector<int32_t> tokens(rows_, 1);
  const std::vector<int64_t> kv_slots = sequences.KvSlots();
  const DecoderInput input{.tokens = ops::Upload(std::span(tokens), ctx),
                           .positions = ops::Upload(sequences.positions(), ctx),
                           .kv_slots = ops::Upload(std::span(kv_slots), ctx),
                           .attention = sequences.batch()};
  const ops::RopeDesc& rope = spec_.attention.rope;
  const TensorView cos_sin = ctx.arena.Allocate(DType::kF32, {rows_, 2, rope.rotary_dim / 2});
  ops::RopeAngles(rope, input.positions, cos_sin, ctx);
  const Tensor x = bench_.Floats(DType::kF32, {rows_, spec_.hidden_size});
  const Decoder decoder(spec_, weights_);
  return Time(spec_.num_layers, [&](int64_t call) {
    const auto layer = static_cast<int>(call % spec_.num_layers);
    decoder.AttentionLayer(layer, input, cos_sin, pages, x, ctx);
  });
}

double LayerBench::Gate() {
  ops::OpContext& ctx = bench_.context();
  const Arena::Scope scope(ctx.arena);
  const MoeSpec& moe = spec_.moe;
  const Tensor x = bench_.Floats(DType::kF32, {rows_, spec_.hidden_size});
  const TensorView h = ctx.arena.Allocate(bench_.ProductDType(), {rows_, spec_.hidden_size});
  const TensorView chosen = ctx.arena.Allocate(DType::kF32, {rows_, moe.top_k});
  const TensorView ids = ctx.arena.Allocate(DType::kI32, {rows_, moe.top_k});
  const ops::NormRouterDesc desc{.norm = {.kind = spec_.norm, .eps = spec_.norm_eps},
                                 .router = RouterDescOf(moe)};
  return Time(spec_.num_layers, [&](int64_t call) {
    const LayerWeights& layer = weights_.layer(static_cast<int>(call % spec_.num_layers));
    ops::NormRouter(desc, x, layer.post_attention_norm, layer.moe.router, layer.moe.router_bias, h,
                    chosen, ids, ctx);
  });
}

double LayerBench::Expert() {
  ops::OpContext& ctx = bench_.context();
  const Arena::Scope scope(ctx.arena);
  const ExpertLayout layout = Layout();
  const int64_t experts = int64_t{whole_.NumMoeLayers()} * whole_.moe.num_experts;
  const int64_t count = std::min(OpBench::Turns(layout.SlotBytes()), experts);
  const ExpertSlab slab(layout, count, bench_);
  const ExpertMatrices matrices = slab.matrices();
  const std::vector<int32_t> row_ends = {0, expert_rows_};
  const TensorView offsets = ops::Upload(std::span(row_ends), ctx);
  const DType product = bench_.ProductDType();
  const Tensor x = bench_.Floats(product, {expert_rows_, layout.hidden});
  const TensorView inner = ctx.arena.Allocate(product, {expert_rows_, layout.ffn});
  const TensorView y = ctx.arena.Allocate(DType::kF32, {expert_rows_, layout.hidden});
  return Time(count, [&](int64_t call) {
    const int64_t turn = call % count;
    const ConstTensorView slot = slab.Slots(turn, turn + 1);
    ops::GroupedGemm({.epilogue = ops::GroupedEpilogue::kSwiGlu}, x, {}, offsets, slot,
                     matrices.gate_up, {}, inner, ctx);
    ops::GroupedGemm({.epilogue = ops::GroupedEpilogue::kNone}, inner, {}, offsets, slot,
                     matrices.down, {}, y, ctx);
  });
}

double LayerBench::Load(int64_t bytes, int64_t count) {
  const int64_t turns = std::min(OpBench::Turns(bytes), count);
  CudaStream* stream = bench_.stream();
  const Buffer source(turns * bytes, stream ? MemoryKind::kPinned : MemoryKind::kHost);
  const Buffer target(turns * bytes, bench_.memory());
  std::memset(source.data(), 1, source.size());
  bench_.FillFloats(DType::kF32, target.data(), turns * bytes);
  return Time(turns, [&](int64_t call) {
    const int64_t at = call % turns * bytes;
    if (stream != nullptr) {
      stream->Copy(target.data() + at, source.data() + at, bytes);
      return;
    }
    bench_.pool().ParallelFor(bytes, int64_t{256} << 10, [&](int64_t begin, int64_t end, int) {
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
