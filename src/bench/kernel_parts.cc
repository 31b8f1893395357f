#include <fmt/format.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <set>
#include <vector>

#include "base/machine.h"
#include "bench/parts.h"
#include "model/model_weights.h"
#include "ops/experts/experts.h"
#include "ops/gemm/gemm.h"
#include "ops/gemm/head_gemm.h"
#include "ops/gemm/norm_gemm.h"
#include "ops/router/router.h"
#include "sampling/random.h"

namespace sluice {
namespace {

std::string NoRoom(int64_t bytes) {
  return FormatBytes(static_cast<uint64_t>(bytes)) + " are needed, more than is free";
}

// A product of a layer, or of the head: out [T, out] = x [T, in] w^T.
struct Product {
  enum class Kind {
    kPlain,    // Gemm of what an op left
    kAdded,    // Gemm onto the residual
    kNormed,   // NormGemm of the residual
    kSwiGlu,   // NormGemm of gate and up, each [out, in]
    kPerHead,  // HeadGemm: `heads` of them, each [out, in]
  };
  const char* part = "";
  Kind kind = Kind::kPlain;
  int64_t in = 0;
  int64_t out = 0;
  int64_t heads = 1;
  bool sampled = false;  // of the rows that are sampled alone

  int64_t MatrixRows() const { return kind == Kind::kSwiGlu ? 2 * out : out; }
  // Elements of the matrix, or of all heads'.
  int64_t Weights() const { return heads * MatrixRows() * in; }
  // So many copies of the matrix, or of all heads'.
  Shape Matrices(int64_t copies) const {
    if (kind == Kind::kPerHead) return {copies, heads, out, in};
    return {copies, MatrixRows(), in};
  }
  // What goes in and out, of `width` in or out.
  Shape Rows(int64_t tokens, int64_t width) const {
    if (kind == Kind::kPerHead) return {tokens, heads, width};
    return {tokens, width};
  }
};

// Rows of the tensors that lie behind each other as one matrix: of those that the model has.
int64_t RowsOf(const ModelSpec& spec, std::initializer_list<TensorRole> roles) {
  int64_t rows = 0;
  for (const TensorRole role : roles) {
    const TensorRule* rule = FindRule(spec, role);
    if (rule != nullptr) rows += rule->shape[0];
  }
  return rows;
}

void AddLatentProducts(const ModelSpec& spec, std::vector<Product>& products) {
  using Kind = Product::Kind;
  const LatentSpec& l = spec.attention.latent;
  const int64_t heads = spec.attention.num_heads;
  const int64_t hidden = spec.hidden_size;
  const bool low_rank = l.q_rank > 0;
  const TensorRole query = low_rank ? TensorRole::kQA : TensorRole::kQ;
  products.push_back({"q_kv_a", Kind::kNormed, hidden, RowsOf(spec, {query, TensorRole::kKvA})});
  if (low_rank) {
    products.push_back({"q_b", Kind::kNormed, l.q_rank, RowsOf(spec, {TensorRole::kQB})});
  }
  products.push_back({"k_up", Kind::kPerHead, l.nope_dim, l.kv_rank, heads});
  products.push_back({"v_up", Kind::kPerHead, l.kv_rank, l.value_dim, heads});
}

// Every product of the model but its routed and shared experts'.
std::vector<Product> ProductsOf(const ModelSpec& spec) {
  using Kind = Product::Kind;
  using Role = TensorRole;
  const int64_t hidden = spec.hidden_size;
  std::vector<Product> products;
  if (spec.attention.kind == AttentionKind::kLatent) {
    AddLatentProducts(spec, products);
  } else {
    products.push_back(
        {"qkv", Kind::kNormed, hidden, RowsOf(spec, {Role::kQkv, Role::kQ, Role::kK, Role::kV})});
  }
  if (const TensorRule* o = FindRule(spec, Role::kO)) {
    products.push_back({"o", Kind::kAdded, o->shape[1], hidden});
  }
  const auto has_layer = [&](FfnKind kind) {
    return std::find(spec.ffn.begin(), spec.ffn.end(), kind) != spec.ffn.end();
  };
  if (has_layer(FfnKind::kMoe)) {
    products.push_back({"router", Kind::kPlain, hidden, RowsOf(spec, {Role::kRouter})});
  }
  if (has_layer(FfnKind::kDense)) {
    const int64_t width = RowsOf(spec, {Role::kGate});
    products.push_back({"gate_up", Kind::kSwiGlu, hidden, width});
    products.push_back({"down", Kind::kAdded, width, hidden});
  }
  products.push_back({"lm_head", Kind::kNormed, hidden, spec.vocab_size, 1, /*sampled=*/true});
  return products;
}

// The dense kernels of a model.
class DenseParts {
 public:
  DenseParts(const ModelSpec& spec, OpBench& bench)
      : spec_(spec), bench_(bench), norm_{.kind = spec.norm, .eps = spec.norm_eps} {}

  PartRow Norm(int64_t tokens);
  PartRow Time(const Product& product, int64_t tokens);

 private:
  std::function<void(int64_t)> Call(const Product& product, const Tensor& x, const Tensor& matrices,
                                    const Tensor& norm, const Tensor& out);

  const ModelSpec& spec_;
  OpBench& bench_;
  const ops::NormDesc norm_;
};

PartRow DenseParts::Norm(int64_t tokens) {
  const int64_t hidden = spec_.hidden_size;
  const Tensor x = bench_.Floats(DType::kF32, {tokens, hidden});
  const Tensor weight = bench_.Floats(DType::kF32, {hidden});
  const Tensor out(bench_.ProductDType(), {tokens, hidden}, bench_.memory());
  PartRow row{.part = "norm", .shape = {{"tokens", tokens}, {"width", hidden}}};
  row.bytes = static_cast<double>(x.view().NumBytes() + out.view().NumBytes());
  row.seconds =
      bench_.Sample(1, [&](int64_t) { ops::Norm(norm_, x, weight, out, bench_.context()); });
  return row;
}

// The call on the matrix whose turn it is; matrices [turns, ...].
std::function<void(int64_t)> DenseParts::Call(const Product& product, const Tensor& x,
                                              const Tensor& matrices, const Tensor& norm,
                                              const Tensor& out) {
  using Kind = Product::Kind;
  const int64_t turns = matrices.shape()[0];
  const Kind kind = product.kind;
  return [this, kind, turns, &x, &matrices, &norm, &out](int64_t call) {
    const ConstTensorView w = matrices.view()[call % turns];
    ops::OpContext& context = bench_.context();
    switch (kind) {
      case Kind::kPlain:
      case Kind::kAdded:
        return ops::Gemm({.accumulate = kind == Kind::kAdded}, x, w, {}, out, context);
      case Kind::kNormed:
        return ops::NormGemm({.norm = norm_}, x, norm, w, {}, out, context);
      case Kind::kSwiGlu:
        return ops::NormGemm({.norm = norm_, .epilogue = ops::GemmEpilogue::kSwiGlu}, x, norm, w,
                             {}, out, context);
      case Kind::kPerHead:
        return ops::HeadGemm(x, w, out, context);
    }
  };
}

PartRow DenseParts::Time(const Product& product, int64_t tokens) {
  using Kind = Product::Kind;
  PartRow row{.part = product.part,
              .shape = {{"tokens", tokens}, {"in", product.in}, {"out", product.out}}};
  if (product.kind == Kind::kPerHead) row.shape["heads"] = product.heads;
  const DType dtype = bench_.options().dtype;
  const int64_t weight_bytes = product.Weights() * static_cast<int64_t>(SizeOf(dtype));
  const int64_t turns = OpBench::Turns(weight_bytes);
  const int64_t needed = turns * weight_bytes + tokens * product.heads *
                                                    (product.in + product.out) *
                                                    static_cast<int64_t>(sizeof(float));
  if (!bench_.HasRoomFor(needed)) {
    row.left_out = NoRoom(needed);
    return row;
  }
  const bool normed = product.kind == Kind::kNormed || product.kind == Kind::kSwiGlu;
  const bool feeds_product = product.kind == Kind::kSwiGlu;
  const Tensor matrices = bench_.Floats(dtype, product.Matrices(turns));
  const Tensor norm = bench_.Floats(DType::kF32, {product.in});
  const Tensor x =
      bench_.Floats(normed ? DType::kF32 : bench_.ProductDType(), product.Rows(tokens, product.in));
  const Tensor out = bench_.Floats(feeds_product ? bench_.ProductDType() : DType::kF32,
                                   product.Rows(tokens, product.out));
  const int64_t out_bytes = (product.kind == Kind::kAdded ? 2 : 1) * out.view().NumBytes();
  row.bytes = static_cast<double>(weight_bytes + x.view().NumBytes() + out_bytes);
  row.flops = 2.0 * static_cast<double>(tokens) * static_cast<double>(product.Weights());
  row.seconds = bench_.Sample(turns, Call(product, x, matrices, norm, out));
  return row;
}

// How popular the experts of a layer are.
enum class Load { kUniform, kZipf, kOne };
constexpr Load kLoads[] = {Load::kUniform, Load::kZipf, Load::kOne};

const char* LoadName(Load load) {
  return load == Load::kUniform ? "uniform" : load == Load::kZipf ? "zipf" : "one";
}

// Choices that calls make in turn, so that each reads other experts than the one before.
constexpr int64_t kChoices = 8;

// Experts from the router's logits to the combined output.
class ExpertParts {
 public:
  ExpertParts(const ModelSpec& spec, OpBench& bench);

  // Times every load; says so where the experts have no room.
  void Time(int64_t tokens, const OnPartRow& on_row) const;

 private:
  PartRow Time(Load load, int64_t tokens) const;
  Tensor Logits(Load load, int64_t tokens) const;
  double DistinctExperts(const Tensor& logits) const;
  int64_t ExpertBytes() const { return 3 * layout_.hidden * layout_.ffn * ElementBytes(); }
  int64_t SharedBytes() const { return 3 * layout_.hidden * shared_ffn_ * ElementBytes(); }
  int64_t ElementBytes() const { return static_cast<int64_t>(SizeOf(layout_.dtype)); }
  ops::SharedExpert Shared(int64_t turn) const;

  const MoeSpec& moe_;
  const int64_t shared_ffn_;
  OpBench& bench_;
  const ExpertLayout layout_;
  const int64_t turns_;  // copies of the layer's experts
  const int64_t needed_;
  std::unique_ptr<ExpertSlab> slab_;  // null where there is no room
  Tensor host_bias_;                  // zeros; empty where the choice has none
  Tensor bias_;                       // the same where ops read it
  Tensor shared_gate_up_;             // [turns, 2 S, H]
  Tensor shared_down_;                // [turns, H, S]
  Tensor shared_gate_;                // [1, H]
};

ExpertParts::ExpertParts(const ModelSpec& spec, OpBench& bench)
    : moe_(spec.moe),
      shared_ffn_(spec.moe.shared_ffn),
      bench_(bench),
      layout_(ExpertLayoutOf(spec, bench.options().dtype)),
      turns_(OpBench::Turns(spec.moe.num_experts * layout_.SlotBytes())),
      needed_(turns_ * (spec.moe.num_experts * layout_.SlotBytes() + SharedBytes())) {
  if (!bench.HasRoomFor(needed_)) return;
  slab_ = std::make_unique<ExpertSlab>(layout_, turns_ * moe_.num_experts, bench);
  if (moe_.choice_bias) {
    host_bias_ = Tensor(DType::kF32, {moe_.num_experts});
    std::fill_n(host_bias_.data<float>(), moe_.num_experts, 0.0f);
    bias_ = bench.Placed(host_bias_);
  }
  if (shared_ffn_ == 0) return;
  const DType dtype = layout_.dtype;
  shared_gate_up_ = bench.Floats(dtype, {turns_, 2 * shared_ffn_, layout_.hidden});
  shared_down_ = bench.Floats(dtype, {turns_, layout_.hidden, shared_ffn_});
  if (moe_.shared_gate) shared_gate_ = bench.Floats(dtype, {1, layout_.hidden});
}

ops::SharedExpert ExpertParts::Shared(int64_t turn) const {
  if (shared_ffn_ == 0) return {};
  return {.gate_up = shared_gate_up_.view()[turn],
          .down = shared_down_.view()[turn],
          .gate = shared_gate_};
}

// [kChoices, tokens, experts] on the host: independent values, to which a popularity is added.
Tensor ExpertParts::Logits(Load load, int64_t tokens) const {
  constexpr uint64_t kSeed = 1;
  constexpr float kFarAbove = 30.0f;  // no independent value makes up for it
  const int64_t experts = moe_.num_experts;
  Tensor logits(DType::kF32, {kChoices, tokens, experts});
  bench_.pool().ParallelFor(kChoices * tokens, 64, [&](int64_t begin, int64_t end, int) {
    for (int64_t row = begin; row < end; ++row) {
      const int64_t choice = row / tokens;
      float* value = logits.data<float>() + row * experts;
      for (int64_t e = 0; e < experts; ++e) {
        // Others are popular in the next choice.
        const int64_t rank = (e + choice * (experts - moe_.top_k)) % experts;
        const double uniform = std::max(UniformAt(kSeed, row, static_cast<uint32_t>(e)), 1e-9);
        // The largest of these "Gumbel" values are a draw in proportion to exp(popularity).
        value[e] = static_cast<float>(-std::log(-std::log(uniform)));
        if (load == Load::kZipf) value[e] -= std::log(static_cast<float>(rank + 1));
        if (load == Load::kOne && rank < moe_.top_k) value[e] += kFarAbove;
      }
    }
  });
  return logits;
}

// Experts that a call reads, on average over the choices.
double ExpertParts::DistinctExperts(const Tensor& logits) const {
  const int64_t tokens = logits.shape()[1];
  Arena arena;
  ops::OpContext host{.pool = bench_.pool(), .arena = arena, .tier = bench_.options().tier};
  const Tensor weights(DType::kF32, {tokens, moe_.top_k});
  const Tensor ids(DType::kI32, {tokens, moe_.top_k});
  int64_t distinct = 0;
  for (int64_t choice = 0; choice < kChoices; ++choice) {
    ops::Router(RouterDescOf(moe_), logits.view()[choice], host_bias_, weights, ids, {}, host);
    const int32_t* id = ids.data<int32_t>();
    distinct += std::ssize(std::set<int32_t>(id, id + tokens * moe_.top_k));
  }
  return static_cast<double>(distinct) / kChoices;
}

PartRow ExpertParts::Time(Load load, int64_t tokens) const {
  PartRow row{.part = "experts", .shape = {{"tokens", tokens}, {"routing", LoadName(load)}}};
  const Tensor host_logits = Logits(load, tokens);
  const Tensor logits = bench_.Placed(host_logits);
  const Tensor x = bench_.Floats(bench_.ProductDType(), {tokens, layout_.hidden});
  const Tensor out = bench_.Floats(DType::kF32, {tokens, layout_.hidden});
  const Tensor weights(DType::kF32, {tokens, moe_.top_k}, bench_.memory());
  const Tensor ids(DType::kI32, {tokens, moe_.top_k}, bench_.memory());
  const ExpertMatrices matrices = slab_->matrices();
  const int64_t experts = moe_.num_experts;
  const double distinct = DistinctExperts(host_logits);
  row.distinct_experts = distinct;
  row.bytes = distinct * static_cast<double>(ExpertBytes()) +
              static_cast<double>(SharedBytes() + logits.view()[0].NumBytes() +
                                  x.view().NumBytes() + 2 * out.view().NumBytes());
  // Two operations for each element of a matrix that a token meets.
  row.flops = 2.0 * static_cast<double>(tokens) *
              static_cast<double>(moe_.top_k * ExpertBytes() + SharedBytes()) /
              static_cast<double>(ElementBytes());
  row.seconds = bench_.Sample(std::max(kChoices, turns_), [&](int64_t call) {
    const int64_t turn = call % turns_;
    ops::Router(RouterDescOf(moe_), logits.view()[call % kChoices], bias_, weights, ids, {},
                bench_.context());
    ops::Experts(x, ids, weights, slab_->Slots(turn * experts, (turn + 1) * experts),
                 matrices.gate_up, matrices.down, Shared(turn), out, bench_.context());
  });
  return row;
}

void ExpertParts::Time(int64_t tokens, const OnPartRow& on_row) const {
  if (slab_ == nullptr) {
    on_row({.part = "experts", .shape = {{"tokens", tokens}}, .left_out = NoRoom(needed_)});
    return;
  }
  for (const Load load : kLoads) on_row(Time(load, tokens));
}

}  // namespace

void TimeKernels(const ModelSpec& spec, OpBench& bench, std::span<const int> tokens,
                 const OnPartRow& on_row) {
  {
    DenseParts dense(spec, bench);
    const std::vector<Product> products = ProductsOf(spec);
    for (const int count : tokens) {
      on_row(dense.Norm(count));
      for (const Product& product : products) {
        if (product.sampled && count > MaxLogitRows(bench.options())) continue;
        on_row(dense.Time(product, count));
      }
    }
  }
  if (spec.moe.num_experts == 0) return;
  const ExpertParts experts(spec, bench);
  for (const int count : tokens) experts.Time(count, on_row);
}

}  // namespace sluice
