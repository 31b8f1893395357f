#include "ops/attention/attention_kernels.h"
#include "ops/common/cpu/dot_tile.h"
#include "ops/common/cpu/vec_math.h"

namespace sluice::ops::SLUICE_TIER {
namespace {

constexpr float kNegativeInfinity = -__builtin_inff();

// Floats of a row that vectors of any tier may read whole.
int64_t RoundUp16(int64_t count) {
  return (count + 15) / 16 * 16;
}

int64_t Larger(int64_t a, int64_t b) {
  return a > b ? a : b;
}

int64_t Smaller(int64_t a, int64_t b) {
  return a < b ? a : b;
}

// Up to this many rows a tile of 16-bit KV is widened in registers, where it lies: the products
// pass over it once for every three or four rows. For more rows it is widened once into scratch.
constexpr int64_t kInPlaceRows = 8;

// What a row sees of the current tile, as offsets into it. With `holes`, some positions between
// are hidden. A tile is the pages of AttentionTilePages: one step of the softmax is taken for all.
struct TileRow {
  int64_t row;
  int64_t begin;
  int64_t end;
  bool holes;
};

// Keys or values of a page as the products read them: the page itself, or its widened copy.
template <class T>
struct PageRows {
  const T* data;  // [page_size, stride]
  int64_t stride;
  int64_t begin;  // those that a row of the block sees, as offsets into the page
  int64_t end;
  int64_t offset;  // of the page in the tile
};

// The block's working set: room for a widened tile of KV, and the state of each row's online
// softmax.
struct State {
  int64_t tile;         // positions of a tile
  int64_t tile_stride;  // floats of a row of scores
  int64_t key_width;    // floats of a row of k, key_dim rounded up to 16
  int64_t width;        // floats of a row of v and of sums, value_dim rounded up to 16
  float* k;             // [page_size, key_width], zeros behind key_dim
  float* v;             // [page_size, width], zeros behind value_dim, or part of k's rows
  float* scores;        // [rows, tile_stride]
  float* sums;          // [rows, width]; what lies behind value_dim is never read
  float largest[kAttentionBlockRows];
  float total[kAttentionBlockRows];
  float correction[kAttentionBlockRows];
  TileRow active[kAttentionBlockRows];
  int64_t active_count;
};

bool Sees(const VisibleRange& range, int64_t position) {
  if (position < range.tree_begin) return true;
  const int64_t bit = position - range.tree_begin;
  return bit < 64 && ((range.tree_bits >> bit) & 1u) != 0;
}

// Trims [begin, end) of the tile at `first` to the positions that the row sees.
TileRow Trim(const VisibleRange& range, int64_t row, int64_t first, int64_t tile) {
  TileRow part{row, range.begin - first, range.end - first, false};
  if (part.begin < 0) part.begin = 0;
  if (part.end > tile) part.end = tile;
  if (first + part.end <= range.tree_begin) return part;
  while (part.begin < part.end && !Sees(range, first + part.begin)) ++part.begin;
  while (part.begin < part.end && !Sees(range, first + part.end - 1)) --part.end;
  for (int64_t p = part.begin; p < part.end; ++p) {
    part.holes = part.holes || !Sees(range, first + p);
  }
  return part;
}

// Rows of `dim` elements to rows of `stride` floats, zeros behind `dim`.
template <class T>
void WidenRows(const T* from, int64_t begin, int64_t end, int64_t dim, float* to, int64_t stride) {
  for (int64_t p = begin; p < end; ++p) {
    int64_t d = 0;
    for (; d + Vec::kLanes <= dim; d += Vec::kLanes) {
      Vec::Store(to + p * stride + d, Vec::Load(from + p * dim + d));
    }
    for (; d < stride; d += Vec::kLanes) {
      const int64_t rest = dim > d ? dim - d : 0;
      const int64_t room = stride - d < Vec::kLanes ? stride - d : Vec::kLanes;
      const Vec value = Vec::LoadN(from + p * dim + d, rest);
      if (room == Vec::kLanes) {
        Vec::Store(to + p * stride + d, value);
      } else {
        Vec::StoreN(to + p * stride + d, value, room);
      }
    }
  }
}

// Where a page's keys or values lie, [begin, end) of them in sight.
struct PagePart {
  int64_t page;
  int64_t begin;
  int64_t end;
  int64_t offset;  // of the page in the tile
};

template <class T>
PageRows<T> KeysOf(const AttentionBlockParams& params, const PagePart& part) {
  const std::byte* page = params.k + params.pages[part.page] * params.page_stride;
  return {reinterpret_cast<const T*>(page), params.key_dim, part.begin, part.end, part.offset};
}

template <class T>
PageRows<T> ValuesOf(const AttentionBlockParams& params, const PagePart& part) {
  if (params.v == nullptr) return KeysOf<T>(params, part);
  const std::byte* page = params.v + params.pages[part.page] * params.page_stride;
  return {reinterpret_cast<const T*>(page), params.value_dim, part.begin, part.end, part.offset};
}

// The rows in sight, widened to `stride` floats each at `to`.
template <class T>
PageRows<float> Widen(const PageRows<T>& rows, float* to, int64_t stride) {
  WidenRows(rows.data, rows.begin, rows.end, rows.stride, to, stride);
  return {to, stride, rows.begin, rows.end, rows.offset};
}

// Scores of the active rows against the keys of a page.
template <class T>
void ScorePage(const AttentionBlockParams& params, const PageRows<T>& keys, State& state) {
  const float* q[kAttentionBlockRows];
  float* scores = state.scores + keys.offset + keys.begin;
  const int64_t count = keys.end - keys.begin;
  for (int64_t i = 0; i < state.active_count; ++i) {
    q[i] = params.q[state.active[i].row];
    for (int64_t p = 0; p < count; ++p) scores[i * state.tile_stride + p] = 0.0f;
  }
  for (int64_t d = 0; d < params.key_dim; d += kDepthChunk) {
    const int64_t depth = params.key_dim - d < kDepthChunk ? params.key_dim - d : kDepthChunk;
    DotChunk(q, state.active_count, d, keys.data + keys.begin * keys.stride + d, keys.stride, count,
             depth, scores, state.tile_stride);
  }
}

// Turns one row's scores into weights, hidden positions into 0, and moves its softmax on.
void WeighRow(const AttentionBlockParams& params, int64_t first, int64_t i, State& state) {
  const TileRow& part = state.active[i];
  float* scores = state.scores + i * state.tile_stride;
  for (int64_t p = 0; p < state.tile_stride; ++p) {
    const bool inside = p >= part.begin && p < part.end;
    scores[p] = inside ? scores[p] * params.scale : kNegativeInfinity;
  }
  for (int64_t p = part.begin; part.holes && p < part.end; ++p) {
    if (!Sees(params.sees[part.row], first + p)) scores[p] = kNegativeInfinity;
  }
  Vec tile_largest = Vec::Set1(kNegativeInfinity);
  for (int64_t p = 0; p < state.tile_stride; p += Vec::kLanes) {
    tile_largest = Vec::Max(tile_largest, Vec::Load(scores + p));
  }
  const float before = state.largest[part.row];
  const float now = Vec::ReduceMax(tile_largest);
  const float largest = now > before ? now : before;
  Vec total = Vec::Zero();
  for (int64_t p = 0; p < state.tile_stride; p += Vec::kLanes) {
    const Vec weight = Exp(Vec::Sub(Vec::Load(scores + p), Vec::Set1(largest)));
    Vec::Store(scores + p, weight);
    total = Vec::Add(total, weight);
  }
  const float correction = ExpOne(before - largest);
  state.largest[part.row] = largest;
  state.correction[i] = correction;
  state.total[part.row] = state.total[part.row] * correction + Vec::ReduceAdd(total);
}

// sums = sums * correction + weights v of `count` pages, for kRows active rows from `i` on that see
// the same positions without holes, over kVecs vectors of the width.
template <int kRows, int kVecs, class T>
void AddValues(const PageRows<T>* pages, int64_t count, int64_t i, int64_t d, State& state) {
  const TileRow& part = state.active[i];
  Vec sums[kRows][kVecs];
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) {
    const float* row = state.sums + state.active[i + m].row * state.width + d;
    const Vec correction = Vec::Set1(state.correction[i + m]);
#pragma GCC unroll 4
    for (int c = 0; c < kVecs; ++c) {
      sums[m][c] = Vec::Mul(Vec::Load(row + c * Vec::kLanes), correction);
    }
  }
  for (const PageRows<T>* page = pages; page != pages + count; ++page) {
    const float* weights = state.scores + i * state.tile_stride + page->offset;
    const int64_t begin = Larger(page->begin, part.begin - page->offset);
    const int64_t end = Smaller(page->end, part.end - page->offset);
    for (int64_t p = begin; p < end; ++p) {
      Vec value[kVecs];
#pragma GCC unroll 4
      for (int c = 0; c < kVecs; ++c) {
        value[c] = Vec::Load(page->data + p * page->stride + d + c * Vec::kLanes);
      }
#pragma GCC unroll 4
      for (int m = 0; m < kRows; ++m) {
        const Vec weight = Vec::Set1(weights[m * state.tile_stride + p]);
#pragma GCC unroll 4
        for (int c = 0; c < kVecs; ++c) sums[m][c] = Vec::Fma(weight, value[c], sums[m][c]);
      }
    }
  }
#pragma GCC unroll 4
  for (int m = 0; m < kRows; ++m) {
    float* row = state.sums + state.active[i + m].row * state.width + d;
#pragma GCC unroll 4
    for (int c = 0; c < kVecs; ++c) Vec::Store(row + c * Vec::kLanes, sums[m][c]);
  }
}

template <int kRows, class T>
void AddValuesOfRows(const PageRows<T>* pages, int64_t count, int64_t i, State& state) {
  constexpr int kVecs = 4;
  int64_t d = 0;
  for (; d + kVecs * Vec::kLanes <= state.width; d += kVecs * Vec::kLanes) {
    AddValues<kRows, kVecs>(pages, count, i, d, state);
  }
  for (; d < state.width; d += Vec::kLanes) AddValues<kRows, 1>(pages, count, i, d, state);
}

// As AddValues for one row with holes: hidden positions are passed over, not multiplied by 0, since
// their values may be anything.
template <class T>
void AddValuesWithHoles(const AttentionBlockParams& params, const PageRows<T>* pages, int64_t count,
                        int64_t first, int64_t i, State& state) {
  const TileRow& part = state.active[i];
  float* sums = state.sums + part.row * state.width;
  const Vec correction = Vec::Set1(state.correction[i]);
  for (int64_t d = 0; d < state.width; d += Vec::kLanes) {
    Vec sum = Vec::Mul(Vec::Load(sums + d), correction);
    for (const PageRows<T>* page = pages; page != pages + count; ++page) {
      const int64_t begin = Larger(page->begin, part.begin - page->offset);
      const int64_t end = Smaller(page->end, part.end - page->offset);
      for (int64_t p = begin; p < end; ++p) {
        const int64_t position = page->offset + p;
        if (!Sees(params.sees[part.row], first + position)) continue;
        const Vec weight = Vec::Set1(state.scores[i * state.tile_stride + position]);
        sum = Vec::Fma(weight, Vec::Load(page->data + p * page->stride + d), sum);
      }
    }
    Vec::Store(sums + d, sum);
  }
}

// How many active rows from `i` on, at most 4, see the same positions without holes.
int64_t SameRange(const State& state, int64_t i) {
  const TileRow& part = state.active[i];
  int64_t count = 1;
  while (count < 4 && i + count < state.active_count) {
    const TileRow& next = state.active[i + count];
    if (next.holes || next.begin != part.begin || next.end != part.end) break;
    ++count;
  }
  return count;
}

// Adds the values of `count` pages of the tile at `first`; the sums are corrected.
template <class T>
void AddPages(const AttentionBlockParams& params, const PageRows<T>* pages, int64_t count,
              int64_t first, State& state) {
  int64_t i = 0;
  while (i < state.active_count) {
    const int64_t rows = state.active[i].holes ? 1 : SameRange(state, i);
    if (state.active[i].holes) {
      AddValuesWithHoles(params, pages, count, first, i, state);
      i += 1;
    } else if (rows == 4) {
      AddValuesOfRows<4>(pages, count, i, state);
      i += 4;
    } else if (rows >= 2) {
      AddValuesOfRows<2>(pages, count, i, state);
      i += 2;
    } else {
      AddValuesOfRows<1>(pages, count, i, state);
      i += 1;
    }
  }
  for (int64_t row = 0; row < state.active_count; ++row) state.correction[row] = 1.0f;
}

// Fetches rows into cache: a page is too short for the hardware to see where it leads.
template <class T>
void Prefetch(const PageRows<T>& rows, int64_t width) {
  constexpr int64_t kLine = 64 / sizeof(T);
  const T* end = rows.data + (rows.end - 1) * rows.stride + width;
  for (const T* line = rows.data + rows.begin * rows.stride; line < end; line += kLine) {
    __builtin_prefetch(line);
  }
}

// The active rows against the pages of the tile at `first`.
template <class T>
void WorkOnTile(const AttentionBlockParams& params, const PagePart* parts, int64_t count,
                int64_t first, State& state) {
  // Loads of v are whole vectors: a row that ends within one is padded in the copy.
  const int64_t v_stride = params.v == nullptr ? params.key_dim : params.value_dim;
  const bool in_place =
      state.width <= v_stride && (sizeof(T) == sizeof(float) || state.active_count <= kInPlaceRows);
  for (int64_t i = 0; i < count; ++i) {
    const PageRows<T> keys = KeysOf<T>(params, parts[i]);
    Prefetch(ValuesOf<T>(params, parts[i]), params.value_dim);
    if (in_place) {
      ScorePage(params, keys, state);
    } else {
      ScorePage(params, Widen(keys, state.k, state.key_width), state);
    }
  }
  for (int64_t i = 0; i < state.active_count; ++i) WeighRow(params, first, i, state);
  if (in_place) {
    PageRows<T> pages[kAttentionTilePositions];
    for (int64_t i = 0; i < count; ++i) pages[i] = ValuesOf<T>(params, parts[i]);
    AddPages(params, pages, count, first, state);
    return;
  }
  float* to = params.v == nullptr ? state.k : state.v;
  const int64_t stride = params.v == nullptr ? state.key_width : state.width;
  for (int64_t i = 0; i < count; ++i) {
    const PageRows<float> values = Widen(ValuesOf<T>(params, parts[i]), to, stride);
    AddPages(params, &values, 1, first, state);
  }
}

void RunTile(const AttentionBlockParams& params, int64_t tile, State& state) {
  const int64_t first = tile * state.tile;
  int64_t begin = state.tile;
  int64_t end = 0;
  state.active_count = 0;
  for (int64_t row = 0; row < params.rows; ++row) {
    const TileRow part = Trim(params.sees[row], row, first, state.tile);
    if (part.begin >= part.end) continue;
    state.active[state.active_count++] = part;
    begin = Smaller(begin, part.begin);
    end = Larger(end, part.end);
  }
  if (state.active_count == 0) return;
  PagePart parts[kAttentionTilePositions];
  int64_t count = 0;
  for (int64_t page = begin / params.page_size; page * params.page_size < end; ++page) {
    const int64_t offset = page * params.page_size;
    parts[count++] = {.page = first / params.page_size + page,
                      .begin = Larger(0, begin - offset),
                      .end = Smaller(params.page_size, end - offset),
                      .offset = offset};
  }
  if (params.dtype == DType::kBF16) {
    WorkOnTile<Bf16>(params, parts, count, first, state);
  } else {
    WorkOnTile<float>(params, parts, count, first, state);
  }
}

void StoreRow(const AttentionBlockParams& params, int64_t row, const State& state) {
  const float* sums = state.sums + row * state.width;
  const float total = state.total[row];
  for (int64_t d = 0; d < params.value_dim; ++d) {
    params.out[row][d] = total > 0.0f ? sums[d] / total : 0.0f;
  }
}

}  // namespace

void AttentionBlock(const AttentionBlockParams& params) {
  State state;
  state.tile = AttentionTilePages(params.page_size) * params.page_size;
  state.tile_stride = RoundUp16(state.tile);
  state.key_width = RoundUp16(params.key_dim);
  state.width = RoundUp16(params.value_dim);
  state.k = params.scratch;
  state.v = state.k + params.page_size * state.key_width;
  state.scores = state.v + params.page_size * state.width;
  state.sums = state.scores + kAttentionBlockRows * state.tile_stride;
  int64_t begin = params.sees[0].begin;
  int64_t end = 0;
  for (int64_t row = 0; row < params.rows; ++row) {
    state.largest[row] = kNegativeInfinity;
    state.total[row] = 0.0f;
    for (int64_t d = 0; d < state.width; ++d) state.sums[row * state.width + d] = 0.0f;
    begin = Smaller(begin, params.sees[row].begin);
    end = Larger(end, params.sees[row].end);
  }
  for (int64_t tile = begin / state.tile; tile * state.tile < end; ++tile) {
    RunTile(params, tile, state);
  }
  for (int64_t row = 0; row < params.rows; ++row) StoreRow(params, row, state);
}

}  // namespace sluice::ops::SLUICE_TIER
