// SPDX-License-Identifier: MIT
// A block goes along the row: once for the loss, once more for the gradient.
#pragma once

#include "cuda/plan.h"
#include "cuda/vectors.h"

namespace onnxloss::cuda {

// A cap, dense coefficients and the arithmetic of double take registers.
template <class T, class Row, Cap kCap>
constexpr int StreamedBlocksAtOnce() {
  if (kCap == Cap::kSome) return 2;
  if (sizeof(T) == 8) return Row::kDense ? 1 : 2;
  return Row::kDense ? 3 : 4;
}

// logits are [outer, C], of any length; one block per row. Four vectors of each thread are on the
// way at a time.
template <class T, class Row, Cap kCap>
ONNXLOSS_KERNEL(kStreamedThreads, StreamedBlocksAtOnce<T, Row, kCap>())
StreamedRows(const Arguments arguments) {
  using Acc = Accumulator<T>;
  constexpr int kVectors = kStreamedVectors;
  constexpr int64_t kThreads = kStreamedThreads;

  device::StartNext();
  const Problem<T, Row> problem(arguments);
  const int64_t position = device::BlockIndex();
  const int64_t thread = device::ThreadIndex();
  const Label<Acc> label = problem.LabelOf(position);
  const RowVectors<T, int64_t> row(problem.logits() + position * problem.call.classes,
                                   problem.call.classes);

  Hand<T, Row, int64_t, kCap, kVectors> hand(problem, row);
  Summary<Acc> summary;
  if (label.counts || problem.call.lse != nullptr) {
    for (int64_t at = thread; at < row.count(); at += kVectors * kThreads) {
#pragma unroll
      for (int i = 0; i < kVectors; ++i) hand.template Load<Again::kYes>(i, at + i * kThreads);
      hand.AddTo(at, kThreads, &summary);
    }
  }
  const Result<Acc> result = FinishCluster<Row::kDense, kStreamedThreads>(
      summary,
      [&](const Summary<Acc>& joined) { return FinishRow(problem, position, label, joined); });
  if (thread == 0) problem.Store(position, result.loss, result.lse);
  if (problem.call.dlogits == nullptr) return;
  const Place<T, int64_t> to = hand.Gradients();
  if (!label.counts || label.bad) {
    for (int64_t at = thread; at < row.count(); at += kThreads) {
      hand.StoreConstant(at, label.bad, to);
    }
    return;
  }
  for (int64_t at = thread; at < row.count(); at += kVectors * kThreads) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) hand.template Load<Again::kNo>(i, at + i * kThreads);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (at + i * kThreads < row.count()) {
        hand.StoreGradient(i, at + i * kThreads, result, to);
      }
    }
  }
  hand.StoreTarget(label.index, thread, kThreads, result, to);
}

}  // namespace onnxloss::cuda
