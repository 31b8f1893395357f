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
inline constexpr int kPieces = 2;      // loads of a lane from each of its two rows of a stage
inline constexpr int kStageK = kPieces * 4 * kPackSize<__half>;
inline constexpr int kStages = 3;  // of a warp's weights, under way or in use
inline constexpr int kStageCells = 2 * kPieces * kWarp;
inline constexpr int kWarpCells = kStages * kStageCells;
inline constexpr int kWarpCellBytes = kWarpCells * static_cast<int>(sizeof(int4));

// A warp's weights on their way through shared memory, in cells of 16 bytes that one lane alone
// writes and reads: nobody waits for anybody, and copies go on while the block does something else.
class WeightRing {
 public:
  __device__ explicit WeightRing(int4* cells)
      : own_(cells + threadIdx.x / kWarp * kWarpCells + threadIdx.x % kWarp) {}

  // Starts the copies of the next stage: pieces of 16 bytes of two rows, 32 elements apart.
  // `low` and `high` are where the lane begins; what is not valid is zero.
  template <class T>
  __device__ __forceinline__ void Start(const T* low, const T* high, bool low_valid,
                                        bool high_valid, int left) {
    constexpr int kPiece = kStageK / kPieces;
    int4* cells = own_ + started_ * kStageCells;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const bool exists = i * kPiece < left;
      const int at = exists ? i * kPiece : 0;
      CopyAsync16(cells + 2 * i * kWarp, low + at, exists && low_valid);
      CopyAsync16(cells + (2 * i + 1) * kWarp, high + at, exists && high_valid);
    }
    Close();
  }
  // A stage without copies.
  __device__ __forceinline__ void StartNothing() { Close(); }

  // Waits for the oldest stage: the pieces of the first row and of the second.
  struct Weights {
    int4 low[kPieces];
    int4 high[kPieces];
  };
  __device__ __forceinline__ Weights Take() {
    CopyAsyncWait<kStages - 1>();
    const int4* cells = own_ + taken_ * kStageCells;
    taken_ = taken_ + 1 == kStages ? 0 : taken_ + 1;
    Weights weights;
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      weights.low[i] = cells[2 * i * kWarp];
      weights.high[i] = cells[(2 * i + 1) * kWarp];
    }
    return weights;
  }

 private:
  __device__ __forceinline__ void Close() {
    CopyAsyncCommit();
    started_ = started_ + 1 == kStages ? 0 : started_ + 1;
  }

  int4* own_;
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

// The rows of inputs that a lane reads, one of each tile of 8: where they begin, or -1.
template <int kTiles>
struct InputRows {
  int32_t at[kTiles];
};

// A lane's part of a stage's inputs for some tiles.
template <int kCount>
struct Inputs {
  int4 pieces[kCount][kPieces];
};

// Of tiles kFirst and on. The lane's inputs begin `k` elements behind its rows' beginning, and
// there are `left` from there on.
template <class T, int kFirst, int kCount, int kTiles>
__device__ __forceinline__ Inputs<kCount> LoadInputs(const T* from, const InputRows<kTiles>& rows,
                                                     int k, int left) {
  constexpr int kPiece = kStageK / kPieces;
  Inputs<kCount> inputs;
#pragma unroll
  for (int t = 0; t < kCount; ++t) {
#pragma unroll
    for (int i = 0; i < kPieces; ++i) {
      const int32_t at = rows.at[kFirst + t];
      const bool valid = at >= 0 && i * kPiece < left;
      inputs.pieces[t][i] =
          valid ? *reinterpret_cast<const int4*>(from + at + k + i * kPiece) : int4{};
    }
  }
  return inputs;
}

template <class T, int kFirst, int kCount, int kTiles>
__device__ __forceinline__ void Multiply(const WeightRing::Weights& w, const Inputs<kCount>& inputs,
                                         float (&sums)[kTiles][4]) {
#pragma unroll
  for (int i = 0; i < kPieces; ++i) {
    const int4 a = w.low[i];
    const int4 b = w.high[i];
    const uint32_t first[4] = {static_cast<uint32_t>(a.x), static_cast<uint32_t>(b.x),
                               static_cast<uint32_t>(a.y), static_cast<uint32_t>(b.y)};
    const uint32_t second[4] = {static_cast<uint32_t>(a.z), static_cast<uint32_t>(b.z),
                                static_cast<uint32_t>(a.w), static_cast<uint32_t>(b.w)};
#pragma unroll
    for (int t = 0; t < kCount; ++t) {
      const int4 x = inputs.pieces[t][i];
      Mma<T>(sums[kFirst + t], first, static_cast<uint32_t>(x.x), static_cast<uint32_t>(x.y));
      Mma<T>(sums[kFirst + t], second, static_cast<uint32_t>(x.z), static_cast<uint32_t>(x.w));
    }
  }
}

// sums += the oldest stage's weights times inputs, of kCount tiles or all eight; inputs are asked
// for before the weights are waited for.
template <class T, int kCount, int kTiles>
__device__ __forceinline__ void RunTiles(WeightRing& ring, const T* from,
                                         const InputRows<kTiles>& rows, int k, int left,
                                         float (&sums)[kTiles][4]) {
  constexpr int kFirst = kCount < 4 ? kCount : 4;
  const Inputs<kFirst> inputs = LoadInputs<T, 0, kFirst>(from, rows, k, left);
  const WeightRing::Weights weights = ring.Take();
  Multiply<T, 0>(weights, inputs, sums);
  if constexpr (kCount == 8)
    Multiply<T, 4>(weights, LoadInputs<T, 4, 4>(from, rows, k, left), sums);
}

// The same of `tiles` tiles, and perhaps some behind them whose rows are not there.
template <class T, int kTiles>
__device__ __forceinline__ void RunStage(WeightRing& ring, const T* from,
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
