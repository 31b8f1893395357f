// Compiled without fused multiply-adds: see weights.h.
#include "ops/common/cuda/launch_together.cuh"
#include "ops/common/cuda/math.cuh"
#include "sampling/device_sampler_kernels.h"

namespace sluice::cuda {
namespace {

using ops::cuda::CeilDiv;
using ops::cuda::kWarp;

constexpr int kThreads = 512;
constexpr int kBlocksPerMultiprocessor = 2;
constexpr int kWarps = kThreads / kWarp;
constexpr int kBinsPerThread = kSelectBins / kThreads;
constexpr int kBinBits = 11;
// Consecutive tokens of a thread where their order counts.
constexpr int kRun = 4;
constexpr uint32_t kInfinityBits = 0x7f800000u;

// A logit's bits such that larger logits have larger ones, and both zeros the same.
__device__ __forceinline__ uint32_t Ordered(float x) {
  const uint32_t bits = FloatBits(x + 0.0f);
  return (bits & 0x80000000u) != 0 ? ~bits : bits | 0x80000000u;
}

__device__ __forceinline__ float FromOrdered(uint32_t bits) {
  return FloatOf((bits & 0x80000000u) != 0 ? bits & 0x7fffffffu : ~bits);
}

// What a select keeps: keys above the cut's, and tokens of the cut's own key below an id.
struct Cut {
  uint32_t key = 0;
  uint32_t ties_end = 0xffffffffu;
  __device__ bool Keeps(uint32_t other, uint32_t token) const {
    return other > key || (other == key && token < ties_end);
  }
};

struct Kept {
  Cut cut;
  uint64_t mass = 0;
};

struct Pair {
  uint64_t count;
  uint64_t mass;
};

struct Shared {
  uint64_t masses[kSelectBins];
  uint32_t counts[kSelectBins];
  Pair warps[kWarps];
  Pair before;  // of the bin found, and the bin itself
  Pair found;
  Pair total;
  int32_t bin;
  uint32_t ticket;
};

// The blocks that work on one row, each on a part of its tokens.
class RowWork {
 public:
  __device__ RowWork(const SampleParams& params, Shared& shared)
      : p_(params),
        row_(params.rows[blockIdx.y]),
        state_(params.states[blockIdx.y]),
        shared_(shared),
        logits_(params.logits + row_.logits_row * params.vocab) {
    const auto part = static_cast<uint32_t>(CeilDiv(params.vocab, int64_t{gridDim.x}));
    const auto vocab = static_cast<uint32_t>(params.vocab);
    begin_ = min(vocab, blockIdx.x * part);
    end_ = min(vocab, begin_ + part);
  }

  __device__ void Run() {
    const bool scores = row_.num_top >= 0;
    const bool edits = row_.edit_count > 0;
    if (scores) ScoreRaw();
    if (edits) Edit();
    if (scores && !edits) {
      if (Leads()) state_.best = Volatile(state_.raw_best);
      Barrier();
    } else {
      FindBest(state_.best);
    }
    const uint64_t best = Volatile(state_.best);
    const float largest = FromOrdered(static_cast<uint32_t>(best >> 32));
    if (Drawable(largest)) {
      if (row_.inverse_temperature == 0.0f) {
        if (Leads()) state_.token = static_cast<int32_t>(~static_cast<uint32_t>(best));
      } else {
        Draw(largest);
      }
    }
    if (scores || edits) Barrier();
    if (edits) Restore();
    if (scores) Rank();
    Finish(largest);
  }

 private:
  __device__ bool Leads() const { return blockIdx.x == 0 && threadIdx.x == 0; }

  template <class T>
  __device__ static T Volatile(const T& value) {
    return *const_cast<const volatile T*>(&value);
  }

  // NaN or +infinity anywhere, or nothing but -infinity: no token.
  __device__ bool Drawable(float largest) const {
    return Volatile(state_.problem) == kNoProblem &&
           (FloatBits(largest) & 0x7fffffffu) != kInfinityBits;
  }

  // Waits until every block of the row is here; what they wrote before can be seen.
  __device__ void Barrier() {
    __syncthreads();
    if (gridDim.x == 1) return;
    if (threadIdx.x == 0) {
      round_ += gridDim.x;
      __threadfence();
      atomicAdd(&state_.arrived, 1u);
      while (Volatile(state_.arrived) < round_) {
      }
      __threadfence();
    }
    __syncthreads();
  }

  // Calls f(token) for each of the block's tokens.
  template <class F>
  __device__ void ForEach(F f) const {
    for (uint32_t i = begin_ + threadIdx.x; i < end_; i += kThreads) f(i);
  }

  // Both sums over the threads before this one; the sums over all in shared_.total. Ends with all
  // threads past it.
  __device__ Pair ExclusiveSum(Pair own) {
    const int lane = threadIdx.x % kWarp;
    const int warp = threadIdx.x / kWarp;
    Pair sum = own;
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const uint64_t count = __shfl_up_sync(0xffffffffu, sum.count, offset);
      const uint64_t mass = __shfl_up_sync(0xffffffffu, sum.mass, offset);
      if (lane < offset) continue;
      sum.count += count;
      sum.mass += mass;
    }
    __syncthreads();
    if (lane == kWarp - 1) shared_.warps[warp] = sum;
    __syncthreads();
    Pair before{sum.count - own.count, sum.mass - own.mass};
    Pair total{0, 0};
    for (int i = 0; i < kWarps; ++i) {
      if (i < warp) {
        before.count += shared_.warps[i].count;
        before.mass += shared_.warps[i].mass;
      }
      total.count += shared_.warps[i].count;
      total.mass += shared_.warps[i].mass;
    }
    if (threadIdx.x == 0) shared_.total = total;
    __syncthreads();
    return before;
  }

  __device__ uint64_t BlockSum(uint64_t own) {
    ExclusiveSum({0, own});
    return shared_.total.mass;
  }

  // The largest logit and the lowest token that has it. A barrier for the row.
  __device__ void FindBest(uint64_t& best) {
    uint64_t own = 0;
    bool nan = false;
    ForEach([&](uint32_t i) {
      const float x = logits_[i];
      nan = nan || x != x;
      const uint64_t packed = (uint64_t{Ordered(x)} << 32) | ~i;
      own = packed > own ? packed : own;
    });
    for (int offset = kWarp / 2; offset > 0; offset /= 2) {
      const uint64_t other = __shfl_xor_sync(0xffffffffu, own, offset);
      own = other > own ? other : own;
    }
    const bool any_nan = __any_sync(0xffffffffu, nan) != 0;
    if (threadIdx.x % kWarp == 0) {
      if (any_nan) atomicOr(&state_.problem, kIsNan);
      atomicMax(reinterpret_cast<unsigned long long*>(&best), static_cast<unsigned long long>(own));
    }
    Barrier();
  }

  __device__ void AddTo(uint64_t& sum, uint64_t value) {
    atomicAdd(reinterpret_cast<unsigned long long*>(&sum), static_cast<unsigned long long>(value));
  }

  // What logprobs need of the logits as they came: their largest, their mass, the best of them.
  __device__ void ScoreRaw() {
    FindBest(state_.raw_best);
    const float largest = FromOrdered(static_cast<uint32_t>(Volatile(state_.raw_best) >> 32));
    uint64_t mass = 0;
    ForEach([&](uint32_t i) { mass += MassOf(ExpNonPositive(logits_[i] - largest)); });
    mass = BlockSum(mass);
    if (threadIdx.x == 0) AddTo(state_.raw_mass, mass);
    if (row_.num_top > 0) {
      const auto key = [&](uint32_t i) { return Ordered(logits_[i]); };
      const Cut cut = SelectByCount<32>(kSelectAlternatives, row_.num_top, key).cut;
      ForEach([&](uint32_t i) {
        if (!cut.Keeps(key(i), i)) return;
        const uint32_t place = atomicAdd(&state_.top_count, 1u);
        if (place >= kMostAlternatives) return;
        state_.top_values[place] = logits_[i];
        state_.top_tokens[place] = static_cast<int32_t>(i);
      });
    }
    Barrier();
  }

  __device__ void Edit() {
    for (int e = blockIdx.x * kThreads + threadIdx.x; e < row_.edit_count;
         e += gridDim.x * kThreads) {
      const LogitEdit& edit = p_.edits[row_.edit_begin + e];
      float& logit = logits_[edit.token];
      p_.saved[row_.edit_begin + e] = logit;
      logit = EditedLogit(logit, edit);
    }
    Barrier();
  }

  __device__ void Restore() {
    for (int e = blockIdx.x * kThreads + threadIdx.x; e < row_.edit_count;
         e += gridDim.x * kThreads) {
      logits_[p_.edits[row_.edit_begin + e].token] = p_.saved[row_.edit_begin + e];
    }
    Barrier();
  }

  __device__ void Draw(float largest) {
    const auto weight_of = [&](uint32_t i) {
      const float weight = ExpNonPositive((logits_[i] - largest) * row_.inverse_temperature);
      return weight >= row_.min_p ? weight : 0.0f;
    };
    const auto key = [&](uint32_t i) { return FloatBits(weight_of(i)); };
    Kept kept;
    bool total_known = false;
    if (row_.top_k > 0 && row_.top_k < p_.vocab) {
      kept = SelectByCount<30>(kSelectTopK, row_.top_k, key);
      total_known = true;
    }
    if (row_.top_p < 1.0f) kept = SelectByMass(kept, total_known, key);
    Invert(kept.cut, key);
  }

  // The first token at which the running sum of the kept masses passes the drawn place.
  template <class Key>
  __device__ void Invert(const Cut& cut, Key key) {
    const auto mass_of = [&](uint32_t i) {
      const uint32_t bits = key(i);
      return cut.Keeps(bits, i) ? MassOf(FloatOf(bits)) : uint64_t{0};
    };
    uint64_t own = 0;
    ForEach([&](uint32_t i) { own += mass_of(i); });
    own = BlockSum(own);
    if (threadIdx.x == 0) state_.masses[blockIdx.x] = own;
    Barrier();
    uint64_t before = 0;
    uint64_t total = 0;
    for (uint32_t block = 0; block < gridDim.x; ++block) {
      const uint64_t mass = Volatile(state_.masses[block]);
      if (block < blockIdx.x) before += mass;
      total += mass;
    }
    const uint64_t target = DrawTarget(row_.random, total);
    if (target < before || target >= before + own) return;
    FindInOrder(target - before, mass_of,
                [&](uint32_t i) { state_.token = static_cast<int32_t>(i); });
  }

  // Calls found(token) for the block's first token at which the running sum of measure(token), from
  // the block's beginning, passes `target`.
  template <class Measure, class Found>
  __device__ void FindInOrder(uint64_t target, Measure measure, Found found) {
    uint64_t before = 0;
    for (uint32_t tile = begin_; tile < end_; tile += kThreads * kRun) {
      const uint32_t first = tile + threadIdx.x * kRun;
      uint64_t values[kRun];
      uint64_t own = 0;
      for (int i = 0; i < kRun; ++i) {
        values[i] = first + i < end_ ? measure(first + i) : 0;
        own += values[i];
      }
      uint64_t sum = before + ExclusiveSum({0, own}).mass;
      if (sum <= target && target < sum + own) {
        int i = 0;
        while ((sum += values[i]) <= target) ++i;
        found(first + i);
      }
      before += shared_.total.mass;
      if (before > target) return;
    }
  }

  // The `goal` best tokens by their keys of kBits bits; a lower id wins a tie. Keys of 0 count for
  // nothing.
  template <int kBits, class Key>
  __device__ Kept SelectByCount(SampleSelect which, uint64_t goal, Key key) {
    return Select<kBits, false>(which, goal, Cut{}, key);
  }

  // The fewest best of what `kept` keeps whose masses reach top_p of theirs.
  template <class Key>
  __device__ Kept SelectByMass(const Kept& kept, bool total_known, Key key) {
    const uint64_t goal = total_known ? TopPGoal(row_.top_p, kept.mass) : 0;
    return Select<30, true>(kSelectTopP, goal, kept.cut, key);
  }

  // By bits from the highest: the bin in which the goal is reached, then within it, until what it
  // keeps of the last bin is all of it or is told apart by ids. A goal of 0 by mass is top_p of
  // everything.
  template <int kBits, bool kByMass, class Key>
  __device__ Kept Select(SampleSelect which, uint64_t goal, const Cut& within, Key key) {
    uint32_t prefix = 0;
    Pair before{0, 0};
    int shift = kBits;
    for (int level = 0; level < kSelectLevels; ++level) {
      const int above = shift;
      shift = max(0, shift - kBinBits);
      const uint32_t mask = (1u << (above - shift)) - 1;
      FillHistogram(p_.histograms[blockIdx.y].levels[which][level], [&](uint32_t i) {
        const uint32_t bits = key(i);
        const bool counts =
            bits != 0 && within.Keeps(bits, i) && (level == 0 || bits >> above == prefix);
        return counts ? Item{static_cast<int32_t>((bits >> shift) & mask),
                             kBits == 32 ? 0 : MassOf(FloatOf(bits))}
                      : Item{-1, 0};
      });
      FindBin<kByMass>(goal, before);
      if (kByMass && goal == 0) goal = TopPGoal(row_.top_p, shared_.total.mass);
      if (shared_.bin < 0) return {within, shared_.total.mass};  // fewer than the goal
      prefix = level == 0 ? shared_.bin : prefix << (above - shift) | shared_.bin;
      before = shared_.before;
      const Pair bin = shared_.found;
      const uint64_t reached = kByMass ? before.mass + bin.mass : before.count + bin.count;
      if (reached == goal || bin.count == 1 || level + 1 == kSelectLevels) {
        return CutTies<kByMass>(which, goal, prefix << shift, shift == 0, before, bin, within, key);
      }
      __syncthreads();
    }
    return {};
  }

  struct Item {
    int32_t bin;
    uint64_t mass;
  };

  // Adds the block's items to its part of the row's histogram. A barrier for the row, after which
  // the block has the sums of all of it.
  template <class ItemOf>
  __device__ void FillHistogram(SelectHistogram& histogram, ItemOf item_of) {
    for (int bin = threadIdx.x; bin < kSelectBins; bin += kThreads) {
      shared_.masses[bin] = 0;
      shared_.counts[bin] = 0;
    }
    __syncthreads();
    ForEach([&](uint32_t i) {
      const Item item = item_of(i);
      if (item.bin < 0) return;
      atomicAdd(&shared_.counts[item.bin], 1u);
      AddTo(shared_.masses[item.bin], item.mass);
    });
    __syncthreads();
    for (int bin = threadIdx.x; bin < kSelectBins; bin += kThreads) {
      if (shared_.counts[bin] == 0) continue;
      atomicAdd(&histogram.counts[bin], shared_.counts[bin]);
      AddTo(histogram.masses[bin], shared_.masses[bin]);
    }
    Barrier();
    for (int bin = threadIdx.x; bin < kSelectBins; bin += kThreads) {
      shared_.counts[bin] = __ldcg(&histogram.counts[bin]);
      shared_.masses[bin] =
          __ldcg(reinterpret_cast<const unsigned long long*>(&histogram.masses[bin]));
    }
    __syncthreads();
  }

  // The bin, from the highest, at which what was `before` it and it reach the goal: shared_.bin,
  // or -1 where none does.
  template <bool kByMass>
  __device__ void FindBin(uint64_t goal, const Pair& before) {
    const int high = kSelectBins - 1 - static_cast<int>(threadIdx.x) * kBinsPerThread;
    Pair own{0, 0};
    for (int i = 0; i < kBinsPerThread; ++i) {
      own.count += shared_.counts[high - i];
      own.mass += shared_.masses[high - i];
    }
    Pair sum = ExclusiveSum(own);
    if (kByMass && goal == 0) goal = TopPGoal(row_.top_p, shared_.total.mass);
    if (threadIdx.x == 0) shared_.bin = -1;
    __syncthreads();
    sum.count += before.count;
    sum.mass += before.mass;
    for (int i = 0; i < kBinsPerThread; ++i) {
      const Pair bin{shared_.counts[high - i], shared_.masses[high - i]};
      const uint64_t from = kByMass ? sum.mass : sum.count;
      const uint64_t to = from + (kByMass ? bin.mass : bin.count);
      if (from < goal && goal <= to) {
        shared_.bin = high - i;
        shared_.before = sum;
        shared_.found = bin;
      }
      sum.count += bin.count;
      sum.mass += bin.mass;
    }
    __syncthreads();
  }

  // The cut within the last bin, whose keys begin with `key_from`: all of it, or, where it is of
  // one key and the goal is reached before its end, the tokens of lowest id.
  template <bool kByMass, class Key>
  __device__ Kept CutTies(SampleSelect which, uint64_t goal, uint32_t key_from, bool one_key,
                          const Pair& before, const Pair& bin, const Cut& within, Key key) {
    const uint64_t each = bin.mass / bin.count;
    uint64_t needed = bin.count;
    if (one_key) {
      needed = kByMass ? CeilDiv(goal - before.mass, each) : goal - before.count;
    }
    Cut cut = key_from > within.key ? Cut{key_from, 0xffffffffu} : within;
    if (needed == bin.count) return {cut, before.mass + bin.mass};
    const auto is_tie = [&](uint32_t i) {
      const uint32_t bits = key(i);
      return uint64_t{bits == key_from && within.Keeps(bits, i)};
    };
    uint64_t own = 0;
    ForEach([&](uint32_t i) { own += is_tie(i); });
    own = BlockSum(own);
    if (threadIdx.x == 0) state_.ties[which][blockIdx.x] = static_cast<uint32_t>(own);
    Barrier();
    uint64_t earlier = 0;
    for (uint32_t block = 0; block < blockIdx.x; ++block) {
      earlier += Volatile(state_.ties[which][block]);
    }
    if (earlier < needed && needed <= earlier + own) {
      FindInOrder(needed - 1 - earlier, is_tie,
                  [&](uint32_t i) { state_.ties_end[which] = i + 1; });
    }
    Barrier();
    cut.ties_end = Volatile(state_.ties_end[which]);
    return {cut, before.mass + needed * each};
  }

  // How many logits are above the token's, or are the same of a lower id.
  __device__ void Rank() {
    const auto token = static_cast<uint32_t>(Volatile(state_.token));
    const float own = logits_[token];
    uint64_t above = 0;
    ForEach([&](uint32_t i) {
      const float x = logits_[i];
      above += x > own || (x == own && i < token);
    });
    above = BlockSum(above);
    if (threadIdx.x == 0) atomicAdd(&state_.rank, static_cast<uint32_t>(above));
  }

  // The last block to come here writes the row's outcome.
  __device__ void Finish(float largest) {
    __syncthreads();
    if (threadIdx.x != 0) return;
    __threadfence();
    if (atomicAdd(&state_.finished, 1u) + 1 < gridDim.x) return;
    __threadfence();
    SampleOutcome& outcome = p_.outcomes[blockIdx.y];
    outcome.problem = Volatile(state_.problem);
    outcome.largest = largest;
    outcome.token = Volatile(state_.token);
    p_.tokens[blockIdx.y] = outcome.token;
    if (row_.num_top < 0) return;
    outcome.raw_largest = FromOrdered(static_cast<uint32_t>(Volatile(state_.raw_best) >> 32));
    outcome.own = logits_[outcome.token];
    outcome.rank = static_cast<int32_t>(Volatile(state_.rank)) + 1;
    outcome.raw_mass = Volatile(state_.raw_mass);
    outcome.top_count = static_cast<int32_t>(Volatile(state_.top_count));
    for (int i = 0; i < kMostAlternatives; ++i) {
      outcome.top_values[i] = Volatile(state_.top_values[i]);
      outcome.top_tokens[i] = Volatile(state_.top_tokens[i]);
    }
  }

  const SampleParams& p_;
  const SampleRow row_;
  SampleState& state_;
  Shared& shared_;
  float* logits_;
  uint32_t begin_;
  uint32_t end_;
  uint32_t round_ = 0;
};

__global__ void __launch_bounds__(kThreads, kBlocksPerMultiprocessor)
    SampleKernel(const SampleParams p) {
  __shared__ Shared shared;
  RowWork(p, shared).Run();
}

__global__ void FillInKernel(const FillInParams p) {
  const int64_t i = int64_t{blockIdx.x} * blockDim.x + threadIdx.x;
  if (i < p.count && p.tokens[i] < 0) p.tokens[i] = p.drawn[-1 - p.tokens[i]];
}

// Blocks a row: as many as run at once, where each has at least a few tokens a thread.
int RowBlocks(const SampleParams& params, const CudaStream& stream) {
  const int64_t room = int64_t{stream.device().multiprocessors} * kBlocksPerMultiprocessor;
  const int64_t useful = CeilDiv(params.vocab, int64_t{kThreads} * 8);
  int64_t blocks = room / params.count;
  if (blocks > useful) blocks = useful;
  if (blocks > kMostRowBlocks) blocks = kMostRowBlocks;
  return blocks < 1 ? 1 : static_cast<int>(blocks);
}

}  // namespace

void SampleRows(const SampleParams& params, CudaStream& stream) {
  if (params.count == 0) return;
  const auto blocks = static_cast<unsigned>(RowBlocks(params, stream));
  ops::cuda::LaunchTogether(
      "sample", &SampleKernel,
      {.grid = {blocks, static_cast<unsigned>(params.count)}, .block = kThreads}, stream, params);
}

void FillInTokens(const FillInParams& params, CudaStream& stream) {
  constexpr int kFillThreads = 128;
  const auto blocks = static_cast<unsigned>(CeilDiv(params.count, int64_t{kFillThreads}));
  ops::cuda::Launch("fill_in_tokens", &FillInKernel, {.grid = blocks, .block = kFillThreads},
                    stream, params);
}

}  // namespace sluice::cuda
