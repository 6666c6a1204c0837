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
  const int64_t begin = position * problem.call.classes;
  const RowVectors<T, int64_t> row(problem.logits() + begin, problem.call.classes);

  Hand<T, Row, int64_t, kCap, kVectors, MostEdges<T>(kStreamedThreads)> hand(problem, row, begin);
  const bool reads = label.counts || problem.call.lse != nullptr;
  int64_t at = reads ? thread : row.classes;  // beyond which there is nothing
  const auto load = [&] {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) hand.template Load<Again::kYes>(i, at + i * kThreads);
  };
  load();
  hand.LoadEdges(at, kThreads);
  const RowInputs<Acc> inputs = ReadInputsOfBlock(problem, position, label);
  Summary<Acc> summary;
  hand.AddEdges(at, kThreads, &summary);
  while (at < row.count) {
    hand.AddTo(at, kThreads, &summary);
    at += kVectors * kThreads;
    load();
  }
  const Result<Acc> result = FinishCluster<Row::kDense, kStreamedThreads>(
      summary,
      [&](const Summary<Acc>& joined) { return FinishRow(problem, label, inputs, joined); });
  if (thread == 0) problem.Store(position, result.loss, result.lse);
  if (problem.call.dlogits == nullptr) return;
  if (!label.counts || label.bad) {
    hand.StoreConstant(label.bad, thread, kThreads);
    return;
  }
  for (at = thread; at < row.count; at += kVectors * kThreads) {
#pragma unroll
    for (int i = 0; i < kVectors; ++i) hand.template Load<Again::kNo>(i, at + i * kThreads);
#pragma unroll
    for (int i = 0; i < kVectors; ++i) {
      if (at + i * kThreads < row.count) hand.StoreGradient(i, at + i * kThreads, result);
    }
  }
  hand.StoreEdges(label.index, thread, kThreads, result);
}

}  // namespace onnxloss::cuda
