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
    return {device::BlockIndex() / blocks, lane, blocks * kThreads};
  }
}

// One block's loads are to overlap another's stores; dense coefficients leave less room for that.
template <class Row>
constexpr int BlocksAtOnce(int residence) {
  const int blocks = kResidences[residence].blocks_at_once;
  return Row::kDense ? (blocks + 2) / 3 : blocks;
}

// logits are [outer, C]. Vector v of a row belongs to its lane v % lanes. kLanes up to 32 share a
// warp with other rows; more are all of a block, and its cluster's other blocks go on.
template <class T, class Row, int kResidence>
ONNXLOSS_KERNEL(kResidences[kResidence].threads, BlocksAtOnce<Row>(kResidence))
ResidentRows(const Arguments arguments) {
  using Acc = Accumulator<T>;
  constexpr int kLanes = kResidences[kResidence].lanes;
  constexpr int kVectors = kResidences[kResidence].vectors;
  constexpr int kThreads = kResidences[kResidence].threads;

  const Problem<T, Row> problem(arguments);
  Seat seat = FindSeat<kLanes, kThreads>();
  // Threads of a warp that have no row go along, since the others shuffle with them.
  const bool has_row = seat.position < problem.call.outer;
  const int64_t position = has_row ? seat.position : 0;
  const Label<Acc> label = problem.LabelOf(position);
  const RowVectors<T, int> row(problem.logits() + position * problem.call.classes,
                               problem.call.classes);
  const bool reads = has_row && (label.counts || problem.call.lse != nullptr);

  Hand<T, Row, int, Cap::kNone, kVectors> hand(problem, row);
  const int beyond = row.count();
#pragma unroll
  for (int i = 0; i < kVectors; ++i) {
    hand.template Load<Again::kNo>(i, reads ? seat.lane + i * seat.lanes : beyond);
  }
  device::Forget(&seat.lane);
  Summary<Acc> summary = hand.Summarise(reads ? seat.lane : beyond, seat.lanes);
  if constexpr (kLanes <= 32) {
    JoinLanes<Row::kDense, kLanes>(&summary);
  } else {
    JoinCluster<Row::kDense, kThreads>(&summary);
  }
  if (has_row) {
    const Result<Acc> result = FinishRow(problem, position, label, summary);
    if (seat.lane == 0) problem.Store(position, result.loss, result.lse);
    if (problem.call.dlogits != nullptr) {
      device::Forget(&seat.lane);  // or what was made of it for each vector
#pragma unroll
      for (int i = 0; i < kVectors; ++i) {
        const int vector = seat.lane + i * seat.lanes;
        if (vector >= row.count()) continue;
        if (label.counts && !label.bad) {
          hand.Forget(i);
          hand.StoreGradient(i, vector, result, label.index);
        } else {
          StoreConstant(problem, row, vector, label.bad);
        }
      }
    }
  }
  if constexpr (kLanes > 32) LeaveCluster();
}

}  // namespace onnxloss::cuda
