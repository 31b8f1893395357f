#include <algorithm>
#include <cmath>
#include <string_view>
#include <unordered_set>

#include "arch/model_spec.h"
#include "base/error.h"

namespace sluice {
namespace {

// How many names an error lists before it says how many more there are.
constexpr size_t kNamesShown = 5;

[[noreturn]] void Refuse(const ModelSpec& spec, const std::string& field, const std::string& value,
                         const std::string& expected) {
  throw Error(ErrorCode::kUnsupported,
              spec.family + ": " + field + " is " + value + ", expected " + expected);
}

void RequireIn(const ModelSpec& spec, const std::string& field, int64_t value, int64_t low,
               int64_t high) {
  if (value >= low && value <= high) return;
  Refuse(spec, field, std::to_string(value),
         "a value in [" + std::to_string(low) + ", " + std::to_string(high) + "]");
}

// Far above any model, and low enough that no product of two passes 2^63.
constexpr int64_t kMaxDim = 1 << 24;
// Far above any head.
constexpr int64_t kMaxHeadDim = 4096;

void RequirePositive(const ModelSpec& spec, const std::string& field, double value) {
  if (!(value > 0.0) || !std::isfinite(value))
    Refuse(spec, field, std::to_string(value), "above 0");
}

void ValidateRope(const ModelSpec& spec) {
  const ops::RopeDesc& rope = spec.attention.rope;
  RequireIn(spec, "attention.rope.rotary_dim", rope.rotary_dim, 2, spec.attention.head_dim);
  if (rope.rotary_dim % 2 != 0) {
    Refuse(spec, "attention.rope.rotary_dim", std::to_string(rope.rotary_dim), "even");
  }
  RequirePositive(spec, "attention.rope.theta", rope.theta);
  RequirePositive(spec, "attention.rope.factor", rope.factor);
  RequirePositive(spec, "attention.rope.attention_factor", rope.attention_factor);
  if (rope.scaling == ops::RopeScaling::kYarn || rope.scaling == ops::RopeScaling::kWavelength) {
    RequireIn(spec, "attention.rope.original_positions", rope.original_positions, 1, kMaxDim);
  }
  if (rope.scaling == ops::RopeScaling::kYarn && rope.theta == 1.0) {
    Refuse(spec, "attention.rope.theta", "1",
           "another value with YaRN, which divides by ln(theta)");
  }
  if (rope.scaling == ops::RopeScaling::kWavelength &&
      !(rope.high_freq_factor > rope.low_freq_factor)) {
    Refuse(spec, "attention.rope.high_freq_factor", std::to_string(rope.high_freq_factor),
           "above low_freq_factor, " + std::to_string(rope.low_freq_factor));
  }
}

void RequireMultipleOf8(const ModelSpec& spec, const std::string& field, int value) {
  if (value % 8 != 0) Refuse(spec, field, std::to_string(value), "a multiple of 8");
}

void ValidateHeads(const ModelSpec& spec) {
  RequireIn(spec, "attention.head_dim", spec.attention.head_dim, 16, 256);
  RequireMultipleOf8(spec, "attention.head_dim", spec.attention.head_dim);
}

void ValidateLatent(const ModelSpec& spec) {
  const AttentionSpec& attention = spec.attention;
  const LatentSpec& latent = attention.latent;
  RequireIn(spec, "attention.latent.q_rank", latent.q_rank, 0, kMaxDim);
  RequireIn(spec, "attention.latent.kv_rank", latent.kv_rank, 8, 1024);
  RequireMultipleOf8(spec, "attention.latent.kv_rank", latent.kv_rank);
  RequireIn(spec, "attention.latent.rope_dim", latent.rope_dim, 8, 256);
  RequireMultipleOf8(spec, "attention.latent.rope_dim", latent.rope_dim);
  RequireIn(spec, "attention.latent.nope_dim", latent.nope_dim, 1, kMaxHeadDim);
  RequireIn(spec, "attention.latent.value_dim", latent.value_dim, 1, kMaxHeadDim);
  RequireIn(spec, "attention.head_dim", attention.head_dim, latent.nope_dim + latent.rope_dim,
            latent.nope_dim + latent.rope_dim);
  RequireIn(spec, "attention.rope.rotary_dim", attention.rope.rotary_dim, latent.rope_dim,
            latent.rope_dim);
  RequireIn(spec, "attention.num_kv_heads", attention.num_kv_heads, attention.num_heads,
            attention.num_heads);
  RequirePositive(spec, "attention.latent.norm_eps", latent.norm_eps);
  if (attention.qk_norm != ops::QkNorm::kNone) {
    Refuse(spec, "attention.qk_norm", "set", "none with latent attention");
  }
  if (attention.clip_qkv) {
    Refuse(spec, "attention.clip_qkv", std::to_string(*attention.clip_qkv),
           "not set with latent attention");
  }
  if (attention.window > 0) {
    Refuse(spec, "attention.window", std::to_string(attention.window), "0 with latent attention");
  }
}

void ValidateMask(const ModelSpec& spec) {
  const AttentionSpec& attention = spec.attention;
  const bool causal = attention.mask == ops::AttentionMask::kCausal;
  if (!causal && attention.mask != ops::AttentionMask::kFull) {
    Refuse(spec, "attention.mask", "a tree", "causal or full: trees are a step's");
  }
  const bool windowed = std::find(attention.windowed.begin(), attention.windowed.end(), true) !=
                        attention.windowed.end();
  RequireIn(spec, "attention.window", attention.window, windowed ? 1 : 0, windowed ? kMaxDim : 0);
  if (!attention.windowed.empty()) {
    RequireIn(spec, "the length of attention.windowed",
              static_cast<int64_t>(attention.windowed.size()), spec.num_layers, spec.num_layers);
  }
  if (windowed && !causal)
    Refuse(spec, "attention.mask", "full", "causal where layers have windows");
}

void ValidateAttention(const ModelSpec& spec) {
  const AttentionSpec& attention = spec.attention;
  RequireIn(spec, "attention.num_heads", attention.num_heads, 1, 4096);
  RequireIn(spec, "attention.num_kv_heads", attention.num_kv_heads, 1, attention.num_heads);
  if (attention.num_heads % attention.num_kv_heads != 0) {
    Refuse(spec, "attention.num_kv_heads", std::to_string(attention.num_kv_heads),
           "a divisor of num_heads, " + std::to_string(attention.num_heads));
  }
  if (attention.kind == AttentionKind::kLatent) {
    ValidateLatent(spec);
  } else {
    ValidateHeads(spec);
  }
  ValidateRope(spec);
  RequirePositive(spec, "attention.scale", attention.scale);
  if (attention.clip_qkv) RequirePositive(spec, "attention.clip_qkv", *attention.clip_qkv);
  ValidateMask(spec);
}

// What ops::Router asks of groups.
void ValidateGroups(const ModelSpec& spec) {
  const MoeSpec& moe = spec.moe;
  if (moe.num_groups == 1 && moe.top_groups == 1) return;
  RequireIn(spec, "moe.num_groups", moe.num_groups, 1, moe.num_experts / 2);
  if (moe.num_experts % moe.num_groups != 0) {
    Refuse(spec, "moe.num_groups", std::to_string(moe.num_groups),
           "a divisor of num_experts, " + std::to_string(moe.num_experts));
  }
  const int size = moe.num_experts / moe.num_groups;
  RequireIn(spec, "moe.top_groups", moe.top_groups, (moe.top_k + size - 1) / size, moe.num_groups);
  if (moe.score != ops::RouterScore::kSigmoid) {
    Refuse(spec, "moe.num_groups", std::to_string(moe.num_groups), "1 where moe.score is softmax");
  }
}

void ValidateMoe(const ModelSpec& spec) {
  const MoeSpec& moe = spec.moe;
  if (spec.NumMoeLayers() == 0) return;
  RequireIn(spec, "moe.num_experts", moe.num_experts, 1, 1024);
  RequireIn(spec, "moe.top_k", moe.top_k, 1, std::min(64, moe.num_experts));
  RequireIn(spec, "moe.expert_ffn", moe.expert_ffn, 1, kMaxDim);
  RequireIn(spec, "moe.shared_ffn", moe.shared_ffn, 0, kMaxDim);
  if (moe.shared_gate && moe.shared_ffn == 0) {
    Refuse(spec, "moe.shared_gate", "true", "false where moe.shared_ffn is 0");
  }
  ValidateGroups(spec);
  if (moe.choice_bias && moe.score != ops::RouterScore::kSigmoid) {
    Refuse(spec, "moe.choice_bias", "true", "false where moe.score is softmax");
  }
  RequirePositive(spec, "moe.topk_norm", moe.topk_norm);
  if (!(moe.scale > 0.0f)) Refuse(spec, "moe.scale", std::to_string(moe.scale), "above 0");
}

void ValidateTable(const ModelSpec& spec) {
  std::unordered_set<std::string> names;
  for (const TensorRule& rule : spec.tensors) {
    if (!names.insert(rule.name).second) {
      Refuse(spec, "tensors", "\"" + rule.name + "\" twice", "every name once");
    }
    const bool per_layer = rule.name.find("{layer}") != std::string::npos;
    if (per_layer != (rule.layers != LayerSet::kNone) || (rule.PerExpert() && !per_layer)) {
      Refuse(spec, "tensors", "\"" + rule.name + "\"", "{layer} where the rule is of layers");
    }
    if ((rule.stacked_experts || rule.transposed) && rule.shape.rank() != 2) {
      Refuse(spec, "tensors", "\"" + rule.name + "\" of stacked experts", "matrices");
    }
    if (rule.transposed && !rule.stacked_experts) {
      Refuse(spec, "tensors", "\"" + rule.name + "\" transposed", "stacked experts there");
    }
    if (rule.shard == ShardAxis::kColumns && rule.shape.rank() != 2) {
      Refuse(spec, "tensors", "\"" + rule.name + "\" sharded by columns", "a matrix");
    }
  }
  if (spec.tie_embeddings == (FindRule(spec, TensorRole::kLmHead) != nullptr)) {
    Refuse(spec, "tie_embeddings", spec.tie_embeddings ? "true" : "false",
           "a head in the table exactly when it is false");
  }
}

// Whether `name` is matched by `pattern`, in which `*` stands for any run of characters.
bool Matches(std::string_view name, std::string_view pattern) {
  const size_t star = pattern.find('*');
  if (star == std::string_view::npos) return name == pattern;
  if (name.substr(0, star) != pattern.substr(0, star)) return false;
  const std::string_view rest = pattern.substr(star + 1);
  for (size_t at = star; at <= name.size(); ++at) {
    if (Matches(name.substr(at), rest)) return true;
  }
  return false;
}

bool IsIgnored(const ModelSpec& spec, const std::string& name) {
  return std::any_of(spec.ignored_tensors.begin(), spec.ignored_tensors.end(),
                     [&](const std::string& pattern) { return Matches(name, pattern); });
}

// Counts tensors that are wrong and remembers the first few for the message.
class WrongTensors {
 public:
  void Add(const std::string& name) {
    if (++count_ > kNamesShown) return;
    if (count_ > 1) names_ += ", ";
    names_ += name;
  }

  // Throws Error(kDataLoss) when there are any.
  void FailIfAny(const std::string& origin, const std::string& what,
                 const std::string& advice) const {
    if (count_ == 0) return;
    std::string message = origin + ": " + std::to_string(count_) + " tensor(s) " + what + ": ";
    message += names_;
    if (count_ > kNamesShown) message += " and " + std::to_string(count_ - kNamesShown) + " more";
    throw Error(ErrorCode::kDataLoss, message + "; " + advice);
  }

 private:
  size_t count_ = 0;
  std::string names_;
};

// Bounds on the model as a whole, several times what any published one has. Sums and products of
// its sizes then stay inside 64 bits wherever they are made, and lists of its tensors stay small.
constexpr int64_t kMaxTensors = 1 << 18;
constexpr int64_t kMaxParameters = int64_t{1} << 44;
constexpr int64_t kMaxKeyWidth = 1 << 26;  // elements of one position's keys, over all layers

// Adds count * size to `total`; false when that passes `limit`.
bool AddWithin(int64_t limit, int64_t count, int64_t size, int64_t& total) {
  int64_t product = 0;
  return !__builtin_mul_overflow(count, size, &product) &&
         !__builtin_add_overflow(total, product, &total) && total <= limit;
}

// Returns the elements of a shape, or a number past every bound.
int64_t BoundedElements(const Shape& shape) {
  int64_t elements = 1;
  for (int i = 0; i < shape.rank(); ++i) {
    if (__builtin_mul_overflow(elements, shape[i], &elements)) return kMaxParameters + 1;
  }
  return elements;
}

void ValidateTotals(const ModelSpec& spec) {
  int64_t tensors = 0;
  int64_t parameters = 0;
  for (const TensorRule& rule : spec.tensors) {
    int64_t copies = 1;
    if (rule.layers != LayerSet::kNone) {
      copies = 0;
      for (int layer = 0; layer < spec.num_layers; ++layer) {
        copies += spec.HasLayer(rule.layers, layer) ? 1 : 0;
      }
    }
    if (rule.PerExpert()) copies *= spec.moe.num_experts;
    if (!AddWithin(kMaxTensors, copies, 1, tensors)) {
      Refuse(spec, "the number of tensors", "past " + std::to_string(kMaxTensors),
             "fewer layers (" + std::to_string(spec.num_layers) + ") or experts (" +
                 std::to_string(spec.moe.num_experts) + ")");
    }
    if (!AddWithin(kMaxParameters, copies, BoundedElements(rule.shape), parameters)) {
      Refuse(spec, "the number of parameters", "past 2^44 with \"" + rule.name + "\"",
             "smaller dimensions");
    }
  }
  int64_t key_width = 0;
  const int64_t per_layer = int64_t{spec.attention.num_kv_heads} * spec.attention.head_dim;
  if (!AddWithin(kMaxKeyWidth, spec.num_layers, per_layer, key_width)) {
    Refuse(spec, "the width of one position's keys over all layers",
           std::to_string(per_layer) + " x " + std::to_string(spec.num_layers),
           "at most " + std::to_string(kMaxKeyWidth));
  }
}

}  // namespace

void Validate(const ModelSpec& spec) {
  RequireIn(spec, "vocab_size", spec.vocab_size, 1, kMaxDim);
  RequireIn(spec, "hidden_size", spec.hidden_size, 1, kMaxDim);
  RequireIn(spec, "num_layers", spec.num_layers, 1, 1024);
  RequireIn(spec, "max_positions", spec.max_positions, 1, int64_t{1} << 30);
  if (!(spec.norm_eps > 0.0f)) {
    Refuse(spec, "norm_eps", std::to_string(spec.norm_eps), "above 0");
  }
  RequireIn(spec, "the length of ffn", static_cast<int64_t>(spec.ffn.size()), spec.num_layers,
            spec.num_layers);
  ValidateAttention(spec);
  if (spec.NumMoeLayers() < spec.num_layers) {
    RequireIn(spec, "dense.intermediate", spec.dense.intermediate, 1, kMaxDim);
  }
  ValidateMoe(spec);
  ValidateTable(spec);
  ValidateTotals(spec);
}

void CheckTensors(const ModelSpec& spec, const WeightSource& source) {
  WrongTensors missing;
  WrongTensors misshapen;
  std::unordered_set<std::string> found;
  for (const DummySource::Listed& tensor : ListTensors(spec)) {
    if (!source.Has(tensor.name)) {
      missing.Add(tensor.name);
      continue;
    }
    found.insert(tensor.name);
    if (const Shape shape = source.shape(tensor.name); !(shape == tensor.shape)) {
      misshapen.Add(tensor.name + " is " + shape.ToString() + ", expected " +
                    tensor.shape.ToString());
    }
  }
  WrongTensors unused;
  for (const std::string& name : source.names()) {
    if (!found.contains(name) && !IsIgnored(spec, name)) unused.Add(name);
  }
  const std::string origin = source.origin();
  missing.FailIfAny(origin, "that " + spec.family + " needs are not in the checkpoint",
                    "the download is incomplete, or config.json belongs to another model");
  misshapen.FailIfAny(origin, "have another shape than config.json says",
                      "config.json belongs to another model");
  unused.FailIfAny(
      origin, "of the checkpoint are not part of " + spec.family + " as config.json describes it",
      "running without them would give wrong results, so this is refused");
}

}  // namespace sluice
