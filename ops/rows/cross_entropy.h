// SPDX-License-Identifier: MIT
// Cross-entropy of one row against coefficients: what the losses of this family have in common.
#pragma once

#include "rows/row_stats.h"

namespace onnxloss::ONNXLOSS_TARGET {

// A loss of this family is loss = sum_c a_c * (-log_softmax(x)_c) with non-negative coefficients:
// `dense` ones, which every class has, and for an index label one more at the target.
//
//   gap = sum_c a_c (max - x_c)    total = A = sum_c a_c    loss = gap + A * log_sum
//   dlogits_c = k (p_c A - a_c),   p_c = exp(x_c - max) / sum
template <class Acc>
struct DenseSums {
  double gap = 0;
  double total = 0;
};

// What a position with this weight has of a loss or slope: a weight of 0 takes away an infinite
// one, but not a nan.
template <class V>
SCE_HD V Weighted(V weight, V plain) {
  const V weightless = plain == plain ? V{} : plain;
  return weight == V{} ? weightless : weight * plain;
}

// A coefficient of 0 switches its term off, also where the class is masked (0 * inf = 0).
template <class Acc>
SCE_HD Acc GapTerm(Acc coefficient, Acc gap) {
  return coefficient == Acc{} ? Acc{} : coefficient * gap;
}

// The z-loss z lse^2 of a position, and what it adds to the coefficient of p in the gradient. The
// order of the factors keeps 0 * lse * lse at 0 where the square is beyond the type's range.
template <class Acc>
SCE_HD Acc ZLoss(Acc z, Acc lse) {
  return z * lse * lse;
}
template <class Acc>
SCE_HD Acc ZLossShare(Acc z, Acc lse) {
  return 2 * z * lse;
}

// `sums` relative to the greater maximum `max`. Below a maximum of -inf every gap is 0 or inf.
template <class Acc>
SCE_HD DenseSums<Acc> Rescaled(DenseSums<Acc> sums, Acc old_max, Acc max) {
  const bool moves = max > old_max && old_max != -Infinity<Acc>() && sums.total != 0;
  const double step = moves ? static_cast<double>(max - old_max) * sums.total : 0;
  return {sums.gap + step, sums.total};
}

// -log softmax(x)_c: apart, the two terms keep the digits that max + log_sum in one number loses.
template <class Acc>
SCE_HD Acc NegLogP(RowSoftmax<Acc> softmax, Acc x) {
  return (softmax.max - x) + softmax.log_sum.Sum();
}

// The derivative by a label probability whose share of the target is `keep` = 1-e: it is the term
// of its class without the label.
template <class Acc>
SCE_HD Acc LabelGradient(Acc k, Acc keep, Acc weight, Acc neg_log_p) {
  return k * keep * (weight * neg_log_p);
}

// k (p_c A - a_c) as k/sum * ((e_c A - a_c) - a_c (sum - 1)), e_c = exp(x_c - max): for a confident
// row both brackets are exact where p_c A and a_c would round to the same number.
template <class Acc>
SCE_HD Acc DenseGradient(Acc e, Acc total, Acc coefficient, Acc sum_minus_one, Acc scale) {
  return ((e * total - coefficient) - coefficient * sum_minus_one) * scale;
}

// The same of a class that is not the label of its row, with factor = k A / sum: the label's own
// coefficient keeps the terms apart, and where they meet the error is the greater one's. A k of 0,
// of an ignored row, switches an infinite coefficient off.
template <class Acc>
SCE_HD Acc UntargetedGradient(Acc e, Acc factor, Acc coefficient, Acc k) {
  return e * factor - GapTerm(k, coefficient);
}

}  // namespace onnxloss::ONNXLOSS_TARGET
