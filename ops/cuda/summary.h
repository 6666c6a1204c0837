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

template <bool kDense, class Acc>
ONNXLOSS_DEVICE void Join(Summary<Acc> other, Summary<Acc>* summary) {
  Raise<kDense>(other.stats.max, summary);
  Raise<kDense>(summary->stats.max, &other);
  summary->stats.count_max += other.stats.count_max;
  summary->stats.rest += other.stats.rest;
  if (kDense) {
    summary->dense.gap += other.dense.gap;
    summary->dense.total += other.dense.total;
  }
}

template <int kCount, class Acc>
ONNXLOSS_DEVICE Acc MaxOf(const Acc (&x)[kCount], Acc max) {
#pragma unroll
  for (int i = 0; i < kCount; ++i) max = x[i] > max ? x[i] : max;
  return max;
}

// Sums of a few terms, before they join those of a summary.
template <class Acc>
struct Terms {
  Acc count_max = 0;
  Acc rest = 0;
  Acc gap = 0;
  Acc total = 0;
};

// Adds elements, none of them above `max`, with their dense coefficients. What fills up a chunk is
// -inf with coefficient 0.
template <class T, bool kDense, int kCount, class Acc>
ONNXLOSS_DEVICE void AddTerms(const Acc (&x)[kCount], const Acc (&a)[kDense ? kCount : 1], Acc max,
                              Terms<Acc>* terms) {
  const Acc shift = Shift(max);
#pragma unroll
  for (int i = 0; i < kCount; ++i) {
    const Acc e = Exp<T>(x[i] - shift);
    const bool is_max = x[i] == max;
    terms->count_max += is_max ? Acc{1} : Acc{0};
    terms->rest += is_max ? Acc{0} : e;
    if constexpr (kDense) {
      terms->gap += GapTerm(a[i], shift - x[i]);
      terms->total += a[i];
    }
  }
}

// The terms are relative to the summary's own maximum.
template <bool kDense, class Acc>
ONNXLOSS_DEVICE void Add(const Terms<Acc>& terms, Summary<Acc>* summary) {
  summary->stats.count_max += static_cast<double>(terms.count_max);
  summary->stats.rest += static_cast<double>(terms.rest);
  if (kDense) {
    summary->dense.gap += static_cast<double>(terms.gap);
    summary->dense.total += static_cast<double>(terms.total);
  }
}

template <class T, bool kDense, int kCount, class Acc>
ONNXLOSS_DEVICE void AddChunk(const Acc (&x)[kCount], const Acc (&a)[kDense ? kCount : 1],
                              Summary<Acc>* summary) {
  Raise<kDense>(MaxOf(x, summary->stats.max), summary);
  Terms<Acc> terms;
  AddTerms<T, kDense, kCount>(x, a, summary->stats.max, &terms);
  Add<kDense>(terms, summary);
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

// Over all threads of the cluster; every thread gets the same bits. The other blocks' shared memory
// is read: LeaveCluster before the block ends.
template <bool kDense, int kThreads, class Acc>
ONNXLOSS_DEVICE void JoinCluster(Summary<Acc>* summary) {
  constexpr int kWarps = kThreads / 32;
  auto& shared = device::Shared<SharedSummaries<Acc, kWarps>>();
  const int lane = device::ThreadIndex() % 32;
  JoinLanes<kDense, 32>(summary);
  if (lane == 0) shared.of_warp[device::ThreadIndex() / 32] = *summary;
  device::SyncCluster();  // the warps' summaries are written
  Summary<Acc> joined;
  const int count = kWarps * device::ClusterBlocks();
  for (int i = lane; i < count; i += 32) {
    Join<kDense>(device::InBlock(shared, i / kWarps).of_warp[i % kWarps], &joined);
  }
  JoinLanes<kDense, 32>(&joined);
  *summary = joined;
}

ONNXLOSS_DEVICE void LeaveCluster() {
  if (device::ClusterBlocks() > 1) device::SyncCluster();  // no block reads this one's memory
}

// A finished row: its loss, and what makes dlogits of its elements.
template <class Acc>
struct Result {
  Acc loss;
  Acc lse;
  Acc max;
  Acc sum_minus_one;
  Acc total;  // the coefficient of p
  Acc scale;  // k / sum
  Acc at_target;
};

template <class T, class Row, class Acc>
ONNXLOSS_DEVICE Result<Acc> FinishRow(const Problem<T, Row>& problem, int64_t position,
                                      const Label<Acc>& label, const Summary<Acc>& summary) {
  const RowSoftmax<Acc> softmax = Finish(summary.stats);
  const Acc lse = LogSumExp(softmax);
  Target<Acc> target = {softmax.max, 0, 0};
  Acc dense_total = static_cast<Acc>(summary.dense.total);
  if constexpr (Row::kHasTarget) {
    dense_total = problem.DenseTotal();
    if (label.index != kNoLabel) {
      const int64_t place = problem.First(position) + label.index * problem.call.inner;
      const Acc logit = problem.Capped(Wide(problem.logits()[place]));
      target = problem.row.TargetOf(logit, problem.Weight(label.index));
    }
  }
  const Acc z_loss = static_cast<Acc>(problem.call.z_loss);
  Result<Acc> result = {};
  const Acc gap = static_cast<Acc>(summary.dense.gap);
  result.loss = TargetLoss<Row::kDense>(softmax, target, gap, dense_total) + ZLoss(z_loss, lse);
  if (!label.counts) result.loss = 0;
  if (label.bad) result.loss = NotANumber<Acc>();
  result.lse = lse;
  if (problem.call.dlogits == nullptr) return result;
  const Acc k = problem.Upstream(position);
  const Acc p_share = dense_total + ZLossShare(z_loss, lse);
  result.max = softmax.max;
  result.sum_minus_one = softmax.sum_minus_one;
  result.total = target.coefficient + p_share;
  result.scale = k / softmax.sum;
  if (Row::kHasTarget) result.at_target = TargetGradient(softmax, target, p_share, k);
  return result;
}

// dlogits of an element but that at the target. `x` is capped where there is a cap.
template <class T, class Row, class Acc>
ONNXLOSS_DEVICE Acc GradientOf(const Result<Acc>& result, Acc x, Acc coefficient) {
  const Acc e = Exp<T>(x - result.max);
  if constexpr (!Row::kDense) return e * (result.total * result.scale);
  return DenseGradient(e, result.total, coefficient, result.sum_minus_one, result.scale);
}

}  // namespace onnxloss::cuda
