// SPDX-License-Identifier: MIT
// From the sums of many positions to their losses, and to what makes gradients of exponentials.
#pragma once

#include "cpu/lanes.h"
#include "cpu/problem.h"
#include "cpu/writer.h"

namespace onnxloss::ONNXLOSS_TARGET {

// One call does for many positions, and a copy for each would be as large as all else there.
#define ONNXLOSS_FOR_MANY __attribute__((noinline))

// The labels of the lanes, and what the gradient is scaled with.
template <class Acc>
struct LaneTargets {
  Lanes<Label<Acc>> label;
  Lanes<Acc> logit;
  Lanes<Acc> weight;  // of the label's class
  Lanes<Acc> k;
};

template <class Acc>
struct LaneSoftmax {
  Lanes<Acc> max;
  Lanes<Acc> sum_minus_one;
  Lanes<Acc> log_sum_high;
  Lanes<Acc> log_sum_rest;

  void Set(int64_t j, const RowSoftmax<Vector<Acc>>& softmax) {
    Store(max.at + j, softmax.max);
    Store(sum_minus_one.at + j, softmax.sum_minus_one);
    Store(log_sum_high.at + j, softmax.log_sum.high);
    Store(log_sum_rest.at + j, softmax.log_sum.rest);
  }
  RowSoftmax<Vector<Acc>> From(int64_t j) const {
    const Vector<Acc> others = Load(sum_minus_one.at + j);
    const Logarithm<Vector<Acc>> log_sum = {Load(log_sum_high.at + j), Load(log_sum_rest.at + j)};
    return {Load(max.at + j), others, 1 + others, log_sum};
  }
};

// The finished rows. The gradient of a class takes `factor` and `k` with an index label, 0 where it
// is ignored, else `total` and `scale`; `factor` and `total` are for scaled exponentials.
template <class Acc>
struct LaneResults {
  LaneSoftmax<Acc> softmax;
  Lanes<Acc> loss;
  Lanes<Acc> lse;
  Lanes<Acc> at_target;
  Lanes<Acc> factor;  // k A / sum
  Lanes<Acc> k;
  Lanes<Acc> total;  // A and the z-loss's share: the coefficient of p
  Lanes<Acc> scale;  // k / sum
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
  LaneTargets<Acc> targets = {};
  bool all_live = true;
  LaneResults<Acc> results = {};

  explicit LanePositions(const TypedProblem<T, Row>& typed) : problem(typed) {
    Fill(&targets.label, Label<Acc>{0});
    Fill(&targets.logit, Acc{0});
    Fill(&targets.weight, Acc{1});
    Fill(&targets.k, problem.dlogits == nullptr ? Acc{0} : problem.upstream(0));
  }

  // Of the first `lanes` positions, of which lane 0 is `first`; the others have class 0.
  ONNXLOSS_FOR_MANY void LoadTargets(int64_t first, int64_t lanes) {
    if (problem.dlogits != nullptr && problem.upstream_per_position()) {
      for (int64_t j = 0; j < lanes; ++j) targets.k[j] = problem.upstream(first + j);
    }
    if constexpr (Row::kHasTarget) {
      if (problem.raw.label_kind == LabelKind::kIndex64) {
        LoadLabels<int64_t>(first, lanes);
      } else {
        LoadLabels<int32_t>(first, lanes);
      }
    }
  }
  template <class Index>
  void LoadLabels(int64_t first, int64_t lanes) {
    const Index* labels = static_cast<const Index*>(problem.raw.labels) + first;
    // Loops of one length, known beforehand, cost less than the labels that the last tile lacks.
    Index padded[kTileLanes];
    if (lanes < kTileLanes) {
      for (int64_t j = 0; j < kTileLanes; ++j) padded[j] = j < lanes ? labels[j] : 0;
      labels = padded;
    }
    const int64_t ignore_index = problem.raw.ignore_index;
    int64_t ignored_labels = 0;
#pragma omp simd reduction(+ : ignored_labels)
    for (int64_t j = 0; j < kTileLanes; ++j) {
      const bool ignored = labels[j] == ignore_index;
      targets.label[j] = ignored ? kNoLabel<Acc> : static_cast<Label<Acc>>(labels[j]);
      ignored_labels += ignored ? 1 : 0;
    }
    all_live = ignored_labels == 0;
    if (problem.class_weights == nullptr) return;
    for (int64_t j = 0; j < lanes; ++j) {
      if (targets.label[j] != kNoLabel<Acc>) targets.weight[j] = problem.weight(labels[j]);
    }
  }

  VectorBits<Acc> LabelsOf(int64_t j) const {
    return LoadAs<VectorBits<Acc>>(targets.label.at + j);
  }
  auto IsIgnored(int64_t j) const { return LabelsOf(j) == kNoLabel<Acc>; }
  V TotalOf(int64_t j) const {
    return Row::kHasTarget ? Splat(problem.dense_total()) : stats.total.RoundedFrom(j);
  }
  Target<V> TargetOf(int64_t j) const {
    Target<V> target = {Load(stats.max.at + j), V{}, V{}};
    if constexpr (Row::kHasTarget) {
      target = problem.row.TargetOf(Load(targets.logit.at + j), Load(targets.weight.at + j));
    }
    return target;
  }

  ONNXLOSS_FOR_MANY void FinishLosses() {
    const V z_loss = Splat(problem.z_loss);
    for (int64_t j = 0; j < kTileLanes; j += kStep) {
      results.softmax.Set(j,
                          Finish(Load(stats.max.at + j), Load(stats.sum_minus_one.value.at + j)));
    }
    for (int64_t j = 0; j < kTileLanes; j += kStep) {
      const RowSoftmax<V> softmax = results.softmax.From(j);
      const V lse = LogSumExp(softmax);
      const V gap = Row::kDense ? stats.gap.RoundedFrom(j) : V{};
      V loss = TargetLoss<Row::kDense>(softmax, TargetOf(j), gap, TotalOf(j));
      if (problem.z_loss != 0) loss += ZLoss(z_loss, lse);
      Store(results.loss.at + j, IsIgnored(j) ? V{} : loss);
      if (problem.lse != nullptr) Store(results.lse.at + j, lse);
    }
  }

  // After FinishLosses.
  ONNXLOSS_FOR_MANY void FinishGradients() {
    const V z_loss = Splat(problem.z_loss);
    for (int64_t j = 0; j < kTileLanes; j += kStep) {
      const RowSoftmax<V> softmax = results.softmax.From(j);
      V total = TotalOf(j);
      if (problem.z_loss != 0) total += ZLossShare(z_loss, LogSumExp(softmax));
      const V k = Load(targets.k.at + j);
      const V scale = k / softmax.sum;
      if constexpr (Row::kHasTarget) {
        const Target<V> target = TargetOf(j);
        const auto ignored = IsIgnored(j);
        const V at_target = TargetGradient(softmax, target, total, k);
        const V factor = (target.coefficient + total) * scale * kPerExpScale<Acc>;
        Store(results.at_target.at + j, ignored ? V{} : at_target);
        Store(results.factor.at + j, ignored ? V{} : factor);
        if constexpr (Row::kDense) Store(results.k.at + j, ignored ? V{} : k);
      } else {
        Store(results.total.at + j, total * kPerExpScale<Acc>);
        Store(results.scale.at + j, scale);
      }
    }
  }

  // What makes gradients of scaled exponentials, with the dense coefficients of their classes:
  // of_lanes(v) are the elements of v for their positions, where v is of the lanes from j on.
  // Exactly 0 where a label is ignored, if the exponentials of its row are finite.
  auto GradientOf(int64_t j) const {
    const auto at = [j](const Lanes<Acc>& lanes) { return Load(lanes.at + j); };
    if constexpr (Row::kHasTarget) {
      return [factor = at(results.factor), k = at(results.k)](V e, V coefficient,
                                                              const auto& of_lanes) {
        if constexpr (!Row::kDense) return e * of_lanes(factor);
        return UntargetedGradient(e, of_lanes(factor), coefficient, of_lanes(k));
      };
    } else {
      return [total = at(results.total), scale = at(results.scale),
              sum_minus_one = at(results.softmax.sum_minus_one)](V e, V coefficient,
                                                                 const auto& of_lanes) {
        return DenseGradient(e, of_lanes(total), coefficient, of_lanes(sum_minus_one),
                             of_lanes(scale));
      };
    }
  }

  // Writes what is wanted of the results of the first `lanes` positions, of which lane 0 is
  // `first`.
  ONNXLOSS_FOR_MANY void StoreResults(int64_t first, int64_t lanes) {
    if (problem.stores()) {
      for (int64_t j = 0; j < lanes; ++j) {
        results.loss[j] = problem.Store(first + j, results.loss[j], results.lse[j]);
      }
    }
    for (int64_t j = lanes; j < kTileLanes; ++j) results.loss[j] = 0;
    const int64_t per_partial = problem.raw.positions_per_partial;
    const int64_t step = per_partial < kTileLanes ? per_partial : kTileLanes;
    for (int64_t j0 = 0; j0 < lanes; j0 += step) {
      double sum = 0;
#pragma omp simd reduction(+ : sum)
      for (int64_t j = j0; j < j0 + step; ++j) sum += static_cast<double>(results.loss[j]);
      problem.AddToPartial(first + j0, sum);
    }
  }
};

// Writes gradients by capped logits, values(i, count) for the vector of `logits` from i on, as
// those by the logits, which stay exactly 0 where nothing counts.
template <class T, class Values>
void WriteGradients(const Values& values, Accumulator<T> cap, const T* logits, int64_t n,
                    Writer<T>* writer) {
  using V = Vector<Accumulator<T>>;
  if (cap == 0) return writer->Write(n, values);
  writer->Write(n, [=, caps = Splat(cap)](int64_t i, int64_t count) {
    const V gradient = values(i, count);
    const V by_logit = gradient * SoftCapSlope(LoadFirst(logits + i, count, T{}), caps);
    return gradient == V{} ? V{} : by_logit;
  });
}

template <class T>
ONNXLOSS_FOR_MANY void WriteFrom(const Accumulator<T>* gradients, Accumulator<T> cap,
                                 const T* logits, int64_t n, Writer<T>* writer) {
  const auto values = [=](int64_t i, int64_t count) {
    return LoadFirst(gradients + i, count, Accumulator<T>{0});
  };
  WriteGradients(values, cap, logits, n, writer);
}

}  // namespace onnxloss::ONNXLOSS_TARGET
