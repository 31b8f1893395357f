#include <cmath>
#include <memory>
#include <numeric>
#include <vector>

#include "ops/attention/attention.h"
#include "ops/attention/latent_attention.h"
#include "ops/attention/prepare_qkv.h"
#include "ops/common/cuda_bench.h"
#include "ops/gemm/gemm.h"
#include "ops/gemm/norm_gemm.h"

namespace sluice::ops {
namespace {

constexpr int64_t kPageSize = 16;

// The last `queries` rows of `count` causal sequences of `kv_length` positions each, placed on the
// device. Page p of sequence s is s * pages + p.
class Sequences {
 public:
  Sequences(int64_t count, int64_t queries, int64_t kv_length, OpContext& context)
      : pages_((kv_length + kPageSize - 1) / kPageSize),
        table_(count * pages_),
        positions_(count * queries) {
    std::iota(table_.begin(), table_.end(), 0);
    for (int64_t s = 0; s < count; ++s) {
      const auto own = std::span(positions_).subspan(s * queries, queries);
      std::iota(own.begin(), own.end(), static_cast<int32_t>(kv_length - queries));
      sequences_.push_back({.query_begin = static_cast<int>(s * queries),
                            .query_count = static_cast<int>(queries),
                            .positions = own,
                            .pages = std::span(table_).subspan(s * pages_, pages_),
                            .kv_length = static_cast<int>(kv_length),
                            .mask = AttentionMask::kCausal});
    }
    batch_ = PlaceSequences(sequences_, context);
    context.cuda->Synchronize();
  }
  int64_t pages() const { return std::ssize(table_); }
  const AttentionBatch& batch() const { return batch_; }

 private:
  int64_t pages_;
  std::vector<int32_t> table_;
  std::vector<int32_t> positions_;
  std::vector<AttentionSequence> sequences_;
  AttentionBatch batch_;
};

// Pairs of a query row and a position that it sees.
double Pairs(int64_t count, int64_t queries, int64_t kv_length) {
  const auto rows = static_cast<double>(queries);
  return static_cast<double>(count) * rows * (static_cast<double>(kv_length) - (rows - 1) / 2);
}

// 32 heads over 4 KV heads of 128, bf16 pages.
void BM_AttentionCuda(benchmark::State& state, CudaBench& bench) {
  const AttentionDesc desc{
      .num_heads = 32, .num_kv_heads = 4, .head_dim = 128, .scale = 1.0f / std::sqrt(128.0f)};
  const Sequences sequences(state.range(0), state.range(1), state.range(2), bench.context());
  const int64_t rows = state.range(0) * state.range(1);
  const Shape shape{sequences.pages(), desc.num_kv_heads, kPageSize, desc.head_dim};
  const int64_t kv_bytes = 2 * shape.NumElements() * static_cast<int64_t>(SizeOf(DType::kBF16));
  const int64_t copies = bench.Copies(kv_bytes);
  std::vector<Tensor> pages;
  for (int64_t i = 0; i < 2 * copies; ++i) pages.push_back(bench.Floats(DType::kBF16, shape));
  const Tensor q = bench.Floats(DType::kF32, {rows, desc.num_heads, desc.head_dim});
  const Tensor out(DType::kBF16, {rows, desc.num_heads, desc.head_dim}, MemoryKind::kCuda);
  // Each pair costs two products of head_dim.
  const double operations =
      4.0 * Pairs(state.range(0), state.range(1), state.range(2)) * desc.num_heads * desc.head_dim;
  bench.Measure(
      state, {.bytes = static_cast<double>(kv_bytes), .operations = operations}, copies,
      [&](int64_t call) {
        const int64_t i = 2 * (call % copies);
        Attention(desc, q, sequences.batch(), {pages[i], pages[i + 1]}, out, bench.context());
      });
}

// The attention of a layer with 32 heads over 4 KV heads of 128, 2,048 wide, from norm to residual:
// what its kernels cost one after the other, each waiting for the one before. bf16.
void BM_AttentionLayerCuda(benchmark::State& state, CudaBench& bench) {
  constexpr int64_t kHidden = 2048;
  const PrepareQkvDesc prepare{.num_heads = 32,
                               .num_kv_heads = 4,
                               .head_dim = 128,
                               .norm = QkNorm::kPerHead,
                               .norm_eps = 1e-6f};
  const int64_t q_width = int64_t{prepare.num_heads} * prepare.head_dim;
  const int64_t width = q_width + 2 * int64_t{prepare.num_kv_heads} * prepare.head_dim;
  const AttentionDesc desc{.num_heads = prepare.num_heads,
                           .num_kv_heads = prepare.num_kv_heads,
                           .head_dim = prepare.head_dim,
                           .scale = 1.0f / std::sqrt(128.0f)};
  const int64_t rows = state.range(0);
  const Sequences sequences(rows, 1, state.range(1), bench.context());
  const Shape shape{sequences.pages(), prepare.num_kv_heads, kPageSize, prepare.head_dim};
  const auto weights = static_cast<double>((width + q_width) * kHidden * 2);
  const auto kv = static_cast<double>(2 * shape.NumElements() * 2);
  const int64_t copies = bench.Copies(static_cast<int64_t>(weights + kv));
  std::vector<Tensor> pages;
  for (int64_t i = 0; i < 2 * copies; ++i) pages.push_back(bench.Floats(DType::kBF16, shape));
  const Tensor w = bench.Floats(DType::kBF16, {copies, width, kHidden});
  const Tensor w_o = bench.Floats(DType::kBF16, {copies, kHidden, q_width});
  const Tensor norm = bench.Floats(DType::kF32, {kHidden});
  const Tensor head_norm = bench.Floats(DType::kF32, {prepare.head_dim});
  const Tensor cos_sin = bench.Floats(DType::kF32, {rows, 2, prepare.head_dim / 2});
  Tensor host_slots(DType::kI64, {rows});
  for (int64_t r = 0; r < rows; ++r) {
    host_slots.data<int64_t>()[r] = (r + 1) * (sequences.pages() / rows) * kPageSize - 1;
  }
  const Tensor slots = bench.Upload(host_slots);
  const Tensor x = bench.Floats(DType::kF32, {rows, kHidden});
  const Tensor qkv(DType::kF32, {rows, width}, MemoryKind::kCuda);
  const Tensor attended(DType::kBF16, {rows, q_width}, MemoryKind::kCuda);
  const int64_t strides[] = {width, prepare.head_dim, 1};
  const TensorView q(qkv.data<float>(), DType::kF32, {rows, prepare.num_heads, prepare.head_dim},
                     strides);
  bench.Measure(state, {.bytes = weights + kv}, copies, [&](int64_t call) {
    const int64_t i = call % copies;
    const KvPages kv_pages{pages[2 * i], pages[2 * i + 1]};
    NormGemm({.norm = {.eps = 1e-6f}}, x, norm, w.view()[i], {}, qkv, bench.context());
    PrepareQkv(prepare, cos_sin, head_norm, head_norm, slots, qkv, kv_pages, bench.context());
    Attention(desc, q, sequences.batch(), kv_pages,
              attended.view().Reshape({rows, prepare.num_heads, prepare.head_dim}),
              bench.context());
    Gemm({.accumulate = true}, attended, w_o.view()[i], {}, x, bench.context());
  });
}

// 128 heads over latent rows of 512 + 64, bf16.
void BM_LatentAttentionCuda(benchmark::State& state, CudaBench& bench) {
  const LatentAttentionDesc desc{
      .num_heads = 128, .latent_dim = 512, .rope_dim = 64, .scale = 1.0f / std::sqrt(192.0f)};
  const Sequences sequences(state.range(0), state.range(1), state.range(2), bench.context());
  const int64_t rows = state.range(0) * state.range(1);
  const int64_t width = desc.latent_dim + desc.rope_dim;
  const Shape shape{sequences.pages(), kPageSize, width};
  const int64_t kv_bytes = shape.NumElements() * static_cast<int64_t>(SizeOf(DType::kBF16));
  const int64_t copies = bench.Copies(kv_bytes);
  std::vector<Tensor> pages;
  for (int64_t i = 0; i < copies; ++i) pages.push_back(bench.Floats(DType::kBF16, shape));
  const Tensor q_latent = bench.Floats(DType::kF32, {rows, desc.num_heads, desc.latent_dim});
  const Tensor q_rope = bench.Floats(DType::kF32, {rows, desc.num_heads, desc.rope_dim});
  const Tensor out(DType::kBF16, {rows, desc.num_heads, desc.latent_dim}, MemoryKind::kCuda);
  // Each pair costs a product of the whole row and one of the latent.
  const double operations = 2.0 * Pairs(state.range(0), state.range(1), state.range(2)) *
                            desc.num_heads * static_cast<double>(width + desc.latent_dim);
  bench.Measure(state, {.bytes = static_cast<double>(kv_bytes), .operations = operations}, copies,
                [&](int64_t call) {
                  LatentAttention(desc, q_latent, q_rope, sequences.batch(), pages[call % copies],
                                  out, bench.context());
                });
}

void Shapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"sequences", "queries", "kv"});
  for (const int64_t kv : {1'024, 4'096, 16'384, 131'072}) bench->Args({1, 1, kv});
  bench->Args({8, 1, 4'096})->Args({64, 1, 1'024})->Args({64, 1, 16'384})->Args({1, 8, 16'384});
  for (const int64_t tokens : {2'048, 4'096, 8'192, 16'384}) bench->Args({1, tokens, tokens});
}

void LayerShapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"sequences", "kv"});
  bench->Args({1, 1'024})->Args({2, 1'024})->Args({8, 1'024})->Args({1, 16'384});
}

void LatentShapes(benchmark::internal::Benchmark* bench) {
  bench->ArgNames({"sequences", "queries", "kv"});
  bench->Args({1, 1, 1'024})->Args({1, 1, 16'384})->Args({64, 1, 4'096})->Args({1, 1'024, 1'024});
}

[[maybe_unused]] const bool kAttention =
    RegisterCudaBench("BM_AttentionCuda", &BM_AttentionCuda, &Shapes);
[[maybe_unused]] const bool kLayer =
    RegisterCudaBench("BM_AttentionLayerCuda", &BM_AttentionLayerCuda, &LayerShapes);
[[maybe_unused]] const bool kLatentAttention =
    RegisterCudaBench("BM_LatentAttentionCuda", &BM_LatentAttentionCuda, &LatentShapes);

}  // namespace
}  // namespace sluice::ops
