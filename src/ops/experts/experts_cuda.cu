#include <algorithm>

#include "ops/common/cuda/launch.cuh"
#include "ops/experts/experts_device.cuh"

// Experts for few tokens: the time is that of reading the weights. As many blocks as the device
// runs at a time go through their shares of them as one stream each, and copies run ahead over
// every border in it.
namespace sluice::ops::cuda {
namespace {

constexpr int kMostTokens = 64;
// Beyond, the shared expert has too many tokens for kernels that are made to read weights.
constexpr int kMostSharedTokens = 32;
// Of the first kernel: warps of a block, which share k, and blocks of a multiprocessor.
constexpr int kGateUpWarps = 8;
constexpr int kGateUpBlocks = 2;
// Of the second: warps of the one block of a multiprocessor, fewer where shared memory is small.
constexpr int kMostDownWarps = 16;

// Blocks of so many warps whose registers a multiprocessor is to hold; where a token's tile is
// alone, half of them stay for the kernels before and after.
constexpr int MinBlocks(int tiles, int warps) {
  return (tiles == 1 ? 32 : 16) / warps;
}
constexpr int kColumns = kTileRows / 2;  // of an inner row that an item has: gates, and their ups

__device__ __forceinline__ float Sigmoid(float x) {
  return 1.0f / (1.0f + expf(-x));
}

// ---- gate_up and SwiGLU ----

// Eight columns of some rows of `inner`, or the shared expert's weights.
template <class T>
struct Item {
  const T* gate;  // the first column's row of the matrix
  int64_t up;     // elements from there to its row of ups
  int columns;    // that exist
  int column;     // the first
  int begin;      // in the groups' pairs
  int rows;
  enum { kRouted, kShared, kSharedWeight } kind;
};

// The token of an item's row.
template <class T>
__device__ __forceinline__ int TokenOf(const Item<T>& item, const Groups& groups, int row) {
  return item.kind == Item<T>::kRouted ? groups.tokens[item.begin + row] : row;
}

// The items of a call: the shared expert's, that of its weight, then the routed experts'.
template <class T>
class Items {
 public:
  __device__ explicit Items(const ExpertsParams& p)
      : p_(p),
        shared_(CeilDiv(p.shared_ffn, kColumns)),
        before_routed_(shared_ + (p.shared_gate != nullptr ? 1 : 0)),
        slices_(CeilDiv(p.ffn, kColumns)) {}

  // Items that need no ids, and all.
  __device__ int WithoutIds() const { return before_routed_; }
  __device__ int All(const Groups& groups) const { return before_routed_ + groups.count * slices_; }

  __device__ Item<T> Of(int index, const Groups& groups) const {
    Item<T> item{};
    int width = p_.shared_ffn;
    if (index >= before_routed_) {
      const int group = (index - before_routed_) / slices_;
      const auto* matrix = reinterpret_cast<const T*>(p_.gate_up.base +
                                                      groups.slots[group] * p_.gate_up.slot_stride);
      width = p_.ffn;
      item.column = (index - before_routed_ - group * slices_) * kColumns;
      item.gate = matrix + int64_t{item.column} * p_.hidden;
      item.begin = groups.begins[group];
      item.rows = groups.begins[group + 1] - item.begin;
      item.kind = Item<T>::kRouted;
    } else {
      item.rows = p_.tokens;
      item.kind = index < shared_ ? Item<T>::kShared : Item<T>::kSharedWeight;
      item.column = index < shared_ ? index * kColumns : 0;
      item.gate = index < shared_
                      ? static_cast<const T*>(p_.shared_gate_up) + int64_t{item.column} * p_.hidden
                      : static_cast<const T*>(p_.shared_gate);
    }
    const bool one = item.kind == Item<T>::kSharedWeight;
    item.columns = one ? 1 : min(kColumns, width - item.column);
    item.up = one ? 0 : int64_t{width} * p_.hidden;
    return item;
  }

 private:
  const ExpertsParams& p_;
  int shared_;
  int before_routed_;
  int slices_;
};

// The copies of this warp's share of the block's items: its stages are `warp`, warp + kGateUpWarps,
// ... of each item.
template <class T>
class ItemStream {
 public:
  __device__ ItemStream(const ExpertsParams& p, const Items<T>& items, const Groups& groups)
      : p_(p),
        items_(items),
        groups_(groups),
        stages_(CeilDiv(p.hidden, kStageK * kGateUpWarps)),
        index_(static_cast<int>(blockIdx.x)) {}

  // Stages of an item.
  __device__ int Stages() const { return stages_; }

  // Starts the next stage, of items below `limit`; false if there is none.
  template <Part kPart>
  __device__ bool Start(int limit, StageRing& ring) {
    if (index_ >= limit) return false;
    if (stage_ == 0) Enter();
    const int k =
        (stage_ * kGateUpWarps + static_cast<int>(threadIdx.x) / kWarp) * kStageK + LaneK();
    from_.left = p_.hidden - k;
    StageSource<T> from = from_;
    if (from.left > 0) {
      from.low += k;
      from.high += k;
      from.input += k;
    }
    ring.Start<kPart>(from);
    if (++stage_ == stages_) {
      stage_ = 0;
      index_ += static_cast<int>(gridDim.x);
    }
    return true;
  }

 private:
  __device__ void Enter() {
    const Item<T> item = items_.Of(index_, groups_);
    const int lane = LaneToken();  // and column
    const bool column_exists = lane < item.columns;
    const bool token_exists = lane < item.rows;
    const T* gate = item.gate + (column_exists ? int64_t{lane} * p_.hidden : 0);
    from_ = {.low = gate,
             .high = gate + item.up,
             .input = static_cast<const T*>(p_.x) +
                      (token_exists ? TokenOf(item, groups_, lane) * p_.x_stride : 0),
             .low_valid = column_exists,
             .high_valid = column_exists,
             .input_valid = token_exists,
             .left = 0};
  }

  const ExpertsParams& p_;
  const Items<T>& items_;
  const Groups& groups_;
  int stages_;
  int index_;
  int stage_ = 0;
  StageSource<T> from_{};
};

// Adds the warps' sums in their order and writes the item's results. `shared` holds
// [warps][kTiles][16][8] sums.
template <class T, int kTiles>
__device__ void FinishItem(const ExpertsParams& p, const Groups& groups, const Item<T>& item,
                           const float (&sums)[kTiles][4], float* shared) {
  constexpr int kTileSums = kTileRows * kTileTokens;
  constexpr int kSums = kTiles * kTileSums;
  const int group = LaneToken();
  const int pair = static_cast<int>(threadIdx.x) % 4;
  float* own = shared + threadIdx.x / kWarp * kSums + group * kTileTokens + 2 * pair;
#pragma unroll
  for (int t = 0; t < kTiles; ++t) {
    if (t * kTileTokens >= item.rows) break;
    *reinterpret_cast<float2*>(own + t * kTileSums) = {sums[t][0], sums[t][1]};
    *reinterpret_cast<float2*>(own + t * kTileSums + kTileSums / 2) = {sums[t][2], sums[t][3]};
  }
  __syncthreads();
  for (int i = threadIdx.x; i < item.rows * kColumns; i += kGateUpWarps * kWarp) {
    const int row = i / kColumns;
    const int column = i % kColumns;
    if (column >= item.columns) continue;
    const float* at =
        shared + row / kTileTokens * kTileSums + column * kTileTokens + row % kTileTokens;
    float gate = 0.0f;
    float up = 0.0f;
#pragma unroll
    for (int w = 0; w < kGateUpWarps; ++w) {
      gate += at[w * kSums];
      up += at[w * kSums + kTileSums / 2];
    }
    if (item.kind == Item<T>::kSharedWeight) {
      p.shared_weights[row] = Sigmoid(gate);
      continue;
    }
    const bool routed = item.kind == Item<T>::kRouted;
    const int64_t out_row = routed ? groups.pairs[item.begin + row] : row;
    T* out = static_cast<T*>(routed ? p.inner : p.shared_inner);
    out[out_row * (routed ? p.ffn : p.shared_ffn) + item.column + column] =
        FromFloat<T>(gate * Sigmoid(gate) * up);
  }
  __syncthreads();
}

template <class T, int kTiles>
__global__ void __launch_bounds__(kGateUpWarps* kWarp, MinBlocks(kTiles, kGateUpWarps))
    GateUpKernel(const ExpertsParams p) {
  extern __shared__ __align__(16) int4 cells[];
  float* shared_sums =
      reinterpret_cast<float*>(cells + kGateUpWarps * kStages * StageCells(p.tokens));
  Groups groups = PrepareGroups(
      p, reinterpret_cast<int32_t*>(shared_sums + kGateUpWarps * kTiles * kTileRows * kTileTokens));
  const Items<T> items(p);
  StageRing ring(cells, p.tokens);
  ItemStream<T> stream(p, items, groups);
  // The shared expert's weights need nothing that earlier kernels make; their inputs follow.
  StageRing late_ring = ring;
  ItemStream<T> late_stream = stream;
  int started = 0;
  while (started < kStages && stream.template Start<Part::kWeights>(items.WithoutIds(), ring)) {
    ++started;
  }
  WaitForEarlier();
  LetNextStart();  // not before: the next kernel reads the ids that this one waited for
  for (int i = 0; i < started; ++i) {
    late_stream.template Start<Part::kInputs>(items.WithoutIds(), late_ring);
  }
  FillGroups(p, groups);
  const int all = items.All(groups);
  const auto start_next = [&] {
    if (!stream.template Start<Part::kAll>(all, ring)) ring.StartNothing();
  };
  for (; started < kStages; ++started) start_next();

  const T* x = static_cast<const T*>(p.x);
  const int warp = static_cast<int>(threadIdx.x) / kWarp;
  for (int index = blockIdx.x; index < all; index += gridDim.x) {
    const Item<T> item = items.Of(index, groups);
    const int tiles = CeilDiv(item.rows, kTileTokens);
    InputRows<kTiles> rows;
#pragma unroll
    for (int t = 1; t < kTiles; ++t) {
      const int row = t * kTileTokens + LaneToken();
      rows.at[t] = -1;
      if (row < item.rows) {
        rows.at[t] = TokenOf(item, groups, row) * static_cast<int>(p.x_stride);
      }
    }
    float sums[kTiles][4] = {};
    for (int stage = 0; stage < stream.Stages(); ++stage) {
      const int k = (stage * kGateUpWarps + warp) * kStageK + LaneK();
      RunStage<T>(ring, x, rows, tiles, k, p.hidden - k, sums);
      start_next();
    }
    FinishItem<T, kTiles>(p, groups, item, sums, shared_sums);
  }
  CopyAsyncWait<0>();
}

// ---- down, weighted and added up ----

// A part of the products that make a tile of out: one expert's.
template <class T>
struct Source {
  const T* matrix;  // [hidden, depth]
  const T* inputs;
  int depth;
  int stages;
  int begin;  // in the groups' pairs; the shared expert's rows are the tokens
  int rows;
  bool shared;
};

template <class T>
class Sources {
 public:
  __device__ Sources(const ExpertsParams& p, const Groups& groups)
      : p_(p),
        groups_(groups),
        shared_stages_(CeilDiv(p.shared_ffn, kStageK)),
        routed_stages_(CeilDiv(p.ffn, kStageK)),
        all_stages_(shared_stages_ + groups.count * routed_stages_) {}

  // This warp's share of a tile's stages: [Begin(), End()).
  __device__ int Begin() const { return Border(static_cast<int>(threadIdx.x) / kWarp); }
  __device__ int End() const { return Border(static_cast<int>(threadIdx.x) / kWarp + 1); }

  // The row of a source's inputs that its row `row` is.
  __device__ int InputRow(const Source<T>& source, int row) const {
    return source.shared ? row : groups_.pairs[source.begin + row];
  }

  // The source that stage `stage` of a tile belongs to, and where its first stage is.
  __device__ Source<T> Of(int stage, int& first) const {
    Source<T> source{};
    if (stage < shared_stages_) {
      first = 0;
      source.matrix = static_cast<const T*>(p_.shared_down);
      source.inputs = static_cast<const T*>(p_.shared_inner);
      source.depth = p_.shared_ffn;
      source.stages = shared_stages_;
      source.rows = p_.tokens;
      source.shared = true;
      return source;
    }
    const int group = (stage - shared_stages_) / routed_stages_;
    first = shared_stages_ + group * routed_stages_;
    source.matrix =
        reinterpret_cast<const T*>(p_.down.base + groups_.slots[group] * p_.down.slot_stride);
    source.inputs = static_cast<const T*>(p_.inner);
    source.depth = p_.ffn;
    source.stages = routed_stages_;
    source.begin = groups_.begins[group];
    source.rows = groups_.begins[group + 1] - source.begin;
    return source;
  }

 private:
  __device__ int Border(int warp) const {
    return all_stages_ * warp / (static_cast<int>(blockDim.x) / kWarp);
  }

  const ExpertsParams& p_;
  const Groups& groups_;
  int shared_stages_;
  int routed_stages_;
  int all_stages_;
};

// A block's columns of out.
struct DownParams {
  ExpertsParams call;
  int block_columns;  // a multiple of 8
};

struct ColumnRange {
  int begin;
  int end;
};
__device__ __forceinline__ ColumnRange ColumnsOfBlock(const DownParams& p) {
  const int begin = static_cast<int>(blockIdx.x) * p.block_columns;
  return {begin, min(begin + p.block_columns, p.call.hidden)};
}

// The copies of this warp's share of the block's tiles.
template <class T>
class TileStream {
 public:
  __device__ TileStream(const Sources<T>& sources, ColumnRange columns)
      : sources_(sources),
        begin_(sources.Begin()),
        end_(sources.End()),
        columns_(columns),
        stage_(begin_) {}

  template <Part kPart>
  __device__ void Start(StageRing& ring) {
    if (columns_.begin >= columns_.end || begin_ == end_) return ring.StartNothing();
    if (stage_ == begin_ || stage_ == source_end_) Enter();
    const int k = (stage_ - source_begin_) * kStageK + LaneK();
    from_.left = depth_ - k;
    StageSource<T> from = from_;
    if (from.left > 0) {
      from.low += k;
      from.high += k;
      from.input += k;
    }
    ring.Start<kPart>(from);
    if (++stage_ == end_) {
      stage_ = begin_;
      columns_.begin += kTileRows;
    }
  }

 private:
  __device__ void Enter() {
    const Source<T> source = sources_.Of(stage_, source_begin_);
    source_end_ = source_begin_ + source.stages;
    depth_ = source.depth;
    const int lane = LaneToken();  // and column
    const int column = columns_.begin + lane;
    const bool low_exists = column < columns_.end;
    const bool high_exists = column + kTileRows / 2 < columns_.end;
    const T* low = source.matrix + int64_t{low_exists ? column : columns_.begin} * depth_;
    from_ = {.low = low,
             .high = low + (high_exists ? int64_t{kTileRows / 2} * depth_ : 0),
             .input = source.inputs +
                      (lane < source.rows ? sources_.InputRow(source, lane) * depth_ : 0),
             .low_valid = low_exists,
             .high_valid = high_exists,
             .input_valid = lane < source.rows,
             .left = 0};
  }

  const Sources<T>& sources_;
  int begin_;
  int end_;
  ColumnRange columns_;  // of the tile at hand and those behind it
  int stage_;
  int source_begin_ = 0;
  int source_end_ = 0;
  int depth_ = 0;
  StageSource<T> from_{};
};

// own[token][column] += weight * sums; they are zero then.
template <class T, int kTiles>
__device__ void AddWeighted(const ExpertsParams& p, const Groups& groups, const Source<T>& source,
                            float (&sums)[kTiles][4], float* own) {
  const int group = LaneToken();
  const int pair = static_cast<int>(threadIdx.x) % 4;
#pragma unroll
  for (int i = 0; i < 2 * kTiles; ++i) {
    const int t = i / 2;
    const int row = t * kTileTokens + 2 * pair + i % 2;
    if (row < source.rows) {
      int token = row;
      float weight = 1.0f;
      if (!source.shared) {
        token = groups.tokens[source.begin + row];
        weight = groups.weights[source.begin + row];
      } else if (p.shared_gate != nullptr) {
        weight = p.shared_weights[row];
      }
      float* at = own + token * kTileRows + group;
      at[0] += weight * sums[t][i % 2];
      at[kTileRows / 2] += weight * sums[t][2 + i % 2];
    }
    sums[t][i % 2] = 0.0f;
    sums[t][2 + i % 2] = 0.0f;
  }
  __syncwarp();
}

// Adds the warps' sums in their order to a tile of out, and sets them to zero.
__device__ void FinishTile(const ExpertsParams& p, int column, int columns, float* shared) {
  const int count = p.tokens * kTileRows;
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  const auto out_at = [&](int i) -> float* {
    const bool exists = i < count && i % kTileRows < columns;
    return exists ? p.out + i / kTileRows * p.out_stride + column + i % kTileRows : nullptr;
  };
  float* out = out_at(threadIdx.x);
  float before = out == nullptr ? 0.0f : *out;
  __syncthreads();
  for (int i = threadIdx.x; i < count; i += blockDim.x) {
    if (i != threadIdx.x) {
      out = out_at(i);
      before = out == nullptr ? 0.0f : *out;
    }
    float sum = 0.0f;
    for (int w = 0; w < warps; ++w) {
      sum += shared[w * count + i];
      shared[w * count + i] = 0.0f;
    }
    if (out != nullptr) *out = before + sum;
  }
  __syncthreads();
}

template <class T, int kTiles>
__global__ void __launch_bounds__(kMostDownWarps* kWarp, MinBlocks(kTiles, kMostDownWarps))
    DownKernel(const DownParams params) {
  extern __shared__ __align__(16) int4 cells[];
  const ExpertsParams& p = params.call;
  LetNextStart();
  const int warps = static_cast<int>(blockDim.x) / kWarp;
  float* shared_sums = reinterpret_cast<float*>(cells + warps * kStages * StageCells(p.tokens));
  const int all_sums = warps * p.tokens * kTileRows;
  Groups groups = PrepareGroups(p, reinterpret_cast<int32_t*>(shared_sums + all_sums));
  for (int i = threadIdx.x; i < all_sums; i += blockDim.x) shared_sums[i] = 0.0f;
  // The ids were there before the kernel that this one may overlap with let it start.
  FillGroups(p, groups);
  const Sources<T> sources(p, groups);
  const ColumnRange columns = ColumnsOfBlock(params);
  StageRing ring(cells, p.tokens);
  TileStream<T> stream(sources, columns);
  StageRing late_ring = ring;
  TileStream<T> late_stream = stream;
  for (int i = 0; i < kStages; ++i) stream.template Start<Part::kWeights>(ring);
  WaitForEarlier();
  for (int i = 0; i < kStages; ++i) late_stream.template Start<Part::kInputs>(late_ring);

  float* own = shared_sums + static_cast<int>(threadIdx.x) / kWarp * p.tokens * kTileRows;
  for (int column = columns.begin; column < columns.end; column += kTileRows) {
    float sums[kTiles][4] = {};
    for (int stage = sources.Begin(); stage < sources.End();) {
      int first;
      const Source<T> source = sources.Of(stage, first);
      const int end = min(first + source.stages, sources.End());
      InputRows<kTiles> rows;
#pragma unroll
      for (int t = 1; t < kTiles; ++t) {
        const int row = t * kTileTokens + LaneToken();
        rows.at[t] = row < source.rows ? sources.InputRow(source, row) * source.depth : -1;
      }
      const int tiles = CeilDiv(source.rows, kTileTokens);
      for (; stage < end; ++stage) {
        const int k = (stage - first) * kStageK + LaneK();
        RunStage<T>(ring, source.inputs, rows, tiles, k, source.depth - k, sums);
        stream.template Start<Part::kAll>(ring);
      }
      AddWeighted<T, kTiles>(p, groups, source, sums, own);
    }
    FinishTile(p, column, columns.end - column, shared_sums);
  }
  CopyAsyncWait<0>();
}

// ---- launches ----

int SharedBytes(const ExpertsParams& p, int warps, int warp_sums) {
  const int cells = kStages * StageCells(p.tokens) * static_cast<int>(sizeof(int4));
  return warps * (cells + warp_sums * static_cast<int>(sizeof(float))) +
         Groups::SharedInts(p) * static_cast<int>(sizeof(int32_t));
}
int GateUpShared(const ExpertsParams& p, int tiles) {
  return SharedBytes(p, kGateUpWarps, tiles * kTileRows * kTileTokens);
}
int DownShared(const ExpertsParams& p, int warps) {
  return SharedBytes(p, warps, p.tokens * kTileRows);
}

int DownWarps(const ExpertsParams& p, const CudaDeviceInfo& device) {
  const bool most = DownShared(p, kMostDownWarps) <= device.shared_bytes_per_block;
  return most ? kMostDownWarps : kMostDownWarps / 2;
}

// Tiles of tokens that an expert can have, as a kernel is made for them.
int TilesOf(const ExpertsParams& p) {
  int tiles = 1;
  while (tiles * kTileTokens < p.tokens) tiles *= 2;
  return tiles;
}

// Shared memory of a block, at least so much that no more than `blocks` find room together: started
// while earlier kernels leave, they would crowd on the multiprocessors that are free first.
size_t AtMost(int blocks, int shared, const CudaDeviceInfo& device) {
  return std::max(shared, device.shared_bytes_per_block / (blocks + 1) + 1);
}

template <class T, int kTiles>
void LaunchGateUp(const ExpertsParams& p, CudaStream& stream) {
  const int items = CeilDiv(p.shared_ffn, kColumns) + (p.shared_gate != nullptr ? 1 : 0) +
                    Groups::MostGroups(p) * CeilDiv(p.ffn, kColumns);
  const int blocks = std::min(items, kGateUpBlocks * stream.device().multiprocessors);
  const LaunchShape shape{
      .grid = static_cast<unsigned>(blocks),
      .block = kGateUpWarps * kWarp,
      .shared_bytes = AtMost(kGateUpBlocks, GateUpShared(p, kTiles), stream.device())};
  AllowShared("experts_gate_up", &GateUpKernel<T, kTiles>, shape.shared_bytes);
  LaunchEarly<&GateUpKernel<T, kTiles>>("experts_gate_up", shape, stream, p);
}

template <class T, int kTiles>
void LaunchDown(const ExpertsParams& p, CudaStream& stream) {
  const int warps = DownWarps(p, stream.device());
  const int columns =
      kColumns * CeilDiv(CeilDiv(p.hidden, kColumns), stream.device().multiprocessors);
  const LaunchShape shape{.grid = static_cast<unsigned>(CeilDiv(p.hidden, columns)),
                          .block = static_cast<unsigned>(warps * kWarp),
                          .shared_bytes = AtMost(1, DownShared(p, warps), stream.device())};
  AllowShared("experts_down", &DownKernel<T, kTiles>, shape.shared_bytes);
  LaunchEarly<&DownKernel<T, kTiles>>("experts_down", shape, stream,
                                      DownParams{.call = p, .block_columns = columns});
}

template <class T, int kTiles>
void LaunchTiles(const ExpertsParams& p, CudaStream& stream) {
  LaunchGateUp<T, kTiles>(p, stream);
  LaunchDown<T, kTiles>(p, stream);
}

template <class T>
void LaunchOf(const ExpertsParams& p, CudaStream& stream) {
  switch (TilesOf(p)) {
    case 1:
      return LaunchTiles<T, 1>(p, stream);
    case 2:
      return LaunchTiles<T, 2>(p, stream);
    case 4:
      return LaunchTiles<T, 4>(p, stream);
    default:
      return LaunchTiles<T, 8>(p, stream);
  }
}

}  // namespace

bool TakesFewTokens(const ExpertsParams& p, const CudaDeviceInfo& device) {
  constexpr int kBytes = 16;
  constexpr int kElements = kPackSize<__half>;
  const auto aligned = [](const void* pointer) { return IsMultipleOf(pointer, kBytes); };
  const bool even = p.hidden % kElements == 0 && p.ffn % kElements == 0 &&
                    p.shared_ffn % kElements == 0 && p.x_stride % kElements == 0 &&
                    p.gate_up.slot_stride % kBytes == 0 && p.down.slot_stride % kBytes == 0;
  const int most = p.shared_ffn > 0 ? kMostSharedTokens : kMostTokens;
  return p.dtype != DType::kF32 && p.tokens <= most && p.top_k > 0 && p.hidden > 0 && even &&
         aligned(p.x) && aligned(p.gate_up.base) && aligned(p.down.base) &&
         aligned(p.shared_gate_up) && aligned(p.shared_down) && aligned(p.shared_gate) &&
         GateUpShared(p, TilesOf(p)) <= device.shared_bytes_per_block &&
         DownShared(p, DownWarps(p, device)) <= device.shared_bytes_per_block &&
         p.tokens * p.x_stride <= INT32_MAX && int64_t{p.tokens} * p.top_k * p.ffn <= INT32_MAX &&
         int64_t{p.tokens} * p.shared_ffn <= INT32_MAX;
}

void ExpertsOfFewTokens(const ExpertsParams& params, CudaStream& stream) {
  params.dtype == DType::kBF16 ? LaunchOf<__nv_bfloat16>(params, stream)
                               : LaunchOf<__half>(params, stream);
}

}  // namespace sluice::ops::cuda
