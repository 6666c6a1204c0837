// SPDX-License-Identifier: MIT
// The row of SoftLabelCrossEntropyLoss: a probability for each class as label.
#pragma once

#include "rows/cross_entropy.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Contract. With e = label_smoothing, w = class weights (1 if absent), t the labels, C classes:
//
//   a_c  = w_c (t_c (1-e) + e/C)
//   loss = sum_c a_c (max - x_c) + A log_sum,   A = sum_c a_c
//   dlogits_c = k (p_c A - a_c), which is the derivative also where sum_c t_c is not 1
//
// x and t are [C]; accumulators and errors as for SoftmaxCrossEntropyLossRow, those of dlogits in
// ulp of k max(p_c A, a_c).
template <class Acc>
struct SoftLabelCrossEntropyLossRow {
  static constexpr bool kHasTarget = false;
  static constexpr bool kDense = true;

  Acc keep;     // 1 - e
  Acc uniform;  // e / C

  template <class V>
  SCE_HD V Coefficient(V label, V weight) const {
    return weight * (label * keep + uniform);
  }
};

}  // namespace onnxloss::ONNXLOSS_TARGET
