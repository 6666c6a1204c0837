// SPDX-License-Identifier: MIT
// From the sums of many positions to their losses, and to what makes gradients of exponentials.
#pragma once

#include "cpu/lanes.h"
#include "cpu/problem.h"

namespace onnxloss::ONNXLOSS_TARGET {

// The labels of the lanes, and what the gradient is scaled with.
template <class Acc>
struct LaneTargets {
  Lanes<int64_t> label;  // -1 where there is none
  Lanes<Acc> logit;
  Lanes<Acc> live;    // 0 where the label is ignored, else 1
  Lanes<Acc> weight;  // of the label's class, where classes have weights
  Lanes<Acc> k;
};

template <class Acc>
struct LaneSoftmax {
  Lanes<Acc> max;
  Lanes<Acc> sum_minus_one;
  Lanes<Acc> log_sum;
  Lanes<Acc> log_sum_lost;

  void Set(int64_t j, const RowSoftmax<Vector<Acc>>& softmax) {
    Store(max.at + j, softmax.max);
    Store(sum_minus_one.at + j, softmax.sum_minus_one);
    Store(log_sum.at + j, softmax.log_sum);
    Store(log_sum_lost.at + j, softmax.log_sum_lost);
  }
  RowSoftmax<Vector<Acc>> From(int64_t j) const {
    const Vector<Acc> others = Load(sum_minus_one.at + j);
    return {Load(max.at + j), others, 1 + others, Load(log_sum.at + j), Load(log_sum_lost.at + j)};
  }
};

// The finished rows. The gradient of a class takes `factor` with an index label, else `total` and
// `scale`.
template <class Acc>
struct LaneResults {
  LaneSoftmax<Acc> softmax;
  Lanes<Acc> loss;
  Lanes<Acc> lse;
  Lanes<Acc> at_target;
  Lanes<Acc> factor;  // k A / sum
  Lanes<Acc> total;   // A and the z-loss's share: the coefficient of p
  Lanes<Acc> scale;   // k / sum
};

// Positions side by side, from their sums on. Each loop is short enough for the machine to begin
// the next vector while one waits for its divisions.
template <class T, class Row>
struct LanePositions {
  using Acc = Accumulator<T>;
  using V = Vector<Acc>;
  static constexpr int64_t kStep = kWidth<Acc>;

  const TypedProblem<T, Row>& problem;
  LaneStats<Acc> stats = {};
  LaneTargets<Acc> targets;
  LaneResults<Acc> results = {};

  explicit LanePositions(const TypedProblem<T, Row>& typed) : problem(typed) {
    Fill(&targets.label, int64_t{-1});
    Fill(&targets.logit, Acc{0});
    Fill(&targets.live, Acc{1});
    Fill(&targets.weight, Acc{0});
    Fill(&targets.k, problem.dlogits == nullptr ? Acc{0} : problem.upstream(0));
  }

  V TotalOf(int64_t j) const {
    return Row::kHasTarget ? Splat(problem.dense_total()) : stats.total.RoundedFrom(j);
  }
  Target<V> TargetOf(int64_t j) const {
    Target<V> target = {Load(stats.max.at + j), V{}, V{}};
    if constexpr (Row::kHasTarget) {
      const bool weighted = problem.class_weights != nullptr;
      const V weight = Load((weighted ? targets.weight : targets.live).at + j);
      target = problem.row.TargetOf(Load(targets.logit.at + j), weight);
    }
    return target;
  }

  // A copy for each call would be as large as all else there; one call does for many positions.
  __attribute__((noinline)) void FinishLosses() {
    const V z_loss = Splat(problem.z_loss);
    for (int64_t j = 0; j < kTileLanes; j += kStep) {
      results.softmax.Set(j, Finish(Load(stats.max.at + j), stats.sum_minus_one.From(j)));
    }
    for (int64_t j = 0; j < kTileLanes; j += kStep) {
      const RowSoftmax<V> softmax = results.softmax.From(j);
      const V lse = LogSumExp(softmax);
      const V gap = Row::kDense ? stats.gap.RoundedFrom(j) : V{};
      const V live = Load(targets.live.at + j);
      const V loss = TargetLoss(softmax, TargetOf(j), gap, TotalOf(j)) + ZLoss(z_loss, lse);
      Store(results.loss.at + j, live == V{} ? V{} : loss);
      if (problem.lse != nullptr) Store(results.lse.at + j, lse);
    }
  }

  // After FinishLosses.
  void FinishGradients() {
    const V z_loss = Splat(problem.z_loss);
    for (int64_t j = 0; j < kTileLanes; j += kStep) {
      const RowSoftmax<V> softmax = results.softmax.From(j);
      const V total = TotalOf(j) + ZLossShare(z_loss, LogSumExp(softmax));
      const V k = Load(targets.k.at + j);
      const V scale = k / softmax.sum;
      if constexpr (Row::kHasTarget) {
        const Target<V> target = TargetOf(j);
        Store(results.at_target.at + j, TargetGradient(softmax, target, total, k));
        Store(results.factor.at + j, (target.coefficient + total) * scale);
      } else {
        Store(results.total.at + j, total);
        Store(results.scale.at + j, scale);
      }
    }
  }

  // What makes gradients of the exponentials e of class c, for the lanes from j on: exactly 0 where
  // nothing counts.
  template <class Coefficient>
  auto GradientOf(const Coefficient& coefficient, int64_t j) const {
    const auto at = [j](const Lanes<Acc>& lanes) { return Load(lanes.at + j); };
    if constexpr (Row::kHasTarget) {
      return [coefficient, live = at(targets.live), k = at(targets.k), factor = at(results.factor)](
                 V e, int64_t c) {
        V value = e * factor;
        if constexpr (Row::kDense) value = UntargetedGradient(e, factor, V{coefficient(c)}, k);
        return live == V{} ? V{} : value;
      };
    } else {
      return [coefficient, total = at(results.total), scale = at(results.scale),
              sum_minus_one = at(results.softmax.sum_minus_one)](V e, int64_t c) {
        return DenseGradient(e, total, V{coefficient(c)}, sum_minus_one, scale);
      };
    }
  }

  // Writes what is wanted of the results of the first `lanes` positions, of which lane 0 is
  // `first`. They share a partial sum, or have one each.
  void StoreResults(int64_t first, int64_t lanes) {
    if (problem.stores()) {
      for (int64_t j = 0; j < lanes; ++j) {
        results.loss[j] = problem.Store(first + j, results.loss[j], results.lse[j]);
      }
    }
    if (problem.raw.positions_per_partial == 1) {
      for (int64_t j = 0; j < lanes; ++j) {
        problem.AddToPartial(first + j, static_cast<double>(results.loss[j]));
      }
      return;
    }
    for (int64_t j = lanes; j < kTileLanes; ++j) results.loss[j] = 0;
    double sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < kTileLanes; ++j) sum += static_cast<double>(results.loss[j]);
    problem.AddToPartial(first, sum);
  }
};

}  // namespace onnxloss::ONNXLOSS_TARGET
