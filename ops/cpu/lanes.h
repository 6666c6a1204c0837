// SPDX-License-Identifier: MIT
// The vector loops of tiles: the same step of the row maths for many positions side by side.
#pragma once

#include "cpu/kernels.h"
#include "rows/cross_entropy.h"
#include "rows/soft_label_cross_entropy_loss.h"
#include "rows/softcap.h"
#include "rows/softmax_cross_entropy_loss.h"

namespace onnxloss::ONNXLOSS_TARGET {

template <class Acc>
struct Lanes {
  alignas(64) Acc at[kTileLanes];

  Acc& operator[](int64_t j) { return at[j]; }
  const Acc& operator[](int64_t j) const { return at[j]; }
};

template <class Acc>
inline void Fill(Lanes<Acc>* lanes, Acc value) {
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) lanes->at[j] = value;
}

// What is known of each lane's row; sums over many terms in double.
template <class Acc>
struct LaneStats {
  Lanes<Acc> max;
  Lanes<Acc> shift;
  Lanes<double> count_max;
  Lanes<double> rest;
  Lanes<double> gap;
  Lanes<double> total;
};

// So many terms are added in Acc before the sum moves on to a double.
constexpr int64_t kPartialTerms = 32;

template <class Acc>
struct PartialSums {
  Lanes<Acc> count;
  Lanes<Acc> rest;
  Lanes<Acc> gap;
  Lanes<Acc> total;
};

template <bool kDense, class Acc>
inline void Clear(PartialSums<Acc>* sums) {
  Fill(&sums->count, Acc{0});
  Fill(&sums->rest, Acc{0});
  if constexpr (kDense) {
    Fill(&sums->gap, Acc{0});
    Fill(&sums->total, Acc{0});
  }
}

template <class Acc>
inline void MaxLanes(const Acc* __restrict row, Acc* __restrict max) {
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) max[j] = row[j] > max[j] ? row[j] : max[j];
}

// `stats` relative to the greater maximum `raised`, as Rescaled does for one row.
template <bool kDense, class Acc>
inline void RescaleLanes(const Lanes<Acc>& raised, LaneStats<Acc>* stats) {
  Lanes<Acc> factor;
  Lanes<Acc> step;
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) {
    const Acc old = stats->max[j];
    const Acc shift = Shift(raised[j]);
    factor[j] = ExpNonPositive(old - shift);
    step[j] = old == -Infinity<Acc>() ? Acc{0} : raised[j] - old;
    stats->shift[j] = shift;
    stats->max[j] = raised[j];
  }
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) {
    const double all = (stats->count_max[j] + stats->rest[j]) * static_cast<double>(factor[j]);
    const bool stays = factor[j] == 1;
    stats->rest[j] = stays ? stats->rest[j] : all;
    stats->count_max[j] = stays ? stats->count_max[j] : 0;
    if constexpr (kDense) {
      const double moved = static_cast<double>(step[j]) * stats->total[j];
      stats->gap[j] += stats->total[j] == 0 ? 0 : moved;
    }
  }
}

// One class: its terms join `sums`, `row` becomes its exponentials.
template <class Acc, class Row>
inline void AddRow(const Row formula, const Acc* __restrict labels, Acc weight,
                   const LaneStats<Acc>& stats, Acc* __restrict row,
                   PartialSums<Acc>* __restrict sums) {
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) {
    const Acc x = row[j];
    const Acc e = ExpNonPositive(x - stats.shift[j]);
    const bool is_max = x == stats.max[j];
    sums->count[j] += is_max ? Acc{1} : Acc{0};
    sums->rest[j] += is_max ? Acc{0} : e;
    if constexpr (Row::kDense) {
      const Acc a = formula.Coefficient(Row::kHasTarget ? Acc{0} : labels[j], weight);
      sums->gap[j] += a == 0 ? Acc{0} : a * (stats.shift[j] - x);
      sums->total[j] += a;
    }
    row[j] = e;
  }
}

template <bool kDense, class Acc>
inline void AddPartialSums(const PartialSums<Acc>& sums, LaneStats<Acc>* stats) {
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) {
    stats->count_max[j] += static_cast<double>(sums.count[j]);
    stats->rest[j] += static_cast<double>(sums.rest[j]);
    if constexpr (kDense) {
      stats->gap[j] += static_cast<double>(sums.gap[j]);
      stats->total[j] += static_cast<double>(sums.total[j]);
    }
  }
}

// The labels of the lanes, and what the gradient is scaled with.
template <class Acc>
struct LaneTargets {
  Lanes<int64_t> label;  // -1 where there is none
  Lanes<Acc> logit;
  Lanes<Acc> weight;
  Lanes<Acc> k;
  Lanes<Acc> live;  // 0 where the label is ignored, else 1
};

// The finished rows.
template <class Acc>
struct LaneResults {
  Lanes<Acc> loss;
  Lanes<Acc> lse;
  Lanes<Acc> at_target;
  Lanes<Acc> total;  // A and the z-loss's share: the coefficient of p
  Lanes<Acc> sum_minus_one;
  Lanes<Acc> scale;  // k / sum
  Lanes<Acc> factor;
};

template <class Acc, class Row>
inline void FinishLanes(const Row formula, const LaneStats<Acc>& stats,
                        const LaneTargets<Acc>& targets, Acc known_total, Acc z_loss, bool gradient,
                        LaneResults<Acc>* results) {
  const Acc* __restrict const max = stats.max.at;
  const Acc* __restrict const logit = targets.logit.at;
  const Acc* __restrict const weight = targets.weight.at;
  const Acc* __restrict const live = targets.live.at;
  const Acc* __restrict const k = targets.k.at;
  Acc* __restrict const loss = results->loss.at;
  Acc* __restrict const lse = results->lse.at;
  Acc* __restrict const at_target = results->at_target.at;
  Acc* __restrict const all = results->total.at;
  Acc* __restrict const sum_minus_one = results->sum_minus_one.at;
  Acc* __restrict const scale = results->scale.at;
  Acc* __restrict const factor = results->factor.at;
  alignas(64) Acc gap[kTileLanes];
  alignas(64) Acc total[kTileLanes];
  alignas(64) Acc sum[kTileLanes];
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) {
    sum_minus_one[j] = static_cast<Acc>((stats.count_max[j] - 1) + stats.rest[j]);
    gap[j] = static_cast<Acc>(stats.gap[j]);
    total[j] = Row::kHasTarget ? known_total : static_cast<Acc>(stats.total[j]);
  }
  // Not `omp simd`, which would make arrays of the structures below.
  for (int64_t j = 0; j < kTileLanes; ++j) {
    const RowSoftmax<Acc> softmax = Finish(max[j], sum_minus_one[j]);
    const Target<Acc> target = {logit[j], Row::kHasTarget ? formula.keep * weight[j] : Acc{0},
                                Row::kDense ? formula.uniform * weight[j] : Acc{0}};
    lse[j] = LogSumExp(softmax);
    loss[j] = TargetLoss(softmax, target, gap[j], total[j]) + ZLoss(z_loss, lse[j]);
    sum_minus_one[j] = softmax.sum_minus_one;
    total[j] += ZLossShare(z_loss, lse[j]);
    all[j] = target.coefficient + total[j];
    sum[j] = softmax.sum;
  }
  // A loop of its own: a condition around the formula would keep it from being vectorised.
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) loss[j] = live[j] != 0 ? loss[j] : Acc{0};
  if (!gradient) return;
  for (int64_t j = 0; j < kTileLanes; ++j) {
    if constexpr (Row::kHasTarget) {
      const RowSoftmax<Acc> softmax = {max[j], sum_minus_one[j], sum[j], 0};
      const Target<Acc> target = {logit[j], formula.keep * weight[j],
                                  Row::kDense ? formula.uniform * weight[j] : Acc{0}};
      at_target[j] = TargetGradient(softmax, target, total[j], k[j]);
    }
    scale[j] = k[j] / sum[j];
    factor[j] = all[j] * scale[j];
  }
}

// One class: `row` holds exponentials and becomes the gradient, exactly 0 where nothing counts.
template <class Acc, class Row>
inline void GradientRow(const Row formula, const Acc* __restrict labels, Acc weight,
                        const LaneResults<Acc>& results, const Acc* __restrict live,
                        Acc* __restrict row) {
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) {
    Acc value = row[j] * results.factor[j];
    if constexpr (Row::kDense) {
      const Acc a = formula.Coefficient(Row::kHasTarget ? Acc{0} : labels[j], weight);
      value =
          DenseGradient(row[j], results.total[j], a, results.sum_minus_one[j], results.scale[j]);
    }
    row[j] = live[j] != 0 ? value : Acc{0};
  }
}

template <class Acc>
inline void ExpLanes(const Acc* __restrict max, Acc* __restrict row) {
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) row[j] = ExpNonPositive(row[j] - max[j]);
}

template <class Acc>
inline void CapLanes(Acc cap, Acc* __restrict row) {
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) row[j] = SoftCap(row[j], cap);
}

// `row` was the gradient by the capped logits; it stays exactly 0 where nothing counts.
template <class Acc>
inline void ChainLanesThroughCap(Acc cap, const Acc* __restrict logits, const Acc* __restrict live,
                                 Acc* __restrict row) {
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) {
    const Acc chained = row[j] * SoftCapSlope(logits[j], cap);
    row[j] = live[j] != 0 ? chained : Acc{0};
  }
}

}  // namespace onnxloss::ONNXLOSS_TARGET
