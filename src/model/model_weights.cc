#include "model/model_weights.h"

#include <algorithm>
#include <cstring>
#include <optional>
#include <string>
#include <utility>

#include "base/check.h"

namespace sluice {
namespace {

const TensorRule& RequireRule(const ModelSpec& spec, TensorRole role) {
  const TensorRule* rule = FindRule(spec, role);
  SLUICE_CHECK(rule != nullptr);
  return *rule;
}

template <class T>
void TransposeAs(ConstTensorView from, int64_t first, TensorView to) {
  for (int64_t r = 0; r < from.dim(0); ++r) {
    const T* row = from.data<T>() + r * from.dim(1);
    T* column = to.data<T>() + first + r;
    for (int64_t c = 0; c < from.dim(1); ++c) column[c * to.dim(1)] = row[c];
  }
}

// Rows of `from` [rows, columns] to columns [first, first + rows) of `to` [columns, >= rows]; both
// contiguous and of one dtype.
void Transpose(ConstTensorView from, int64_t first, TensorView to) {
  switch (from.dtype()) {
    case DType::kF32:
      return TransposeAs<float>(from, first, to);
    case DType::kBF16:
      return TransposeAs<Bf16>(from, first, to);
    case DType::kF16:
      return TransposeAs<F16>(from, first, to);
    default:
      SLUICE_CHECK(false);
  }
}

}  // namespace

// Allocates the tensors, notes which file tensor goes where, then reads them all in parallel.
class ModelWeights::Builder {
 public:
  Builder(ModelWeights& weights, const ModelSpec& spec, DType dtype, CudaStream* stream)
      : weights_(weights), spec_(spec), dtype_(dtype), stream_(stream) {}

  void Plan() {
    weights_.embedding_ = Whole(TensorRole::kEmbedding, 0, dtype_);
    weights_.final_norm_ = Whole(TensorRole::kFinalNorm, 0, DType::kF32);
    weights_.lm_head_ =
        spec_.tie_embeddings ? weights_.embedding_ : Whole(TensorRole::kLmHead, 0, dtype_);
    for (int i = 0; i < spec_.num_layers; ++i) weights_.layers_.push_back(PlanLayer(i));
  }

  void Read(const WeightSource& source, ThreadPool& pool, const OnBytesRead& on_read) {
    const auto each = [&](int64_t count, const auto& read) {
      pool.ParallelFor(count, 1, [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) read(i);
      });
    };
    if (stream_ == nullptr) {
      each(std::ssize(jobs_), [&](int64_t i) { ReadJob(source, jobs_[i], on_read); });
      return;
    }
    each(std::ssize(weights_.storage_), [&](int64_t i) { ReadToDevice(source, i, on_read); });
    stream_->Synchronize();
  }

 private:
  // A job's name where no tensor is read.
  static constexpr const char* kZeros = "";

  // A tensor, or rows of one, and where it goes.
  struct Job {
    std::string name;
    Shape shape;
    TensorView target;
    size_t storage = 0;  // index of the tensor that `target` is part of
    int64_t first_row = 0;
    bool transpose = false;  // `target` is [columns, rows]
  };

  static void ReadJob(const WeightSource& source, const Job& job, const OnBytesRead& on_read) {
    if (job.name == kZeros) {
      std::memset(job.target.raw(), 0, job.target.NumBytes());
      return;
    }
    if (job.transpose) {
      const Tensor rows(job.target.dtype(), {job.target.dim(1), job.target.dim(0)});
      source.ReadRows(job.name, job.shape, job.first_row, rows.view());
      Transpose(rows.view(), 0, job.target);
    } else {
      source.ReadRows(job.name, job.shape, job.first_row, job.target);
    }
    if (on_read) on_read(job.target.NumBytes());
  }

  // One tensor's jobs, by way of host memory of its size.
  void ReadToDevice(const WeightSource& source, size_t storage, const OnBytesRead& on_read) {
    const TensorView device = weights_.storage_[storage].view();
    const Tensor host(device.dtype(), device.shape());
    for (const Job& job : jobs_) {
      if (job.storage != storage) continue;
      Job here = job;
      const auto offset =
          static_cast<std::byte*>(job.target.raw()) - static_cast<std::byte*>(device.raw());
      here.target = TensorView(static_cast<std::byte*>(host.view().raw()) + offset,
                               job.target.dtype(), job.target.shape());
      ReadJob(source, here, on_read);
    }
    stream_->Copy(device.raw(), host.view().raw(), device.NumBytes());
  }

  TensorView Store(DType dtype, const Shape& shape) {
    const MemoryKind memory = stream_ == nullptr ? MemoryKind::kHost : MemoryKind::kCuda;
    return weights_.storage_.emplace_back(dtype, shape, memory).view();
  }

  LayerWeights PlanLayer(int layer) {
    using enum TensorRole;
    LayerWeights w;
    w.input_norm = Whole(kInputNorm, layer, DType::kF32);
    if (spec_.attention.kind == AttentionKind::kLatent) {
      w.latent = PlanLatent(layer);
    } else {
      w.qkv = FindRule(spec_, kQkv) != nullptr ? Whole(kQkv, layer, dtype_)
                                               : Stacked({kQ, kK, kV}, layer, dtype_);
      w.qkv_bias = Stacked({kQBias, kKBias, kVBias}, layer, DType::kF32);
      w.q_norm = Whole(kQNorm, layer, DType::kF32);
      w.k_norm = Whole(kKNorm, layer, DType::kF32);
    }
    w.o = Whole(kO, layer, dtype_);
    w.o_bias = Whole(kOBias, layer, DType::kF32);
    w.post_attention_norm = Whole(kPostAttentionNorm, layer, DType::kF32);
    w.gate_up = Stacked({kGate, kUp}, layer, dtype_);
    w.gate_up_bias = Stacked({kGateBias, kUpBias}, layer, DType::kF32);
    w.down = Whole(kDown, layer, dtype_);
    w.down_bias = Whole(kDownBias, layer, DType::kF32);
    w.moe.router = Whole(kRouter, layer, dtype_);
    w.moe.router_bias = Whole(kRouterBias, layer, DType::kF32);
    w.moe.shared_gate_up = Stacked({kSharedGate, kSharedUp}, layer, dtype_);
    w.moe.shared_down = Whole(kSharedDown, layer, dtype_);
    w.moe.shared_expert_gate = Whole(kSharedExpertGate, layer, dtype_);
    return w;
  }

  LatentWeights PlanLatent(int layer) {
    using enum TensorRole;
    const LatentSpec& latent = spec_.attention.latent;
    const bool low_rank = latent.q_rank > 0;
    LatentWeights w{.q_kv_a = Stacked({low_rank ? kQA : kQ, kKvA}, layer, dtype_),
                    .q_kv_a_bias = low_rank ? Stacked({kQABias, kKvABias}, layer, DType::kF32)
                                            : LatentBias(layer),
                    .q_a_norm = Whole(kQANorm, layer, DType::kF32),
                    .q_b = Whole(kQB, layer, dtype_),
                    .kv_a_norm = Whole(kKvANorm, layer, DType::kF32),
                    .k_up = {},
                    .v_up = {}};
    const int64_t heads = spec_.attention.num_heads;
    const TensorRule& kv_b = RequireRule(spec_, kKvB);
    const TensorView k_up = Store(dtype_, {heads, latent.kv_rank, latent.nope_dim});
    const size_t k_storage = weights_.storage_.size() - 1;
    const TensorView v_up = Store(dtype_, {heads, latent.value_dim, latent.kv_rank});
    for (int64_t h = 0; h < heads; ++h) {
      const int64_t row = h * (latent.nope_dim + latent.value_dim);
      const std::string name = TensorName(kv_b, layer, 0);
      jobs_.push_back({name, kv_b.shape, k_up[h], k_storage, row, /*transpose=*/true});
      jobs_.push_back({name, kv_b.shape, v_up[h], k_storage + 1, row + latent.nope_dim});
    }
    w.k_up = k_up;
    w.v_up = v_up;
    return w;
  }

  // The bias of q_kv_a where queries are projected at once, and without one: zeros, then kv_a's.
  ConstTensorView LatentBias(int layer) {
    const TensorRule* rule = FindRule(spec_, TensorRole::kKvABias);
    if (rule == nullptr) return {};
    const int64_t q_rows = RequireRule(spec_, TensorRole::kQ).shape[0];
    const TensorView whole = Store(DType::kF32, {q_rows + rule->shape[0]});
    const size_t storage = weights_.storage_.size() - 1;
    jobs_.push_back({kZeros, {}, whole.Slice(0, q_rows), storage});
    jobs_.push_back({TensorName(*rule, layer, 0), rule->shape,
                     whole.Slice(q_rows, q_rows + rule->shape[0]), storage});
    return whole;
  }

  ConstTensorView Whole(TensorRole role, int layer, DType dtype) {
    return Stacked({role}, layer, dtype);
  }

  // The tensors of `roles` behind each other along their first dimension, in one allocation; empty
  // where the layer has none of them.
  ConstTensorView Stacked(std::initializer_list<TensorRole> roles, int layer, DType dtype) {
    std::vector<const TensorRule*> rules;
    Shape shape;
    for (TensorRole role : roles) {
      const TensorRule* rule = FindRule(spec_, role);
      const bool applies = rule != nullptr &&
                           (rule->layers == LayerSet::kNone || spec_.HasLayer(rule->layers, layer));
      if (!applies) continue;
      const int64_t rows = rule->shape[0] + (rules.empty() ? 0 : shape[0]);
      shape = rule->shape;
      shape[0] = rows;
      rules.push_back(rule);
    }
    if (rules.empty()) return {};
    SLUICE_CHECK_EQ(rules.size(), roles.size());
    const TensorView whole = Store(dtype, shape);
    const size_t storage = weights_.storage_.size() - 1;
    int64_t row = 0;
    for (const TensorRule* rule : rules) {
      const TensorView part = whole.Slice(row, row + rule->shape[0]);
      jobs_.push_back({TensorName(*rule, layer, 0), rule->shape, part, storage});
      row += rule->shape[0];
    }
    return whole;
  }

  ModelWeights& weights_;
  const ModelSpec& spec_;
  DType dtype_;
  CudaStream* stream_;  // null = the host
  std::vector<Job> jobs_;
};

ModelWeights::ModelWeights(const ModelSpec& spec, const WeightSource& source, DType dtype,
                           ThreadPool& pool, const OnBytesRead& on_read, CudaStream* stream) {
  Builder builder(*this, spec, dtype, stream);
  builder.Plan();
  builder.Read(source, pool, on_read);
}

uint64_t ModelWeights::NumBytes() const {
  uint64_t bytes = 0;
  for (const Tensor& tensor : storage_) bytes += tensor.view().NumBytes();
  return bytes;
}

CheckpointExperts::CheckpointExperts(const ModelSpec& spec, const WeightSource& source,
                                     OnBytesRead on_read)
    : source_(source),
      on_read_(std::move(on_read)),
      gate_(RequireRule(spec, TensorRole::kExpertGate)),
      up_(RequireRule(spec, TensorRole::kExpertUp)),
      down_(RequireRule(spec, TensorRole::kExpertDown)),
      spec_(spec) {}

void CheckpointExperts::ReadMatrix(const TensorRule& rule, int layer, int expert,
                                   TensorView target) const {
  const std::string name = TensorName(rule, layer, expert);
  const Shape whole = TensorShape(spec_, rule);
  const int64_t first = rule.stacked_experts ? expert * rule.shape[0] : 0;
  if (!rule.transposed) return source_.ReadRows(name, whole, first, target);
  // A strip of rows at a time, each of which becomes a column.
  constexpr int64_t kStripRows = 32;
  const Tensor strip(target.dtype(), {kStripRows, rule.shape[1]});
  for (int64_t row = 0; row < rule.shape[0]; row += kStripRows) {
    const int64_t end = std::min(row + kStripRows, rule.shape[0]);
    const TensorView part = strip.view().Slice(0, end - row);
    source_.ReadRows(name, whole, first + row, part);
    Transpose(part, row, target);
  }
}

void CheckpointExperts::Read(int layer, int expert, const ExpertSlotView& target) const {
  ReadMatrix(gate_, layer, expert, target.gate);
  ReadMatrix(up_, layer, expert, target.up);
  ReadMatrix(down_, layer, expert, target.down);
  if (on_read_) on_read_(3 * target.gate.NumBytes());
}

std::vector<int> MoeLayers(const ModelSpec& spec) {
  std::vector<int> layers;
  for (int i = 0; i < spec.num_layers; ++i) {
    if (spec.ffn[i] == FfnKind::kMoe) layers.push_back(i);
  }
  return layers;
}

ExpertLayout ExpertLayoutOf(const ModelSpec& spec, DType dtype) {
  return {.hidden = spec.hidden_size, .ffn = spec.moe.expert_ffn, .dtype = dtype};
}

}  // namespace sluice
