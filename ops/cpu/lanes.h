// SPDX-License-Identifier: MIT
// The vector loops of tiles: the same step of the row maths for many positions side by side.
#pragma once

#include "cpu/kernels.h"
#include "cpu/vector_memory.h"
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

// The classes of a vector of lanes: that of class c is at first + c * step.
template <class Acc>
struct Classes {
  Acc* first;
  int64_t step;

  Acc* operator[](int64_t c) const { return first + c * step; }
  Classes From(int64_t c) const { return {first + c * step, step}; }
};

template <class Acc>
inline Vector<Acc> MaxOfClasses(const Classes<Acc>& x, int64_t n, Vector<Acc> max) {
  for (int64_t c = 0; c < n; ++c) max = Max(Load(x[c]), max);
  return max;
}

// Lanes from j on, relative to their maxima; nothing is added up yet.
template <class Acc>
inline void Begin(Vector<Acc> max, int64_t j, LaneStats<Acc>* stats) {
  Store(stats->max.at + j, max);
  Store(stats->shift.at + j, max == Splat(-Infinity<Acc>()) ? Vector<Acc>{} : max);
  for (Lanes<double>* sums : {&stats->count_max, &stats->rest, &stats->gap, &stats->total}) {
#pragma omp simd
    for (int64_t i = j; i < j + kWidth<Acc>; ++i) sums->at[i] = 0;
  }
}

// Lanes from j on, relative to the greater maxima `raised`, as Rescaled does for one row.
template <bool kDense, class Acc>
inline void Rescale(Vector<Acc> raised, int64_t j, LaneStats<Acc>* stats) {
  for (int64_t i = 0; i < kWidth<Acc>; ++i) {
    const int64_t lane = j + i;
    const Acc old = stats->max[lane];
    const DenseSums<Acc> dense = {stats->gap[lane], stats->total[lane]};
    if constexpr (kDense) stats->gap[lane] = Rescaled(dense, old, Acc{raised[i]}).gap;
    const RowStats<Acc> moved =
        Rescaled(RowStats<Acc>{old, stats->count_max[lane], stats->rest[lane]}, Acc{raised[i]});
    stats->max[lane] = moved.max;
    stats->shift[lane] = Shift(moved.max);
    stats->count_max[lane] = moved.count_max;
    stats->rest[lane] = moved.rest;
  }
}

// So many terms are added in Acc before the sum moves on to a double.
constexpr int64_t kPartialTerms = 32;

template <class Acc>
inline void AddToDoubles(Vector<Acc> values, double* sums) {
  alignas(kVectorBytes) Acc terms[kWidth<Acc>];
  Store(terms, values);
#pragma omp simd
  for (int64_t i = 0; i < kWidth<Acc>; ++i) sums[i] += static_cast<double>(terms[i]);
}

// The terms of n <= kPartialTerms classes join the sums of the lanes from j on; x becomes their
// exponentials. coefficient(c) is the dense one of class c.
template <bool kDense, class Acc, class Coefficient>
inline void AddTerms(const Coefficient& coefficient, const Classes<Acc>& x, int64_t n, int64_t j,
                     LaneStats<Acc>* stats) {
  const Vector<Acc> max = Load(stats->max.at + j);
  const Vector<Acc> shift = Load(stats->shift.at + j);
  Vector<Acc> count = {};
  Vector<Acc> rest = {};
  Vector<Acc> gap = {};
  Vector<Acc> total = {};
  for (int64_t c = 0; c < n; ++c) {
    const Vector<Acc> value = Load(x[c]);
    const Vector<Acc> e = ExpNonPositive(value - shift);
    count = value == max ? count + 1 : count;
    rest = value == max ? rest : rest + e;
    if constexpr (kDense) {
      const Vector<Acc> a = coefficient(c);
      gap += GapTerm(a, shift - value);
      total += a;
    }
    Store(x[c], e);
  }
  AddToDoubles<Acc>(count, stats->count_max.at + j);
  AddToDoubles<Acc>(rest, stats->rest.at + j);
  if constexpr (kDense) {
    AddToDoubles<Acc>(gap, stats->gap.at + j);
    AddToDoubles<Acc>(total, stats->total.at + j);
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
  using V = Vector<Acc>;
  Lanes<Acc> sum_minus_one;
  Lanes<Acc> sum_lost;
  Lanes<Acc> dense_gap;
  Lanes<Acc> dense_total;
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) {
    const Rounded<Acc> rounded = RoundedTo<Acc>((stats.count_max[j] - 1) + stats.rest[j]);
    sum_minus_one[j] = rounded.value;
    sum_lost[j] = rounded.lost;
    if constexpr (Row::kDense) dense_gap[j] = static_cast<Acc>(stats.gap[j]);
    if constexpr (!Row::kHasTarget) dense_total[j] = static_cast<Acc>(stats.total[j]);
  }
  for (int64_t j = 0; j < kTileLanes; j += kWidth<Acc>) {
    const auto at = [j](const Lanes<Acc>& lanes) { return Load(lanes.at + j); };
    const RowSoftmax<V> softmax =
        Finish(at(stats.max), Rounded<V>{at(sum_minus_one), at(sum_lost)});
    const V lse = LogSumExp(softmax);
    const V gap = Row::kDense ? at(dense_gap) : V{};
    V total = Row::kHasTarget ? Splat(known_total) : at(dense_total);
    Target<V> target = {at(stats.max), V{}, V{}};
    if constexpr (Row::kHasTarget) {
      const V weight = at(targets.weight);
      target = {at(targets.logit), formula.keep * weight,
                Row::kDense ? formula.uniform * weight : V{}};
    }
    const V live = at(targets.live);
    const V loss = TargetLoss(softmax, target, gap, total) + ZLoss(Splat(z_loss), lse);
    Store(results->loss.at + j, live == V{} ? V{} : loss);
    Store(results->lse.at + j, lse);
    if (!gradient) continue;
    const V k = at(targets.k);
    total += ZLossShare(Splat(z_loss), lse);
    if constexpr (Row::kHasTarget) {
      Store(results->at_target.at + j, TargetGradient(softmax, target, total, k));
    }
    const V all = target.coefficient + total;
    const V scale = k / softmax.sum;
    Store(results->total.at + j, all);
    Store(results->sum_minus_one.at + j, softmax.sum_minus_one);
    Store(results->scale.at + j, scale);
    Store(results->factor.at + j, all * scale);
  }
}

// The exponentials of n classes become gradients, exactly 0 where nothing counts.
template <class Row, class Acc, class Coefficient>
inline void FormGradients(const Coefficient& coefficient, const Classes<Acc>& x, int64_t n,
                          int64_t j, const LaneResults<Acc>& results,
                          const LaneTargets<Acc>& targets) {
  using V = Vector<Acc>;
  const V live = Load(targets.live.at + j);
  const V k = Load(targets.k.at + j);
  const V factor = Load(results.factor.at + j);
  const V total = Load(results.total.at + j);
  const V sum_minus_one = Load(results.sum_minus_one.at + j);
  const V scale = Load(results.scale.at + j);
  for (int64_t c = 0; c < n; ++c) {
    const V e = Load(x[c]);
    V value = e * factor;
    if constexpr (Row::kDense && Row::kHasTarget) {
      value = UntargetedGradient(e, factor, V{coefficient(c)}, k);
    } else if constexpr (Row::kDense) {
      value = DenseGradient(e, total, V{coefficient(c)}, sum_minus_one, scale);
    }
    Store(x[c], live == V{} ? V{} : value);
  }
}

template <class Acc>
inline void ExpLanes(const Acc* __restrict max, Acc* __restrict row) {
#pragma omp simd
  for (int64_t j = 0; j < kTileLanes; ++j) row[j] = ExpNonPositive(row[j] - max[j]);
}

template <class Acc>
inline void CapAll(Acc cap, Acc* __restrict x, int64_t count) {
#pragma omp simd
  for (int64_t i = 0; i < count; ++i) x[i] = SoftCap(x[i], cap);
}

}  // namespace onnxloss::ONNXLOSS_TARGET
