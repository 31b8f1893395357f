#pragma once

#include <cstdint>

#include "ops/common/cuda/launch.cuh"
#include "ops/common/cuda/math.cuh"

// How kernels that treat each element of [rows, width] by itself share it out: a block has a piece
// of one row, and each of its threads a few elements that lie a block's width apart.
namespace sluice::ops::cuda {

inline constexpr int kRowCutThreads = 256;
inline constexpr int kRowCutElements = 4;  // a thread's
inline constexpr int kRowCutPiece = kRowCutThreads * kRowCutElements;

inline LaunchShape RowCutShape(int64_t rows, int64_t width) {
  return {.grid = static_cast<unsigned>(rows * CeilDiv(width, kRowCutPiece)),
          .block = static_cast<unsigned>(kRowCutThreads)};
}

// Calls `body(row, column)` for this thread's elements; body's loads of different elements may be
// in flight together.
template <class Body>
__device__ __forceinline__ void ForEachInRowCut(int64_t width, Body body) {
  const int64_t pieces = CeilDiv(width, kRowCutPiece);
  const int64_t row = blockIdx.x / pieces;
  const int64_t begin = blockIdx.x % pieces * kRowCutPiece + threadIdx.x;
#pragma unroll
  for (int e = 0; e < kRowCutElements; ++e) {
    const int64_t column = begin + e * kRowCutThreads;
    if (column < width) body(row, column);
  }
}

}  // namespace sluice::ops::cuda
