// SPDX-License-Identifier: MIT
// What threads know of a row, and how those of a warp, a block and a cluster join it.
#pragma once

#include "cuda/problem.h"

namespace onnxloss::cuda {

template <class Acc>
struct Summary {
  RowStats<Acc> stats;
  DenseSums<Acc> dense;
};

// `summary` relative to the greater maximum `max`.
template <bool kDense, class Acc>
ONNXLOSS_DEVICE void Raise(Acc max, Summary<Acc>* summary) {
  if (kDense) summary->dense = Rescaled(summary->dense, summary->stats.max, max);
  summary->stats = Rescaled(summary->stats, max);
}

// Of one maximum.
template <bool kDense, class Acc>
ONNXLOSS_DEVICE void AddSums(const Summary<Acc>& other, Summary<Acc>* summary) {
  summary->stats.count_max += other.stats.count_max;
  summary->stats.rest += other.stats.rest;
  if (kDense) {
    summary->dense.gap += other.dense.gap;
    summary->dense.total += other.dense.total;
  }
}

template <bool kDense, class Acc>
ONNXLOSS_DEVICE void Join(Summary<Acc> other, Summary<Acc>* summary) {
  Raise<kDense>(other.stats.max, summary);
  Raise<kDense>(summary->stats.max, &other);
  AddSums<kDense>(other, summary);
}

// The lesser of the two, to be summed; the other is the best from here on. In the end all have been
// summed but one maximum, and none had to be compared with it to be left out.
template <class Unit>
ONNXLOSS_DEVICE Unit Outdo(Unit x, Unit* best) {
  const Unit lesser = device::Lesser(*best, x);
  *best = device::Greater(*best, x);
  return lesser;
}

// Sums of a few terms relative to a maximum, before they join those of a summary.
template <class Acc>
struct Terms {
  Acc shift = 0;
  Acc rest = 0;
  Acc gap = 0;
  Acc total = 0;

  Terms() = default;
  ONNXLOSS_DEVICE explicit Terms(Acc max) : shift(Shift(max)) {}

  template <class T>
  ONNXLOSS_DEVICE void Add(Acc lesser) {
    rest += Exp<T>(lesser - shift);
  }
  ONNXLOSS_DEVICE void AddDense(Acc x, Acc coefficient) {
    gap += GapTerm(coefficient, shift - x);
    total += coefficient;
  }

  // The terms are of all elements but the summary's maximum, also of its former one. There are none
  // from here on.
  template <bool kDense>
  ONNXLOSS_DEVICE void Join(Summary<Acc>* summary) {
    summary->stats.count_max = 1;
    summary->stats.rest += static_cast<double>(rest);
    if (kDense) {
      summary->dense.gap += static_cast<double>(gap);
      summary->dense.total += static_cast<double>(total);
    }
    rest = gap = total = 0;
  }
};

// Adds elements with their dense coefficients. What fills up a chunk is -inf with coefficient 0.
template <class T, bool kDense, int kCount, class Acc>
ONNXLOSS_DEVICE void AddChunk(const Acc (&x)[kCount], const Acc (&a)[kDense ? kCount : 1],
                              Summary<Acc>* summary) {
  Acc best = summary->stats.max;
  Acc max = best;
#pragma unroll
  for (int i = 0; i < kCount; ++i) max = device::Greater(max, x[i]);
  summary->stats.count_max = 0;
  Raise<kDense>(max, summary);
  Terms<Acc> terms(max);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    terms.template Add<T>(Outdo(x[i], &best));
    if constexpr (kDense) terms.AddDense(x[i], a[i]);
  }
  terms.template Join<kDense>(summary);
}

// Over groups of kLanes neighbouring lanes, which all get the same bits; whole warps take part.
template <int kLanes, class Value>
ONNXLOSS_DEVICE Value SumOfLanes(Value value) {
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) value += device::ShuffleXor(value, mask);
  return value;
}

template <bool kDense, int kLanes, class Acc>
ONNXLOSS_DEVICE void JoinLanes(Summary<Acc>* summary) {
  Acc max = summary->stats.max;
#pragma unroll
  for (int mask = kLanes / 2; mask > 0; mask /= 2) {
    const Acc other = device::ShuffleXor(max, mask);
    max = other > max ? other : max;
  }
  Raise<kDense>(max, summary);
  summary->stats.count_max = SumOfLanes<kLanes>(summary->stats.count_max);
  summary->stats.rest = SumOfLanes<kLanes>(summary->stats.rest);
  if (kDense) {
    summary->dense.gap = SumOfLanes<kLanes>(summary->dense.gap);
    summary->dense.total = SumOfLanes<kLanes>(summary->dense.total);
  }
}

// One summary per warp; plain members, since shared memory has no constructors.
template <class Acc, int kWarps>
struct SharedSummaries {
  Summary<Acc> of_warp[kWarps];
};

// Joins the summaries of all threads of the cluster; every thread gets the same bits of what
// `finish` makes of them. One warp of each block does it, since the others would only take its time
// to repeat it. It has read the other blocks' shared memory, so that no block may end before all
// are here.
template <bool kDense, int kThreads, class Acc, class Finish>
ONNXLOSS_DEVICE auto FinishCluster(Summary<Acc> summary, Finish finish) {
  using Finished = decltype(finish(summary));
  constexpr int kWarps = kThreads / 32;
  auto& shared = device::Shared<SharedSummaries<Acc, kWarps>>();
  auto& finished = device::Shared<Finished>();
  const int warp = device::WarpIndex();
  const int lane = device::ThreadIndex() % 32;
  JoinLanes<kDense, 32>(&summary);
  if (lane == 0) shared.of_warp[warp] = summary;
  device::SyncCluster();  // the warps' summaries are written
  if (warp == 0) {
    Summary<Acc> joined;
    const int count = kWarps * device::ClusterBlocks();
    for (int i = lane; i < count; i += 32) {
      Join<kDense>(device::InBlock(shared, i / kWarps).of_warp[i % kWarps], &joined);
    }
    JoinLanes<kDense, 32>(&joined);
    const Finished own = finish(joined);
    if (lane == 0) finished = own;
  }
  device::SyncBlock();  // the first warp has finished
  return finished;
}

// A finished row: its loss, and what makes dlogits of its elements.
template <class Acc>
struct Result {
  Acc loss;
  Acc lse;
  Acc max;
  Acc sum_minus_one;
  Acc total;  // the coefficient of p
  Acc k;
  Acc scale;  // k / sum, times the coefficient of p where labels are indices
  Acc at_target;
};

// What finishes a row beside its summary.
template <class Acc>
struct RowInputs {
  Acc logit;  // at the label, and its class weight
  Acc weight;
  Acc dense_total;
  Acc k;
};

// To be read while the row itself is on its way.
template <class T, class Row>
ONNXLOSS_DEVICE auto ReadInputs(const Problem<T, Row>& problem, int64_t position, const T* row,
                                const Label<Accumulator<T>>& label) {
  RowInputs<Accumulator<T>> inputs = {};
  if (Row::kHasTarget && label.index != kNoLabel) {
    inputs.logit = problem.Capped(Wide(row[label.index * problem.call.inner]));
    inputs.weight = problem.Weight(label.index);
  }
  device::AwaitPrevious();  // the weights and the denominator are written
  inputs.dense_total = problem.DenseTotal();
  if (problem.call.dlogits != nullptr) inputs.k = problem.Upstream(position);
  return inputs;
}

// The same for a row that has the whole block, and only in the warp that finishes it.
template <class T, class Row>
ONNXLOSS_DEVICE auto ReadInputsOfBlock(const Problem<T, Row>& problem, int64_t position,
                                       const Label<Accumulator<T>>& label) {
  RowInputs<Accumulator<T>> inputs = {};
  if (device::WarpIndex() != 0) return inputs;
  return ReadInputs(problem, position, problem.logits() + position * problem.call.classes, label);
}

template <class T, class Row, class Acc>
ONNXLOSS_DEVICE Result<Acc> FinishRow(const Problem<T, Row>& problem, const Label<Acc>& label,
                                      const RowInputs<Acc>& inputs, const Summary<Acc>& summary) {
  const RowSoftmax<Acc> softmax = Finish(summary.stats);
  const Acc lse = LogSumExp(softmax);
  Target<Acc> target = {softmax.max, 0, 0};
  Acc dense_total = static_cast<Acc>(summary.dense.total);
  if constexpr (Row::kHasTarget) {
    dense_total = inputs.dense_total;
    if (label.index != kNoLabel) target = problem.row.TargetOf(inputs.logit, inputs.weight);
  }
  const Acc z_loss = static_cast<Acc>(problem.call.z_loss);
  Result<Acc> result = {};
  const Acc gap = static_cast<Acc>(summary.dense.gap);
  result.loss = TargetLoss<Row::kDense>(softmax, target, gap, dense_total) + ZLoss(z_loss, lse);
  if (!label.counts) result.loss = 0;
  if (label.bad) result.loss = NotANumber<Acc>();
  result.lse = lse;
  if (problem.call.dlogits == nullptr) return result;
  const Acc k = inputs.k;
  result.k = k;
  const Acc p_share = dense_total + ZLossShare(z_loss, lse);
  result.max = softmax.max;
  result.sum_minus_one = softmax.sum_minus_one;
  result.total = target.coefficient + p_share;
  result.scale = k / softmax.sum;
  if (Row::kHasTarget) result.scale *= result.total;
  if (label.bad) result.scale = NotANumber<Acc>();  // where rows share what stores them
  if (Row::kHasTarget) result.at_target = TargetGradient(softmax, target, p_share, k);
  return result;
}

// What GradientOf wants to know of an element's dense coefficient a: k a, which is the same for
// many, or a itself.
template <class Row, class Acc>
ONNXLOSS_DEVICE Acc ShareOf(const Result<Acc>& result, Acc coefficient) {
  return Row::kHasTarget ? GapTerm(result.k, coefficient) : coefficient;
}

// dlogits of an element but that at the target. `x` is capped where there is a cap.
template <class T, class Row, class Acc>
ONNXLOSS_DEVICE Acc GradientOf(const Result<Acc>& result, Acc x, Acc share) {
  const Acc e = Exp<T>(x - result.max);
  if constexpr (!Row::kDense) return e * result.scale;
  if constexpr (Row::kHasTarget) return e * result.scale - share;
  return DenseGradient(e, result.total, share, result.sum_minus_one, result.scale);
}

}  // namespace onnxloss::cuda
