#pragma once

#if defined(__AVX512F__) && defined(__AVX512BW__) && defined(__AVX512VL__) && defined(__AVX512DQ__)

#include <immintrin.h>

#include <cstdint>

#include "device/dtype.h"

namespace sluice::ops::avx512 {

// The members of portable::Vec with AVX-512 F, BW, VL and DQ.
struct Vec {
  static constexpr int kLanes = 16;
  // 24 sums and 3 rows leave registers for the column in flight.
  static constexpr int kTileRows = 3;
  static constexpr int kTileColumns = 8;

  __m512 v;

  static Vec Zero() { return {_mm512_setzero_ps()}; }
  static Vec Set1(float x) { return {_mm512_set1_ps(x)}; }
  static Vec Load(const float* p) { return {_mm512_loadu_ps(p)}; }
  static Vec WidenBf16(__m256i bits) {
    return {_mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16))};
  }
  static Vec Load(const Bf16* p) {
    return WidenBf16(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)));
  }
  static Vec Load(const F16* p) {
    return {_mm512_cvtph_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(p)))};
  }
  static __mmask16 FirstLanes(int64_t count) { return static_cast<__mmask16>((1u << count) - 1u); }
  static Vec LoadN(const float* p, int64_t count) {
    return {_mm512_maskz_loadu_ps(FirstLanes(count), p)};
  }
  static Vec LoadN(const Bf16* p, int64_t count) {
    return WidenBf16(_mm256_maskz_loadu_epi16(FirstLanes(count), p));
  }
  static Vec LoadN(const F16* p, int64_t count) {
    return {_mm512_cvtph_ps(_mm256_maskz_loadu_epi16(FirstLanes(count), p))};
  }
  static void Store(float* p, Vec a) { _mm512_storeu_ps(p, a.v); }
  static void StoreN(float* p, Vec a, int64_t count) {
    _mm512_mask_storeu_ps(p, FirstLanes(count), a.v);
  }
  static Vec Add(Vec a, Vec b) { return {_mm512_add_ps(a.v, b.v)}; }
  static Vec Sub(Vec a, Vec b) { return {_mm512_sub_ps(a.v, b.v)}; }
  static Vec Mul(Vec a, Vec b) { return {_mm512_mul_ps(a.v, b.v)}; }
  static Vec Div(Vec a, Vec b) { return {_mm512_div_ps(a.v, b.v)}; }
  static Vec Fma(Vec a, Vec b, Vec c) { return {_mm512_fmadd_ps(a.v, b.v, c.v)}; }
  static Vec Max(Vec a, Vec b) { return {_mm512_max_ps(a.v, b.v)}; }
  static Vec Min(Vec a, Vec b) { return {_mm512_min_ps(a.v, b.v)}; }
  static Vec IfBelow(Vec x, Vec limit, Vec b, Vec a) {
    return {_mm512_mask_blend_ps(_mm512_cmp_ps_mask(x.v, limit.v, _CMP_LT_OQ), a.v, b.v)};
  }
  static Vec Round(Vec x) {
    return {_mm512_roundscale_ps(x.v, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC)};
  }
  static Vec Pow2(Vec n) {
    const __m512i exponent = _mm512_add_epi32(_mm512_cvtps_epi32(n.v), _mm512_set1_epi32(127));
    return {_mm512_castsi512_ps(_mm512_slli_epi32(exponent, 23))};
  }
  static float ReduceAdd(Vec a) {
    const __m256 half = _mm256_add_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 sum = _mm_add_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    sum = _mm_add_ps(sum, _mm_movehl_ps(sum, sum));
    return _mm_cvtss_f32(_mm_add_ss(sum, _mm_movehdup_ps(sum)));
  }
  // out[n] += ReduceAdd(sums[n]), the same additions made for all columns at once.
  static inline __attribute__((always_inline)) void AddReduced(const Vec (&sums)[kTileColumns],
                                                               float* out) {
    const __m512 quarters[2] = {JoinFour(sums[0].v, sums[1].v, sums[2].v, sums[3].v),
                                JoinFour(sums[4].v, sums[5].v, sums[6].v, sums[7].v)};
    const __m512 pairs = _mm512_add_ps(_mm512_shuffle_ps(quarters[0], quarters[1], 0x44),
                                       _mm512_shuffle_ps(quarters[0], quarters[1], 0xee));
    const __m512 totals = _mm512_add_ps(pairs, _mm512_movehdup_ps(pairs));
    const __m512i order = _mm512_setr_epi32(0, 4, 8, 12, 2, 6, 10, 14, 0, 0, 0, 0, 0, 0, 0, 0);
    const __m256 sorted = _mm512_castps512_ps256(_mm512_permutexvar_ps(order, totals));
    _mm256_storeu_ps(out, _mm256_add_ps(_mm256_loadu_ps(out), sorted));
  }
  // Keeps a value in a register where the compiler would load it again for each use.
  static void Pin(Vec& a) { asm("" : "+v"(a.v)); }
  static float ReduceMax(Vec a) {
    const __m256 half = _mm256_max_ps(_mm512_castps512_ps256(a.v), _mm512_extractf32x8_ps(a.v, 1));
    __m128 max = _mm_max_ps(_mm256_castps256_ps128(half), _mm256_extractf128_ps(half, 1));
    max = _mm_max_ps(max, _mm_movehl_ps(max, max));
    return _mm_cvtss_f32(_mm_max_ss(max, _mm_movehdup_ps(max)));
  }

 private:
  // Lanes l + (l + 8), then l + (l + 4), of four vectors: 4 lanes of each, in order.
  static inline __attribute__((always_inline)) __m512 JoinFour(__m512 a, __m512 b, __m512 c,
                                                               __m512 d) {
    const __m512 ab =
        _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x44), _mm512_shuffle_f32x4(a, b, 0xee));
    const __m512 cd =
        _mm512_add_ps(_mm512_shuffle_f32x4(c, d, 0x44), _mm512_shuffle_f32x4(c, d, 0xee));
    return _mm512_add_ps(_mm512_shuffle_f32x4(ab, cd, 0x88), _mm512_shuffle_f32x4(ab, cd, 0xdd));
  }
};

}  // namespace sluice::ops::avx512

#endif
