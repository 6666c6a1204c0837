// SPDX-License-Identifier: MIT
// A row's softmax in three numbers, and the algebra that joins parts of a row.
#pragma once

#include "rows/math.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Contract: of the elements seen so far, `max` is the greatest, `count_max` of them equal it, and
// `rest` is the sum of exp(x - max) over the others, among which there may be more that equal it.
// Keeping the maximum's own term out of `rest` is what makes log1p((count_max - 1) + rest) exact
// for a confident row: a margin of 20 gives 2.06e-9, where log(1 + 2e-9) would give 0. The maximum
// stays apart from the logarithm, so a common offset of the row costs nothing. `count_max` and
// `rest` are sums, hence double.
template <class Acc>
struct RowStats {
  Acc max = -Infinity<Acc>();
  double count_max = 0;
  double rest = 0;
};

// What exponents are taken relative to: a row of -inf alone has no finite maximum.
template <class V>
SCE_HD V Shift(V max) {
  return max == V{} - Infinity<typename NumberTypes<V>::Scalar>() ? V{} : max;
}

// `stats` relative to the greater maximum `max`.
template <class Acc>
SCE_HD RowStats<Acc> Rescaled(RowStats<Acc> stats, Acc max) {
  if (max <= stats.max) return stats;
  const double factor = static_cast<double>(ExpNonPositive(stats.max - Shift(max)));
  return {max, 0, (stats.count_max + stats.rest) * factor};
}

template <class Acc>
SCE_HD RowStats<Acc> Merge(RowStats<Acc> a, RowStats<Acc> b) {
  const Acc max = a.max > b.max ? a.max : b.max;
  const RowStats<Acc> left = Rescaled(a, max);
  const RowStats<Acc> right = Rescaled(b, max);
  return {max, left.count_max + right.count_max, left.rest + right.rest};
}

// The finished row: log_softmax(x) = (x - max) - log_sum, softmax(x) = exp(x - max) / sum.
template <class Acc>
struct RowSoftmax {
  Acc max;
  Acc sum_minus_one;
  Acc sum;
  Logarithm<Acc> log_sum;
};

// As one number the two lose what is below the unit of a great common offset.
template <class Acc>
SCE_HD Acc LogSumExp(const RowSoftmax<Acc>& softmax) {
  return softmax.max + softmax.log_sum.Sum();
}

// max - max is 0, but nan for +inf and for a row of -inf alone, whose softmax does not exist.
template <class Acc>
SCE_HD RowSoftmax<Acc> Finish(Acc max, Acc sum_minus_one) {
  sum_minus_one += max - max;
  return {max, sum_minus_one, 1 + sum_minus_one, Log1pNonNegative(sum_minus_one)};
}

template <class Acc>
SCE_HD Acc SumMinusOne(RowStats<Acc> stats) {
  return static_cast<Acc>((stats.count_max - 1) + stats.rest);
}

template <class Acc>
SCE_HD RowSoftmax<Acc> Finish(RowStats<Acc> stats) {
  return Finish(stats.max, SumMinusOne(stats));
}

}  // namespace onnxloss::ONNXLOSS_TARGET
