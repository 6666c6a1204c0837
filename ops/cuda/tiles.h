// SPDX-License-Identifier: MIT
// Tiles: threads along the positions, and `class_lanes` of them along each position's classes.
#pragma once

#include "cuda/plan.h"
#include "cuda/summary.h"

namespace onnxloss::cuda {

// Where a thread is in the block's tile. The threads of a warp have neighbouring positions, but
// neighbouring classes where those are neighbours in memory.
struct TileSeat {
  int64_t position;  // or the first of its positions
  int column;        // their place in the tile
  int columns;
  int lane;  // along the classes
  int lanes;
};

// `kAcross` neighbouring positions have one thread.
template <int kThreads, int kAcross = 1>
ONNXLOSS_DEVICE TileSeat FindTileSeat(const Arguments& arguments, int64_t tile) {
  const int lanes = arguments.class_lanes;
  const int columns = kThreads / lanes;
  const int thread = device::ThreadIndex();
  const bool classes_first = arguments.call.inner == 1;
  const int lane = classes_first ? thread % lanes : thread / columns;
  const int column = classes_first ? thread / lanes : thread % columns;
  return {(tile * columns + column) * kAcross, column, columns, lane, lanes};
}

template <class Value, int kThreads>
struct TileShared {
  Value of_thread[kThreads];
};

// Shows each thread's value to those that share its position: visit(value) in the order of lanes.
template <int kThreads, class Value, class Visitor>
ONNXLOSS_DEVICE void VisitLanes(const TileSeat& seat, const Value& own, Visitor visit) {
  auto& shared = device::Shared<TileShared<Value, kThreads>>();
  shared.of_thread[seat.lane * seat.columns + seat.column] = own;
  device::SyncBlock();  // every thread's value is written
  for (int lane = 0; lane < seat.lanes; ++lane) {
    visit(shared.of_thread[lane * seat.columns + seat.column]);
  }
}

// What the first of the threads that share a position has made of it.
template <int kThreads, class Value>
ONNXLOSS_DEVICE Value OfFirstLane(const TileSeat& seat, const Value& own) {
  auto& shared = device::Shared<TileShared<Value, kThreads>>();
  if (seat.lane == 0) shared.of_thread[seat.column] = own;
  device::SyncBlock();  // every first thread's value is written
  return shared.of_thread[seat.column];
}

template <class T, class Row, class Acc>
ONNXLOSS_DEVICE Acc CoefficientAt(const Problem<T, Row>& problem, int64_t place, int64_t c) {
  if constexpr (!Row::kDense) return 0;
  const Acc label = Row::kHasTarget ? Acc{0} : Wide(problem.probabilities()[place]);
  return problem.row.Coefficient(label, problem.Weight(c));
}

}  // namespace onnxloss::cuda
