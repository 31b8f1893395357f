#pragma once

#if defined(__AVX2__) && defined(__FMA__) && defined(__F16C__)

#include <immintrin.h>

#include <cstdint>

#include "device/dtype.h"

namespace sluice::ops::avx2 {

// The members of portable::Vec with AVX2, FMA and F16C.
struct Vec {
  static constexpr int kLanes = 8;
  // 12 sums, 3 rows and 1 column fill the 16 registers.
  static constexpr int kTileRows = 3;
  static constexpr int kTileColumns = 4;

  __m256 v;

  static Vec Zero() { return {_mm256_setzero_ps()}; }
  static Vec Set1(float x) { return {_mm256_set1_ps(x)}; }
  static Vec Load(const float* p) { return {_mm256_loadu_ps(p)}; }
  static Vec Load(const Bf16* p) {
    const __m128i bits = _mm_loadu_si128(reinterpret_cast<const __m128i*>(p));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(bits), 16))};
  }
  static Vec Load(const F16* p) {
    return {_mm256_cvtph_ps(_mm_loadu_si128(reinterpret_cast<const __m128i*>(p)))};
  }
  static __m256i FirstLanes(int64_t count) {
    return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                              _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
  }
  static Vec LoadN(const float* p, int64_t count) {
    return {_mm256_maskload_ps(p, FirstLanes(count))};
  }
  // There is no masked load of 16-bit elements.
  template <class T>
  static Vec LoadN(const T* p, int64_t count) {
    T padded[kLanes] = {};
    for (int64_t i = 0; i < count; ++i) padded[i] = p[i];
    return Load(padded);
  }
  static void Store(float* p, Vec a) { _mm256_storeu_ps(p, a.v); }
  static void StoreN(float* p, Vec a, int64_t count) {
    _mm256_maskstore_ps(p, FirstLanes(count), a.v);
  }
  static Vec Add(Vec a, Vec b) { return {_mm256_add_ps(a.v, b.v)}; }
  static Vec Sub(Vec a, Vec b) { return {_mm256_sub_ps(a.v, b.v)}; }
  static Vec Mul(Vec a, Vec b) { return {_mm256_mul_ps(a.v, b.v)}; }
  static Vec Div(Vec a, Vec b) { return {_mm256_div_ps(a.v, b.v)}; }
  static Vec Fma(Vec a, Vec b, Vec c) { return {_mm256_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec Max(Vec a, Vec b) { return {_mm256_max_ps(a.v, b.v)}; }
  static Vec Min(Vec a, Vec b) { return {_mm256_min_ps(a.v, b.v)}; }
  static Vec IfBelow(Vec x, Vec limit, Vec b, Vec a) {
    return {_mm256_blendv_ps(a.v, b.v, _mm256_cmp_ps(x.v, limit.v, _CMP_LT_OQ))};
  }
  static Vec Round(Vec x) {
    return {_mm256_round_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static Vec Pow2(Vec n) {
    const __m256i exponent = _mm256_add_epi32(_mm256_cvtps_epi32(n.v), _mm256_set1_epi32(127));
    return {_mm256_castsi256_ps(_mm256_slli_epi32(exponent, 23))};
  }
  static float ReduceAdd(Vec a) {
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
  }
  // out[n] += ReduceAdd(sums[n]), the same additions made for all columns at once.
  static inline __attribute__((always_inline)) void AddReduced(const Vec (&sums)[kTileColumns],
                                                               float* out) {
    const __m256 first = JoinTwo(sums[0].v, sums[1].v);
    const __m256 second = JoinTwo(sums[2].v, sums[3].v);
    const __m256 pairs = _mm256_add_ps(_mm256_shuffle_ps(first, second, 0x44),
                                       _mm256_shuffle_ps(first, second, 0xee));
    const __m256 totals = _mm256_add_ps(pairs, _mm256_movehdup_ps(pairs));
    // Columns 0 and 2 lie in the lower half, 1 and 3 in the upper.
    const __m128 mixed =
        _mm_shuffle_ps(_mm256_castps256_ps128(totals), _mm256_extractf128_ps(totals, 1), 0x88);
    const __m128 sorted = _mm_shuffle_ps(mixed, mixed, 0xd8);
    _mm_storeu_ps(out, _mm_add_ps(_mm_loadu_ps(out), sorted));
  }
  // Keeps a value in a register where the compiler would load it again for each use.
  static void Pin(Vec& a) { asm("" : "+x"(a.v)); }
  static float ReduceMax(Vec a) {
    __m128 max = _mm_max_ps(_mm256_castps256_ps128(a.v), _mm256_extractf128_ps(a.v, 1));
    max = _mm_max_ps(max, _mm_movehl_ps(max, max));
    return _mm_cvtss_f32(_mm_max_ss(max, _mm_movehdup_ps(max)));
  }

 private:
  // Lanes l + (l + 4) of two vectors: 4 lanes of each, in order.
  static inline __attribute__((always_inline)) __m256 JoinTwo(__m256 a, __m256 b) {
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
  }
};

}  // namespace sluice::ops::avx2

#endif
