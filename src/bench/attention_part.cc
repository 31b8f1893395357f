#include <fmt/format.h>

#include <algorithm>

#include "base/machine.h"
#include "bench/parts.h"
#include "ops/attention/attention.h"
#include "ops/attention/latent_attention.h"

namespace sluice {
namespace {

// Positions that the last `queries` rows of a sequence see, all rows together.
double Pairs(const AttentionSpec& attention, int window, const AttentionCase& size) {
  double pairs = 0.0;
  for (int row = 0; row < size.queries; ++row) {
    const int seen = attention.mask == ops::AttentionMask::kFull
                         ? size.context
                         : size.context - size.queries + row + 1;
    pairs += window > 0 ? std::min(window, seen) : seen;
  }
  return pairs;
}

// Positions that any of those rows sees.
int64_t Visible(int window, const AttentionCase& size) {
  return window > 0 ? std::min(size.context, size.queries + window - 1) : size.context;
}

class AttentionPart {
 public:
  AttentionPart(const ModelSpec& spec, OpBench& bench) : spec_(spec), bench_(bench) {
    // Of the first layer, and as much of others as calls take in turn.
    layout_ = KvLayoutOf(spec, bench.options());
    layout_.groups.front().num_layers = 1;
  }

  PartRow Time(const AttentionCase& size);

 private:
  bool latent() const { return spec_.attention.kind == AttentionKind::kLatent; }
  int window() const { return spec_.IsWindowed(0) ? spec_.attention.window : 0; }
  PartRow Describe(const AttentionCase& size) const;
  std::function<void(int64_t)> Call(const BenchSequences& sequences, const PagePool& pages,
                                    const Tensor& q, const Tensor& q_rope, const Tensor& out);

  const ModelSpec& spec_;
  OpBench& bench_;
  KvLayout layout_;  // of one layer
};

PartRow AttentionPart::Describe(const AttentionCase& size) const {
  const AttentionSpec& a = spec_.attention;
  PartRow row;
  row.part = size.queries == 1 ? "decode" : "prefill";
  row.shape = {{"sequences", size.sequences}, {"queries", size.queries}, {"context", size.context}};
  const auto rows = static_cast<double>(int64_t{size.sequences} * size.queries);
  const double position_bytes =
      static_cast<double>(layout_.BytesPerPage()) / static_cast<double>(layout_.page_size);
  const int q_width = latent() ? a.latent.kv_rank + a.latent.rope_dim : a.head_dim;
  const int out_width = latent() ? a.latent.kv_rank : a.head_dim;
  const auto product_size = static_cast<double>(SizeOf(bench_.ProductDType()));
  row.bytes = size.sequences * static_cast<double>(Visible(window(), size)) * position_bytes +
              rows * a.num_heads * (4.0 * q_width + product_size * out_width);
  // Each pair of a row and a position costs a head a product of a query's width and one of a value.
  row.flops = 2.0 * size.sequences * Pairs(a, window(), size) * a.num_heads * (q_width + out_width);
  return row;
}

// The call over layer `turn` of the pages. `q_rope` is of latent attention alone.
std::function<void(int64_t)> AttentionPart::Call(const BenchSequences& sequences,
                                                 const PagePool& pages, const Tensor& q,
                                                 const Tensor& q_rope, const Tensor& out) {
  const AttentionSpec& a = spec_.attention;
  const int turns = pages.layout().num_layers();
  ops::OpContext& context = bench_.context();
  if (latent()) {
    const ops::LatentAttentionDesc desc{.num_heads = a.num_heads,
                                        .latent_dim = a.latent.kv_rank,
                                        .rope_dim = a.latent.rope_dim,
                                        .scale = a.scale};
    return [=, &sequences, &pages, &q, &q_rope, &out, &context](int64_t call) {
      ops::LatentAttention(desc, q, q_rope, sequences.batch(),
                           pages.Latents(static_cast<int>(call % turns)), out, context);
    };
  }
  const ops::AttentionDesc desc{.num_heads = a.num_heads,
                                .num_kv_heads = a.num_kv_heads,
                                .head_dim = a.head_dim,
                                .scale = a.scale,
                                .window = window()};
  return [=, &sequences, &pages, &q, &out, &context](int64_t call) {
    const auto layer = static_cast<int>(call % turns);
    ops::Attention(desc, q, sequences.batch(), {pages.Keys(layer), pages.Values(layer)}, out,
                   context);
  };
}

PartRow AttentionPart::Time(const AttentionCase& size) {
  PartRow row = Describe(size);
  if (size.context > spec_.max_positions) {
    row.left_out = fmt::format("the model's context has {} positions", spec_.max_positions);
    return row;
  }
  const AttentionSpec& a = spec_.attention;
  const BenchSequences sequences(size.sequences, size.queries, size.context, a, bench_);
  KvLayout layout = layout_;
  const int64_t layer_bytes = layout.BytesPerPage() * sequences.num_pages();
  const int64_t turns = OpBench::Turns(layer_bytes);
  layout.groups.front().num_layers = static_cast<int>(turns);
  const int64_t needed = turns * layer_bytes + static_cast<int64_t>(2 * row.bytes);
  if (!bench_.HasRoomFor(needed)) {
    row.left_out = FormatBytes(static_cast<uint64_t>(needed)) + " are needed, more than is free";
    return row;
  }
  const PagePool pages = RandomPages(layout, sequences.num_pages(), bench_);
  const int64_t rows = int64_t{size.sequences} * size.queries;
  const int64_t width = latent() ? a.latent.kv_rank : a.head_dim;
  const Tensor q = bench_.Floats(DType::kF32, {rows, a.num_heads, width});
  const Tensor q_rope = bench_.Floats(DType::kF32, {rows, a.num_heads, a.latent.rope_dim});
  const Tensor out(bench_.ProductDType(), {rows, a.num_heads, width}, bench_.memory());
  row.seconds = bench_.Sample(turns, Call(sequences, pages, q, q_rope, out));
  return row;
}

}  // namespace

void TimeAttention(const ModelSpec& spec, OpBench& bench, std::span<const AttentionCase> cases,
                   const OnPartRow& on_row) {
  AttentionPart part(spec, bench);
  for (const AttentionCase& size : cases) on_row(part.Time(size));
}

}  // namespace sluice
