#pragma once

#include <cstddef>
#include <cstdint>

#include "device/dtype.h"
#include "ops/common/cpu/vec.h"

// Products of rows of x with rows of w, the arithmetic that Gemm, GroupedGemm and Attention share.
//
// The sum of one element: K is cut into chunks of kDepthChunk; within a chunk lane l of one vector
// sums the elements k = l modulo the lanes, in order; ReduceAdd joins the lanes; the chunks' sums
// are added to the output in order. Every tile does it like this, whatever its height and width,
// so that the bits of an element do not depend on the tile it falls into.
namespace sluice::ops::SLUICE_TIER {

// 8 columns of one chunk, widened to f32, are 16 KB: they stay in the first-level cache with the
// rows that pass over them.
inline constexpr int64_t kDepthChunk = 512;

// From this many rows on, columns are widened once into scratch. Below, widening in registers is
// cheaper than the round trip.
inline constexpr int64_t kPackRows = 8;

// Floats of x that pass over a row of w before the next row of w does: they stay in the first-level
// cache.
inline constexpr int64_t kStreamFloats = 4096;

// How far ahead of the sums a stream is fetched. Left to itself a core follows a stream some lines
// ahead, which is not enough to cover what a line takes to come from memory.
inline constexpr int64_t kStreamBytesAhead = 4096;
inline constexpr int64_t kLineBytes = 64;

// Sums of kRows x kColumns over one chunk: out[m][n] += x[m] . w[n]. `depth` <= kDepthChunk. The
// rows at `next` are fetched into cache on the way.
template <int kRows, int kColumns, class T>
inline void DotTile(const float* const* x, const float* const* next, int64_t x_offset, const T* w,
                    int64_t w_stride, int64_t depth, float* out, int64_t out_stride) {
  Vec sums[kRows][kColumns];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
#pragma GCC unroll 8
    for (int n = 0; n < kColumns; ++n) sums[m][n] = Vec::Zero();
  }
  const float* rows[kRows];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) rows[m] = x[m] + x_offset;
  const float* ahead[kRows];
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) ahead[m] = next[m] + x_offset;
  int64_t k = 0;
  for (; k + Vec::kLanes <= depth; k += Vec::kLanes) {
    Vec left[kRows];
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      left[m] = Vec::Load(rows[m] + k);
      if constexpr (kRows == Vec::kTileRows) __builtin_prefetch(ahead[m] + k);
    }
#pragma GCC unroll 8
    for (int n = 0; n < kColumns; ++n) {
      Vec right = Vec::Load(w + n * w_stride + k);
      if constexpr (kRows > 1) Vec::Pin(right);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) sums[m][n] = Vec::Fma(left[m], right, sums[m][n]);
    }
  }
  if (k < depth) {
#pragma GCC unroll 8
    for (int n = 0; n < kColumns; ++n) {
      const Vec right = Vec::LoadN(w + n * w_stride + k, depth - k);
#pragma GCC unroll 8
      for (int m = 0; m < kRows; ++m) {
        sums[m][n] = Vec::Fma(Vec::LoadN(rows[m] + k, depth - k), right, sums[m][n]);
      }
    }
  }
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    if constexpr (kColumns == Vec::kTileColumns) {
      Vec::AddReduced(sums[m], out + m * out_stride);
    } else {
      for (int n = 0; n < kColumns; ++n) out[m * out_stride + n] += Vec::ReduceAdd(sums[m][n]);
    }
  }
}

// All rows against kColumns columns over one chunk.
template <int kColumns, class T>
inline void DotColumns(const float* const* x, int64_t rows, int64_t x_offset, const T* w,
                       int64_t w_stride, int64_t depth, float* out, int64_t out_stride) {
  static_assert(Vec::kTileRows == 3);
  int64_t m = 0;
  for (; m + 3 <= rows; m += 3) {
    const float* const* next = m + 6 <= rows ? x + m + 3 : x;
    DotTile<3, kColumns>(x + m, next, x_offset, w, w_stride, depth, out + m * out_stride,
                         out_stride);
  }
  if (rows - m == 2) {
    DotTile<2, kColumns>(x + m, x + m, x_offset, w, w_stride, depth, out + m * out_stride,
                         out_stride);
  } else if (rows - m == 1) {
    DotTile<1, kColumns>(x + m, x + m, x_offset, w, w_stride, depth, out + m * out_stride,
                         out_stride);
  }
}

// Widens `columns` x `depth` elements to f32, kDepthChunk floats a column.
template <class T>
inline void PackColumns(const T* w, int64_t w_stride, int64_t columns, int64_t depth,
                        float* packed) {
  for (int64_t n = 0; n < columns; ++n) {
    int64_t k = 0;
    for (; k + Vec::kLanes <= depth; k += Vec::kLanes) {
      Vec::Store(packed + n * kDepthChunk + k, Vec::Load(w + n * w_stride + k));
    }
    if (k < depth) {
      Vec::StoreN(packed + n * kDepthChunk + k, Vec::LoadN(w + n * w_stride + k, depth - k),
                  depth - k);
    }
  }
}

// out[m][n] += x[m] . w[n] over one chunk, for any number of rows and columns, w as it lies.
template <class T>
inline void DotChunk(const float* const* x, int64_t rows, int64_t x_offset, const T* w,
                     int64_t w_stride, int64_t columns, int64_t depth, float* out,
                     int64_t out_stride) {
  constexpr int kTile = Vec::kTileColumns;
  int64_t n = 0;
  for (; n + kTile <= columns; n += kTile) {
    DotColumns<kTile>(x, rows, x_offset, w + n * w_stride, w_stride, depth, out + n, out_stride);
  }
  for (; n < columns; ++n) {
    DotColumns<1>(x, rows, x_offset, w + n * w_stride, w_stride, depth, out + n, out_stride);
  }
}

// As DotChunk, tile by tile through the widened copy.
template <class T>
inline void DotChunkPacked(const float* const* x, int64_t rows, int64_t x_offset, const T* w,
                           int64_t w_stride, int64_t columns, int64_t depth, float* out,
                           int64_t out_stride) {
  constexpr int kTile = Vec::kTileColumns;
  alignas(64) float packed[kTile * kDepthChunk];
  for (int64_t n = 0; n < columns; n += kTile) {
    const int64_t count = columns - n < kTile ? columns - n : kTile;
    PackColumns(w + n * w_stride, w_stride, count, depth, packed);
    DotChunk(x, rows, x_offset, packed, kDepthChunk, count, depth, out + n, out_stride);
  }
}

// sums[m] = x[m] . w over one chunk. As many bytes at `ahead` are fetched into cache on the way.
template <int kRows, class T>
inline void DotOneColumn(const float* const* x, int64_t x_offset, const T* w, const T* ahead,
                         int64_t depth, Vec (&sums)[kRows]) {
  constexpr int64_t kLine = kLineBytes / static_cast<int64_t>(sizeof(T));
  static_assert(kLine % Vec::kLanes == 0);
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) sums[m] = Vec::Zero();
  const auto add = [&](int64_t k) {
    Vec right = Vec::Load(w + k);
    if constexpr (kRows > 1) Vec::Pin(right);
#pragma GCC unroll 8
    for (int m = 0; m < kRows; ++m) {
      sums[m] = Vec::Fma(Vec::Load(x[m] + x_offset + k), right, sums[m]);
    }
  };
  int64_t k = 0;
#pragma GCC unroll 2
  for (; k + kLine <= depth; k += kLine) {
    __builtin_prefetch(ahead + k);
#pragma GCC unroll 8
    for (int64_t i = 0; i < kLine; i += Vec::kLanes) add(k + i);
  }
  for (; k + Vec::kLanes <= depth; k += Vec::kLanes) add(k);
  if (k == depth) return;
  const Vec right = Vec::LoadN(w + k, depth - k);
#pragma GCC unroll 8
  for (int m = 0; m < kRows; ++m) {
    sums[m] = Vec::Fma(Vec::LoadN(x[m] + x_offset + k, depth - k), right, sums[m]);
  }
}

// out[m][n] += ReduceAdd(sums[n][m]) for `columns` of a tile.
template <int kRows>
inline void AddTile(const Vec (&sums)[Vec::kTileColumns][kRows], int64_t columns, float* out,
                    int64_t out_stride) {
  for (int m = 0; m < kRows; ++m) {
    float* const row = out + m * out_stride;
    if (columns == Vec::kTileColumns) {
      Vec tile[Vec::kTileColumns];
#pragma GCC unroll 8
      for (int n = 0; n < Vec::kTileColumns; ++n) tile[n] = sums[n][m];
      Vec::AddReduced(tile, row);
    } else {
      for (int64_t n = 0; n < columns; ++n) row[n] += Vec::ReduceAdd(sums[n][m]);
    }
  }
}

// As DotBlock, for weights that come from memory: they are read in the order in which they lie
// there, one row of w after another. A core fetches that one stream ahead faster than it does those
// of a tile's columns, side by side. At its end nothing is left to fetch: what is there already is
// asked for again.
template <int kRows, class T>
inline void DotStream(const float* const* x, const T* w, int64_t columns, int64_t depth, float* out,
                      int64_t out_stride) {
  constexpr int kTile = Vec::kTileColumns;
  constexpr int64_t kChunks = kStreamFloats / kDepthChunk / kRows;
  constexpr int64_t kAhead = kStreamBytesAhead / static_cast<int64_t>(sizeof(T));
  Vec sums[kChunks][kTile][kRows];
  for (int64_t n = 0; n < columns; n += kTile) {
    const int64_t count = columns - n < kTile ? columns - n : kTile;
    for (int64_t begin = 0; begin < depth; begin += kChunks * kDepthChunk) {
      const int64_t left = depth - begin;
      const int64_t chunks =
          left < kChunks * kDepthChunk ? (left + kDepthChunk - 1) / kDepthChunk : kChunks;
      for (int64_t i = 0; i < count; ++i) {
        for (int64_t c = 0; c < chunks; ++c) {
          const int64_t k = begin + c * kDepthChunk;
          const int64_t length = depth - k < kDepthChunk ? depth - k : kDepthChunk;
          const int64_t at = (n + i) * depth + k;
          const int64_t ahead = at + kAhead < columns * depth ? at + kAhead : at;
          DotOneColumn(x, k, w + at, w + ahead, length, sums[c][i]);
        }
      }
      for (int64_t c = 0; c < chunks; ++c) AddTile(sums[c], count, out + n, out_stride);
    }
  }
}

// out[m][n] += x[m] . w[n] for w [columns, depth], dense.
template <class T>
inline void DotBlock(const float* const* x, int64_t rows, const T* w, int64_t columns,
                     int64_t depth, float* out, int64_t out_stride) {
  const auto chunk = [depth](int64_t k) {
    return depth - k < kDepthChunk ? depth - k : kDepthChunk;
  };
  if (rows >= kPackRows) {
    for (int64_t k = 0; k < depth; k += kDepthChunk) {
      DotChunkPacked(x, rows, k, w + k, depth, columns, chunk(k), out, out_stride);
    }
    return;
  }
  // With more rows, those of a tile are worth more than one stream of w.
  if (rows == 1) return DotStream<1>(x, w, columns, depth, out, out_stride);
  if (rows == 2) return DotStream<2>(x, w, columns, depth, out, out_stride);
  // Few rows: weights come from memory, so take them in the order in which they lie there.
  for (int64_t n = 0; n < columns; n += Vec::kTileColumns) {
    const int64_t count = columns - n < Vec::kTileColumns ? columns - n : Vec::kTileColumns;
    for (int64_t k = 0; k < depth; k += kDepthChunk) {
      DotChunk(x, rows, k, w + n * depth + k, depth, count, chunk(k), out + n, out_stride);
    }
  }
}

inline void DotBlock(const float* const* x, int64_t rows, const std::byte* w, DType dtype,
                     int64_t columns, int64_t depth, float* out, int64_t out_stride) {
  if (dtype == DType::kBF16) {
    const Bf16* typed = reinterpret_cast<const Bf16*>(w);
    DotBlock(x, rows, typed, columns, depth, out, out_stride);
  } else if (dtype == DType::kF16) {
    const F16* typed = reinterpret_cast<const F16*>(w);
    DotBlock(x, rows, typed, columns, depth, out, out_stride);
  } else {
    const float* typed = reinterpret_cast<const float*>(w);
    DotBlock(x, rows, typed, columns, depth, out, out_stride);
  }
}

}  // namespace sluice::ops::SLUICE_TIER
