// SPDX-License-Identifier: MIT
// The sum of a long row's exponentials, built up from blocks.
#pragma once

#include "cpu/block_sums.h"

namespace onnxloss::ONNXLOSS_TARGET {

// Blocks are summed relative to a reference that is near the greatest element so far, and not above
// it. The block that holds the greatest waits apart: where the row is confident, the greatest's own
// terms must not join the others, see RowStats, and that block is summed once more without them.
template <class Acc>
struct RowSum {
  Acc reference = -Infinity<Acc>();
  Acc max = -Infinity<Acc>();
  int64_t peak = 0;      // first class of the block that holds `max`
  double peak_sum = 0;   // of that block
  double other_sum = 0;  // of the others
  double gap = 0;        // relative to the reference
  double total = 0;

  // Elements so far above the reference neither overflow nor lose digits.
  static constexpr Acc kNear = 32;
  bool IsNear(Acc greatest) const { return greatest <= reference + kNear; }

  // `coefficients` is the sum of those whose terms are in the gap.
  void RaiseReference(Acc raised, double coefficients) {
    if (raised <= reference) return;
    const double factor = static_cast<double>(ExpNonPositive(reference - Shift(raised)));
    peak_sum *= factor;
    other_sum *= factor;
    gap = GapFrom(raised, coefficients);
    reference = raised;
  }

  void Add(const BlockSums<Acc>& sums, int64_t first) {
    const bool rises = sums.max > max;
    other_sum += rises ? peak_sum : sums.sum;
    peak_sum = rises ? sums.sum : peak_sum;
    peak = rises ? first : peak;
    max = rises ? sums.max : max;
    gap += sums.gap;
    total += sums.total;
  }

  double GapFrom(Acc raised, double coefficients) const {
    return Rescaled(DenseSums<Acc>{gap, coefficients}, reference, raised).gap;
  }
  double relative_to_max() const { return static_cast<double>(ExpNonPositive(reference - max)); }
};

// `peak_stats` gives the stats of the block that holds the greatest. They are asked for where the
// greatest has more than half of the sum; elsewhere the sum less 1 keeps its digits.
template <class Acc, class PeakStats>
inline Acc SumMinusOne(const RowSum<Acc>& row, const PeakStats& peak_stats) {
  const double factor = row.relative_to_max();
  const double sum = (row.peak_sum + row.other_sum) * factor;
  if (!(sum < 2)) return SumMinusOne(RowStats<Acc>{row.max, 0, sum});
  RowStats<Acc> stats = peak_stats(row.peak, row.max);
  stats.rest += row.other_sum * factor;
  return SumMinusOne(stats);
}

}  // namespace onnxloss::ONNXLOSS_TARGET
