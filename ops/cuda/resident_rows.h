// SPDX-License-Identifier: MIT
// Rows that stay in the registers of their threads: read once, written once.
#pragma once

#include "cuda/plan.h"
#include "cuda/vectors.h"

namespace onnxloss::cuda {

// Where a thread is among those that share its row.
struct Seat {
  int64_t position;
  int lane;
  int lanes;
};

template <int kLanes, int kThreads>
ONNXLOSS_DEVICE Seat FindSeat() {
  if constexpr (kLanes <= 32) {
    const int64_t thread = device::BlockIndex() * kThreads + device::ThreadIndex();
    return {thread / kLanes, static_cast<int>(thread % kLanes), kLanes};
  } else {
    const int blocks = device::ClusterBlocks();
    const int lane = device::ClusterRank() * kThreads + device::ThreadIndex();
    return {device::ClusterIndex(), lane, blocks * kThreads};
  }
}

// One block's loads are to overlap another's stores. Probabilities beside the logits, and the
// arithmetic of double, leave less room for that.
template <class T, class Row>
constexpr int BlocksAtOnce(int residence) {
  const int blocks = kResidences[residence].blocks_at_once;
  if (sizeof(T) == 8) return (blocks + 1) / 2;
  if (!Row::kHasTarget) return blocks * 5 / 8;
  return Row::kDense ? blocks - blocks / 4 : blocks;
}

// logits are [outer, C]. Vector v of a row belongs to its lane v % lanes. kLanes up to 32 share a
// warp with other rows; more are all of a block, and its cluster's other blocks go on.
template <class T, class Row, int kResidence>
ONNXLOSS_KERNEL(kResidences[kResidence].threads, BlocksAtOnce<T, Row>(kResidence))
ResidentRows(const Arguments arguments) {
  using Acc = Accumulator<T>;
  constexpr int kLanes = kResidences[kResidence].lanes;
  constexpr int kVectors = kResidences[kResidence].vectors;
  constexpr int kThreads = kResidences[kResidence].threads;

  device::StartNext();
  const Problem<T, Row> problem(arguments);
  Seat seat = FindSeat<kLanes, kThreads>();
  // Threads of a warp that have no row go along, since the others shuffle with them.
  const bool has_row = seat.position < problem.call.outer;
  const int64_t position = has_row ? seat.position : 0;
  const Label<Acc> label = problem.LabelOf(position);
  const int64_t begin = position * problem.call.classes;
  const RowVectors<T, int> row(problem.logits() + begin, problem.call.classes);
  const bool reads = has_row && (label.counts || problem.call.lse != nullptr);

  Hand<T, Row, int, Cap::kNone, kVectors, MostEdges<T>(kLanes)> hand(problem, row, begin);
  const int first = reads ? seat.lane : row.classes;  // beyond which there is nothing
#pragma unroll
  for (int i = 0; i < kVectors; ++i) hand.template Load<Again::kNo>(i, first + i * seat.lanes);
  hand.LoadEdges(first, seat.lanes);
  const RowInputs<Acc> inputs =
      kLanes > 32 ? ReadInputsOfBlock(problem, position, label)
                  : ReadInputs(problem, position, problem.logits() + begin, label);
  Summary<Acc> summary = hand.Summarise(first, seat.lanes);
  const auto finish = [&](const Summary<Acc>& joined) {
    return FinishRow(problem, label, inputs, joined);
  };
  Result<Acc> result;
  if constexpr (kLanes <= 32) {
    JoinLanes<Row::kDense, kLanes>(&summary);
    result = finish(summary);
  } else {
    result = FinishCluster<Row::kDense, kThreads>(summary, finish);
    device::ArriveAtCluster();
  }
  if (has_row) {
    if (seat.lane == 0) problem.Store(position, result.loss, result.lse);
    if (problem.call.dlogits != nullptr) {
      // Or what was made of them for each vector.
      device::Forget(&seat.lane);
      device::Forget(&hand.dlogits_of_row);
      if (label.counts && !label.bad) {
#pragma unroll
        for (int i = 0; i < kVectors; ++i) {
          const int vector = seat.lane + i * seat.lanes;
          if (vector >= row.count) break;
          hand.Forget(i);
          hand.StoreGradient(i, vector, result);
        }
        hand.StoreEdges(label.index, seat.lane, seat.lanes, result);
      } else {
        hand.StoreConstant(label.bad, seat.lane, seat.lanes);
      }
    }
  }
  if constexpr (kLanes > 32) device::AwaitCluster();
}

}  // namespace onnxloss::cuda
