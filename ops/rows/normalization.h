// SPDX-License-Identifier: MIT
// Probabilities in the place of logits: what is made of a row before its logarithm is taken.
#pragma once

#include "rows/cross_entropy.h"

namespace onnxloss::ONNXLOSS_TARGET {

// r_c = clip(q_c), q_c = x_c / divisor. As a divisor, 1 stands for no division, and as bounds
// infinities for no clipping; nan is within all bounds.
template <class Acc>
struct Normalization {
  using Scalar = typename NumberTypes<Acc>::Scalar;

  Acc divisor = Acc{} + 1;
  Acc lowest = Acc{} - Infinity<Scalar>();
  Acc highest = Acc{} + Infinity<Scalar>();

  SCE_HD void ClipTo(double epsilon) {
    lowest = Acc{} + static_cast<Scalar>(epsilon);
    highest = Acc{} + static_cast<Scalar>(1 - epsilon);
  }
  template <class V>
  SCE_HD V Quotient(V x) const {
    return divisor == 1 ? x : x / divisor;
  }
  // Of numbers quotients are numbers.
  SCE_HD bool IsFinite() const { return divisor - divisor == 0 && divisor != 0; }
  template <class V>
  SCE_HD V Clipped(V q) const {
    const V at_most = q > highest ? V{} + highest : q;
    return q < lowest ? V{} + lowest : at_most;
  }
  // `value` where q was not clipped, else 0: clipping takes the slope away.
  template <class V>
  SCE_HD V Inside(V q, V value) const {
    const V not_above = q > highest ? V{} : value;
    return q < lowest ? V{} : not_above;
  }
  // dq_c / k of the class with the quotient q and the coefficient a; `pull` is A / S, or 0 where no
  // softmax joins the classes.
  template <class V>
  SCE_HD V Slope(V q, V a, V pull) const {
    const V r = Clipped(q);
    const V of_sum = r == V{} ? pull - pull : pull;
    return Inside(q, of_sum - (a == V{} ? V{} : a / r));
  }
  // What the class with the quotient q and the coefficient a adds to -sum_j dq_j q_j / k, where
  // dq_j is -k a / q if q was not clipped: nan, too, where q is not finite and the slope 0.
  template <class V>
  SCE_HD V OfQuotients(V q, V a) const {
    const V at_0 = GapTerm(a, q * Infinity<typename NumberTypes<V>::Scalar>());
    return Inside(q, q == V{} ? at_0 : a) + (q - q);
  }
};

// log(S) of the sum of a row that a softmax joins: there is no softmax of nothing.
SCE_HD double LogOfSum(double sum) {
  return sum == 0 ? Infinity<double>() - Infinity<double>() : ::log(sum);
}

}  // namespace onnxloss::ONNXLOSS_TARGET
