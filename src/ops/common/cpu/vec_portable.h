#pragma once

#include <cstdint>
#include <cstring>

#include "quant/float_formats.h"

namespace sluice::ops::portable {

// A vector of floats and the operations that kernels are written in. Every tier's Vec has the same
// members; the lanes of a sum and the order in which ReduceAdd joins them are fixed per tier.
// Fma(a, b, c) is a * b + c, here with two roundings, since portable code has no fused form.
struct Vec {
  static constexpr int kLanes = 4;
  // The register tile of a product of rows: tile rows x tile columns sums held at once.
  static constexpr int kTileRows = 3;
  static constexpr int kTileColumns = 4;

  using Raw = float __attribute__((vector_size(16)));
  using RawInt = int32_t __attribute__((vector_size(16)));
  Raw v;

  static Vec Zero() { return {Raw{0, 0, 0, 0}}; }
  static Vec Set1(float x) { return {Raw{x, x, x, x}}; }
  static Vec Load(const float* p) {
    Vec r;
    std::memcpy(&r.v, p, sizeof(r.v));
    return r;
  }
  static Vec Load(const Bf16* p) {
    return {Raw{ToFloat(p[0]), ToFloat(p[1]), ToFloat(p[2]), ToFloat(p[3])}};
  }
  static Vec Load(const F16* p) {
    return {Raw{ToFloat(p[0]), ToFloat(p[1]), ToFloat(p[2]), ToFloat(p[3])}};
  }
  // The first `count` lanes, zeros behind them; count < kLanes.
  template <class T>
  static Vec LoadN(const T* p, int64_t count) {
    Vec r = Zero();
    for (int64_t i = 0; i < count; ++i) r.v[i] = ToFloat(p[i]);
    return r;
  }
  static void Store(float* p, Vec a) { std::memcpy(p, &a.v, sizeof(a.v)); }
  static void StoreN(float* p, Vec a, int64_t count) {
    for (int64_t i = 0; i < count; ++i) p[i] = a.v[i];
  }
  static Vec Add(Vec a, Vec b) { return {a.v + b.v}; }
  static Vec Sub(Vec a, Vec b) { return {a.v - b.v}; }
  static Vec Mul(Vec a, Vec b) { return {a.v * b.v}; }
  static Vec Div(Vec a, Vec b) { return {a.v / b.v}; }
  static Vec Fma(Vec a, Vec b, Vec c) { return {a.v * b.v + c.v}; }
  // The second operand where either is NaN.
  static Vec Max(Vec a, Vec b) { return {a.v > b.v ? a.v : b.v}; }
  static Vec Min(Vec a, Vec b) { return {a.v < b.v ? a.v : b.v}; }
  // b where x < limit, else a.
  static Vec IfBelow(Vec x, Vec limit, Vec b, Vec a) { return {x.v < limit.v ? b.v : a.v}; }
  // To the nearest integer, for |x| < 2^22.
  static Vec Round(Vec x) {
    const Raw magic = Set1(0x1.8p23f).v;
    return {(x.v + magic) - magic};
  }
  // 2^n for integral n in [-126, 127].
  static Vec Pow2(Vec n) {
    const RawInt exponent = (__builtin_convertvector(n.v, RawInt) + 127) << 23;
    Vec r;
    std::memcpy(&r.v, &exponent, sizeof(r.v));
    return r;
  }
  static float ReduceAdd(Vec a) { return (a.v[0] + a.v[2]) + (a.v[1] + a.v[3]); }
  // out[n] += ReduceAdd(sums[n]).
  static void AddReduced(const Vec (&sums)[kTileColumns], float* out) {
    for (int n = 0; n < kTileColumns; ++n) out[n] += ReduceAdd(sums[n]);
  }
  // Where a tier has the means: keeps a value in a register for its next uses.
  static void Pin(Vec&) {}
  static float ReduceMax(Vec a) {
    float largest = a.v[0];
    for (int i = 1; i < kLanes; ++i) largest = a.v[i] > largest ? a.v[i] : largest;
    return largest;
  }
};

}  // namespace sluice::ops::portable
