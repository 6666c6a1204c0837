// SPDX-License-Identifier: MIT
// The soft cap of logits: cap * tanh(logit / cap), and its slope.
#pragma once

#include "rows/math.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Near 0, where 1 - exp(-2x) cancels: an odd polynomial (Cephes), for |x| < 0.625.
SCE_HD float SmallTanh(float x) {
  const float z = x * x;
  float p = -5.70498872745e-3f;
  p = p * z + 2.06390887954e-2f;
  p = p * z - 5.37397155531e-2f;
  p = p * z + 1.33314422036e-1f;
  p = p * z - 3.33332819422e-1f;
  return p * z * x + x;
}

SCE_HD double SmallTanh(double x) {
  const double z = x * x;
  double p = -9.64399179425052238628e-1;
  p = p * z - 9.92877231001918586564e1;
  p = p * z - 1.61468768441708447952e3;
  double q = z + 1.12811678491632931402e2;
  q = q * z + 2.23548839060100448583e3;
  q = q * z + 4.84406305325125486048e3;
  return x + x * z * p / q;
}

template <class Acc>
SCE_HD Acc Magnitude(Acc x) {
  return x < Acc{} ? -x : x;
}

// Contract of SoftCap: cap * tanh(x / cap) for any x and cap > 0; exactly +-cap at +-inf, nan at
// nan. Max error: 2.5 ulp of Acc. A great x is taken from the cap, cap - cap * 2q / (1 + q) with
// q = exp(-2|x| / cap), so that only the difference is rounded.
template <class Acc>
SCE_HD Acc SoftCap(Acc x, Acc cap) {
  const Acc v = x / cap;
  const Acc q = ExpNonPositive(-2 * Magnitude(v));
  const Acc great = cap - cap * (2 * q / (1 + q));
  const bool is_small = Magnitude(v) < Acc{0.625};
  // Bounded, so that the branch that is not taken stays finite.
  const Acc small = cap * SmallTanh(is_small ? v : Acc{0});
  const Acc signed_great = v < 0 ? -great : great;
  return is_small ? small : signed_great;
}

// The derivative 1 - tanh(x / cap)^2, as 4q / (1 + q)^2, which keeps its digits where tanh is
// near 1.
template <class Acc>
SCE_HD Acc SoftCapSlope(Acc x, Acc cap) {
  const Acc q = ExpNonPositive(-2 * Magnitude(x / cap));
  return 4 * q / ((1 + q) * (1 + q));
}

}  // namespace onnxloss::ONNXLOSS_TARGET
