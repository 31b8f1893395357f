#pragma once

#include "ops/common/cuda/math.cuh"
#include "ops/common/cuda/mma.cuh"
#include "ops/experts/experts_kernels.h"

// What both kernels of Experts are made of. The rows of a matrix are the 16 rows of a tensor-core
// product and up to 8 tokens its columns. Which k a lane's elements stand for is free as long as
// weights and inputs agree: 8 consecutive k, one load of 16 bytes, are its elements of two
// products.
namespace sluice::ops::cuda {

inline constexpr int kTileRows = 16;   // of a matrix in one product
inline constexpr int kTileTokens = 8;  // in one product
inline constexpr int kPieces = 2;      // loads of a lane from each row of a stage
inline constexpr int kPieceK = 4 * kPackSize<__half>;
inline constexpr int kStageK = kPieces * kPieceK;
inline constexpr int kStages = 3;  // of a warp, under way or in use
inline constexpr int kWeightCells = 2 * kPieces * kWarp;

// Inputs of a stage's first tile are kept beside its weights; those of tokens that a call cannot
// have take no room.
__host__ __device__ constexpr int StageCells(int tokens) {
  return kWeightCells + kPieces * 4 * (tokens < kTileTokens ? tokens : kTileTokens);
}

// The lane's row of a tile's tokens, and the element of a stage that its first load begins with.
__device__ __forceinline__ int LaneToken() {
  return static_cast<int>(threadIdx.x) % kWarp / 4;
}
__device__ __forceinline__ int LaneK() {
  return static_cast<int>(threadIdx.x) % 4 * kPackSize<__half>;
}

// What a lane copies for a stage: pieces of 16 bytes of two rows of weights and of one token's
// inputs, from here on. What is not valid is zero, and so is what is not `left`.
template <class T>
struct StageSource {
  const T* low;
  const T* high;
  const T* input;
  bool low_valid;
  bool high_valid;
  bool input_valid;
  int left;  // elements of the rows from here on
};

// What of a stage is copied: inputs may be there later than weights.
enum class Part { kAll, kWeights, kInputs };

// A warp's weights and inputs on their way through shared memory, in cells of 16 bytes that one
// lane alone writes and reads: nobody waits for anybody, and copies go on while the block does
// something else.
class StageRing {
 public:
  // `cells` has kStages * StageCells(tokens) for each warp.
  __device__ StageRing(int4* cells, int tokens)
      : stage_cells_(StageCells(tokens)),
        tokens_(min(tokens, kTileTokens)),
        weights_(cells + threadIdx.x / kWarp * kStages * stage_cells_ + threadIdx.x % kWarp),
        inputs_(cells + threadIdx.x / kWarp * kStages * stage_cells_ + kWeightCells +
                threadIdx.x % kWarp) {}

  // Starts the copies of the next stage, or of the part that it still lacks.
  template <Part kPart, class T>
  __device__ __forceinline__ void Start(const StageSource<T>& from) {
    const int first = started_ * stage_cells_;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const bool exists = i * kPieceK < from.left;
      const int at = exists ? i * kPieceK : 0;
      if constexpr (kPart != Part::kInputs) {
        int4* cells = weights_ + first + 2 * i * kWarp;
        CopyAsync16Streaming(cells, from.low + at, exists && from.low_valid);
        CopyAsync16Streaming(cells + kWarp, from.high + at, exists && from.high_valid);
      }
      if constexpr (kPart != Part::kWeights) {
        if (LaneToken() < tokens_) {
          CopyAsync16(inputs_ + first + i * 4 * tokens_, from.input + at,
                      exists && from.input_valid);
        }
      }
    }
    Close();
  }
  // A stage without copies.
  __device__ __forceinline__ void StartNothing() { Close(); }

  // The oldest stage's pieces of the two rows and of the first tile's inputs; waits for them.
  struct Stage {
    int4 low[kPieces];
    int4 high[kPieces];
    int4 inputs[kPieces];
  };
  __device__ __forceinline__ Stage Take() {
    CopyAsyncWait<kStages - 1>();
    const int first = taken_ * stage_cells_;
    taken_ = taken_ + 1 == kStages ? 0 : taken_ + 1;
    Stage stage;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      stage.low[i] = weights_[first + 2 * i * kWarp];
      stage.high[i] = weights_[first + (2 * i + 1) * kWarp];
      stage.inputs[i] = LaneToken() < tokens_ ? inputs_[first + i * 4 * tokens_] : int4{};
    }
    return stage;
  }

 private:
  __device__ __forceinline__ void Close() {
    CopyAsyncCommit();
    started_ = started_ + 1 == kStages ? 0 : started_ + 1;
  }

  int stage_cells_;
  int tokens_;
  int4* weights_;
  int4* inputs_;
  int started_ = 0;
  int taken_ = 0;
};

// The (token, choice) pairs of a call by expert, in shared memory. Which of an expert's pairs comes
// first may differ from run to run: no sum depends on it.
struct Groups {
  int count;          // experts that have pairs
  int32_t* slots;     // [count]
  int32_t* begins;    // [count + 1] in pairs
  int32_t* pairs;     // [tokens * top_k] token * top_k + choice
  int32_t* tokens;    // [tokens * top_k] the pairs'
  float* weights;     // [tokens * top_k] the pairs'
  int32_t* counters;  // [experts] scratch
  int32_t* table;     // [experts] a copy of the slot table

  static __host__ __device__ int MostGroups(const ExpertsParams& p) {
    const int pairs = p.tokens * p.top_k;
    return p.tokens > 1 && p.experts < pairs ? p.experts : pairs;
  }
  static __host__ __device__ int SharedInts(const ExpertsParams& p) {
    return 1 + 2 * MostGroups(p) + 1 + 3 * p.tokens * p.top_k + 2 * p.experts;
  }
};

__device__ __forceinline__ int ExpertOfPair(const ExpertsParams& p, int pair) {
  return min(max(p.ids[pair], 0), p.experts - 1);
}

// What needs no ids; `memory` holds Groups::SharedInts.
__device__ inline Groups PrepareGroups(const ExpertsParams& p, int32_t* memory) {
  const int most = Groups::MostGroups(p);
  Groups groups{};
  groups.slots = memory + 1;
  groups.begins = groups.slots + most;
  groups.pairs = groups.begins + most + 1;
  groups.tokens = groups.pairs + p.tokens * p.top_k;
  groups.weights = reinterpret_cast<float*>(groups.tokens + p.tokens * p.top_k);
  groups.counters = groups.tokens + 2 * p.tokens * p.top_k;
  groups.table = groups.counters + p.experts;
  for (int e = threadIdx.x; e < p.experts; e += blockDim.x) {
    groups.counters[e] = 0;
    groups.table[e] = p.slots[e];
  }
  return groups;
}

// Gives each expert that has pairs a group, in the order of their ids; one warp. The counters
// become the places of the experts' first pairs.
__device__ inline void ListGroups(const ExpertsParams& p, const Groups& groups, int32_t* count) {
  const int lane = threadIdx.x % kWarp;
  int active = 0;
  int placed = 0;
  for (int base = 0; base < p.experts; base += kWarp) {
    const int expert = base + lane;
    const int own = expert < p.experts ? groups.counters[expert] : 0;
    const unsigned mask = __ballot_sync(0xffffffffu, own > 0);
    int sum = own;
#pragma unroll
    for (int offset = 1; offset < kWarp; offset *= 2) {
      const int before = __shfl_up_sync(0xffffffffu, sum, offset);
      if (lane >= offset) sum += before;
    }
    if (own > 0) {
      const int group = active + __popc(mask & ((1u << lane) - 1));
      groups.slots[group] = groups.table[expert];
      groups.begins[group] = placed + sum - own;
      groups.counters[expert] = placed + sum - own;
    }
    active += __popc(mask);
    placed += __shfl_sync(0xffffffffu, sum, kWarp - 1);
  }
  if (lane == 0) {
    groups.begins[active] = placed;
    *count = active;
  }
}

__device__ __forceinline__ void PlacePair(const ExpertsParams& p, const Groups& groups, int place,
                                          int pair) {
  groups.pairs[place] = pair;
  groups.tokens[place] = pair / p.top_k;
  groups.weights[place] = p.weights[pair];
}

// Groups the ids. The whole block calls it.
__device__ inline void FillGroups(const ExpertsParams& p, Groups& groups) {
  const int pairs = p.tokens * p.top_k;
  if (p.tokens == 1) {  // a group each
    int expert = 0;
    if (threadIdx.x < pairs) expert = ExpertOfPair(p, threadIdx.x);
    __syncthreads();
    for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
      if (i != threadIdx.x) expert = ExpertOfPair(p, i);
      groups.slots[i] = groups.table[expert];
      groups.begins[i] = i;
      PlacePair(p, groups, i, i);
    }
    if (threadIdx.x == 0) groups.begins[pairs] = pairs;
    __syncthreads();
    groups.count = pairs;
    return;
  }
  __syncthreads();
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    atomicAdd(&groups.counters[ExpertOfPair(p, i)], 1);
  }
  __syncthreads();
  int32_t* count = groups.slots - 1;
  if (threadIdx.x < kWarp) ListGroups(p, groups, count);
  __syncthreads();
  for (int i = threadIdx.x; i < pairs; i += blockDim.x) {
    PlacePair(p, groups, atomicAdd(&groups.counters[ExpertOfPair(p, i)], 1), i);
  }
  __syncthreads();
  groups.count = *count;
}

// The rows of inputs that a lane reads behind the first tile, one of each: where they begin, or -1.
template <int kTiles>
struct InputRows {
  int32_t at[kTiles];
};

template <class T>
__device__ __forceinline__ void MultiplyPiece(const int4& low, const int4& high, const int4& input,
                                              float (&sums)[4]) {
  Mma<T>(sums,
         {static_cast<uint32_t>(low.x), static_cast<uint32_t>(high.x), static_cast<uint32_t>(low.y),
          static_cast<uint32_t>(high.y)},
         static_cast<uint32_t>(input.x), static_cast<uint32_t>(input.y));
  Mma<T>(sums,
         {static_cast<uint32_t>(low.z), static_cast<uint32_t>(high.z), static_cast<uint32_t>(low.w),
          static_cast<uint32_t>(high.w)},
         static_cast<uint32_t>(input.z), static_cast<uint32_t>(input.w));
}

// A lane's inputs of tiles kFirst and on, `k` elements behind its rows' beginning; there are `left`
// from there on.
template <class T, int kFirst, int kCount>
struct TileInputs {
  template <int kTiles>
  __device__ __forceinline__ TileInputs(const T* from, const InputRows<kTiles>& rows, int k,
                                        int left) {
#pragma unroll
    for (int t = 0; t < kCount; ++t) {
#pragma unroll
      for (int i = 0; i < kPieces; ++i) {
        const int32_t at = rows.at[kFirst + t];
        const bool valid = at >= 0 && i * kPieceK < left;
        pieces[t][i] = valid ? *reinterpret_cast<const int4*>(from + at + k + i * kPieceK) : int4{};
      }
    }
  }
  template <int kTiles>
  __device__ __forceinline__ void Multiply(const StageRing::Stage& stage,
                                           float (&sums)[kTiles][4]) const {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
#pragma unroll
      for (int t = 0; t < kCount; ++t) {
        MultiplyPiece<T>(stage.low[i], stage.high[i], pieces[t][i], sums[kFirst + t]);
      }
    }
  }

  int4 pieces[kCount][kPieces];
};

// sums += the oldest stage's weights times inputs of kCount tiles; those behind the first are asked
// for before the stage is waited for.
template <class T, int kCount, int kTiles>
__device__ __forceinline__ void RunTiles(StageRing& ring, const T* from,
                                         const InputRows<kTiles>& rows, int k, int left,
                                         float (&sums)[kTiles][4]) {
  constexpr int kAhead = kCount < 4 ? kCount : 4;
  const auto multiply_first = [&](const StageRing::Stage& stage) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      MultiplyPiece<T>(stage.low[i], stage.high[i], stage.inputs[i], sums[0]);
    }
  };
  if constexpr (kCount == 1) {
    multiply_first(ring.Take());
  } else {
    const TileInputs<T, 1, kAhead - 1> inputs(from, rows, k, left);
    const StageRing::Stage stage = ring.Take();
    multiply_first(stage);
    inputs.Multiply(stage, sums);
    if constexpr (kCount == 8) TileInputs<T, 4, 4>(from, rows, k, left).Multiply(stage, sums);
  }
}

// The same of `tiles` tiles, and perhaps some behind them whose rows are not there.
template <class T, int kTiles>
__device__ __forceinline__ void RunStage(StageRing& ring, const T* from,
                                         const InputRows<kTiles>& rows, int tiles, int k, int left,
                                         float (&sums)[kTiles][4]) {
  if (kTiles == 1 || tiles <= 1) return RunTiles<T, 1>(ring, from, rows, k, left, sums);
  if constexpr (kTiles >= 2) {
    if (kTiles == 2 || tiles <= 2) return RunTiles<T, 2>(ring, from, rows, k, left, sums);
  }
  if constexpr (kTiles >= 4) {
    if (kTiles == 4 || tiles <= 4) return RunTiles<T, 4>(ring, from, rows, k, left, sums);
  }
  if constexpr (kTiles == 8) RunTiles<T, 8>(ring, from, rows, k, left, sums);
}

}  // namespace sluice::ops::cuda
