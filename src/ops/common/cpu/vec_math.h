#pragma once

#include "ops/common/cpu/vec.h"

namespace sluice::ops::SLUICE_TIER {

// exp(x) within 2e-7 relative; 0 below -87.3, where the result would leave f32's normal range, and
// clamped above 88.3. x = n ln2 + r with |r| <= ln2 / 2; the polynomial in r and the split of ln2
// are those of Cephes' expf.
inline Vec Exp(Vec x) {
  const Vec lowest = Vec::Set1(-87.3f);
  // Operands in this order keep a NaN.
  const Vec in = Vec::Max(lowest, Vec::Min(Vec::Set1(88.3f), x));
  const Vec n = Vec::Round(Vec::Mul(in, Vec::Set1(1.44269504f)));
  Vec r = Vec::Fma(n, Vec::Set1(-0.693359375f), in);
  r = Vec::Fma(n, Vec::Set1(2.12194440e-4f), r);
  Vec p = Vec::Set1(1.9875691500e-4f);
  p = Vec::Fma(p, r, Vec::Set1(1.3981999507e-3f));
  p = Vec::Fma(p, r, Vec::Set1(8.3334519073e-3f));
  p = Vec::Fma(p, r, Vec::Set1(4.1665795894e-2f));
  p = Vec::Fma(p, r, Vec::Set1(1.6666665459e-1f));
  p = Vec::Fma(p, r, Vec::Set1(5.0000001201e-1f));
  const Vec exp_r = Vec::Add(Vec::Fma(p, Vec::Mul(r, r), r), Vec::Set1(1.0f));
  return Vec::IfBelow(x, lowest, Vec::Zero(), Vec::Mul(exp_r, Vec::Pow2(n)));
}

// 1 / (1 + exp(-x)), from exp(-|x|) so that neither end loses accuracy.
inline Vec Sigmoid(Vec x) {
  const Vec one = Vec::Set1(1.0f);
  const Vec zero = Vec::Zero();
  const Vec e = Exp(Vec::IfBelow(x, zero, x, Vec::Sub(zero, x)));
  return Vec::Div(Vec::IfBelow(x, zero, e, one), Vec::Add(one, e));
}

inline Vec Silu(Vec x) {
  return Vec::Mul(x, Sigmoid(x));
}

// One value through the vector code, so that it has the same bits as a lane.
inline float ExpOne(float x) {
  float lanes[Vec::kLanes];
  Vec::Store(lanes, Exp(Vec::Set1(x)));
  return lanes[0];
}

inline float SigmoidOne(float x) {
  float lanes[Vec::kLanes];
  Vec::Store(lanes, Sigmoid(Vec::Set1(x)));
  return lanes[0];
}

}  // namespace sluice::ops::SLUICE_TIER
