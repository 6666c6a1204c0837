// SPDX-License-Identifier: MIT
// The row of SoftmaxCrossEntropyLoss: one class index as label.
#pragma once

#include "rows/cross_entropy.h"

namespace onnxloss::ONNXLOSS_TARGET {

// The target's own share of the sums, coefficient (1-e) w_y.
template <class Acc>
struct Target {
  Acc logit;
  Acc coefficient;        // (1-e) w_y
  Acc dense_coefficient;  // (e/C) w_y, 0 without smoothing
};

// Contract. With e = label_smoothing, w = class weights (1 if absent), y the label, C classes:
//
//   a_c  = (1-e) w_y [c = y] + (e/C) w_c
//   loss = sum_c a_c (max - x_c) + A log_sum,   A = sum_c a_c
//   dlogits_c = k (p_c A - a_c);   at the target with p_y - 1 formed as -(sum - e_y) / sum
//
// x is [C], the accumulator Acc is float for float16, bfloat16 and float32 logits, double for
// float64. Of standard normal rows without smoothing, as tests/test_accuracy.py asserts: the loss
// is within 8 ulp of Acc, dlogits within 8 ulp for 99.9 % of the elements and 32 ulp always, most
// of it the rounding of x_c - max, where k / sum is above 2^-100; 16-bit dlogits within 1 ulp.
// Where terms of both signs meet (e > 0): ulp of the greater term. Undefined for a label outside
// [0, C): callers check labels first.
template <class Acc, bool kSmoothed>
struct SoftmaxCrossEntropyLossRow {
  static constexpr bool kHasTarget = true;
  static constexpr bool kDense = kSmoothed;

  Acc keep;     // 1 - e
  Acc uniform;  // e / C

  template <class V>
  SCE_HD V Coefficient(V /*label*/, V weight) const {
    return uniform * weight;
  }
  template <class V>
  SCE_HD Target<V> TargetOf(V logit, V weight) const {
    return {logit, keep * weight, kSmoothed ? uniform * weight : V{}};
  }
};

// The dense terms are 0 unless kDense. What the great terms lose, nan beside an infinite loss,
// joins the small one.
template <bool kDense, class Acc>
SCE_HD Acc TargetLoss(RowSoftmax<Acc> softmax, Target<Acc> target, Acc dense_gap, Acc dense_total) {
  const Acc total = kDense ? target.coefficient + dense_total : target.coefficient;
  const Rounded<Acc> gap = TwoSum(softmax.max, -target.logit);
  const Acc of_target = GapTerm(target.coefficient, gap.value);
  const Acc of_all = kDense ? dense_gap + of_target : of_target;
  const Rounded<Acc> loss = TwoSum(total * softmax.log_sum.high, of_all);
  const Acc lost = target.coefficient * gap.lost + loss.lost;
  return loss.value + (total * softmax.log_sum.rest + (lost == lost ? lost : Acc{}));
}

template <class Acc>
SCE_HD Acc TargetGradient(RowSoftmax<Acc> softmax, Target<Acc> target, Acc dense_total, Acc k) {
  const Acc e = ExpNonPositive(target.logit - softmax.max);
  const Acc others = target.logit == softmax.max ? softmax.sum_minus_one : softmax.sum - e;
  const Acc of_sum = dense_total * e - target.coefficient * others;
  return of_sum * (k / softmax.sum) - k * target.dense_coefficient;
}

}  // namespace onnxloss::ONNXLOSS_TARGET
