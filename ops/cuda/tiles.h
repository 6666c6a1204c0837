// SPDX-License-Identifier: MIT
// Rows in tiles: threads along the positions, and `class_lanes` of them along each position's
// classes. Elements are read one by one, coalesced where the class axis is not last.
#pragma once

#include "cuda/plan.h"
#include "cuda/summary.h"

namespace onnxloss::cuda {

// Where a thread is in the block's tile. The threads of a warp have neighbouring positions, but
// neighbouring classes where those are neighbours in memory.
struct TileSeat {
  int64_t position;
  int column;  // the position's place in the tile
  int columns;
  int lane;  // along the classes
  int lanes;
};

template <int kThreads>
ONNXLOSS_DEVICE TileSeat FindTileSeat(const Arguments& arguments, int64_t tile) {
  const int lanes = arguments.class_lanes;
  const int columns = kThreads / lanes;
  const int thread = device::ThreadIndex();
  const bool classes_first = arguments.call.inner == 1;
  const int lane = classes_first ? thread % lanes : thread / columns;
  const int column = classes_first ? thread / lanes : thread % columns;
  return {tile * columns + column, column, columns, lane, lanes};
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

template <class T, class Row, class Acc>
ONNXLOSS_DEVICE Acc CoefficientAt(const Problem<T, Row>& problem, int64_t place, int64_t c) {
  if constexpr (!Row::kDense) return 0;
  const Acc label = Row::kHasTarget ? Acc{0} : Wide(problem.probabilities()[place]);
  return problem.row.Coefficient(label, problem.Weight(c));
}

// The softmax of the thread's row, which the threads of its lanes share. All threads of the block
// take part.
template <class T, class Row>
ONNXLOSS_DEVICE Summary<Accumulator<T>> SummariseTile(const Problem<T, Row>& problem,
                                                      const TileSeat& seat, bool reads) {
  using Acc = Accumulator<T>;
  constexpr int kChunk = 8;
  const int64_t classes = problem.call.classes;
  const int64_t first = reads ? problem.First(seat.position) : 0;
  Summary<Acc> own;
  for (int64_t c0 = seat.lane; reads && c0 < classes; c0 += kChunk * seat.lanes) {
    Acc x[kChunk];
    Acc a[Row::kDense ? kChunk : 1];
#pragma unroll
    for (int i = 0; i < kChunk; ++i) {
      const int64_t c = c0 + i * seat.lanes;
      const int64_t place = first + c * problem.call.inner;
      x[i] = c < classes ? problem.Capped(Wide(problem.logits()[place])) : -Infinity<Acc>();
      if constexpr (Row::kDense) {
        a[i] = c < classes ? CoefficientAt<T, Row, Acc>(problem, place, c) : Acc{0};
      }
    }
    AddChunk<T, Row::kDense, kChunk>(x, a, &own);
  }
  Summary<Acc> summary;
  VisitLanes<kStridedThreads>(
      seat, own, [&](const Summary<Acc>& other) { Join<Row::kDense>(other, &summary); });
  return summary;
}

// logits are [outer, C, inner]. Read once for the loss; for the gradient once more, when what a
// block read is likely to be in its first cache still.
template <class T, class Row>
ONNXLOSS_KERNEL(kStridedThreads)
StridedRows(const Arguments arguments) {
  using Acc = Accumulator<T>;

  const Problem<T, Row> problem(arguments);
  const TileSeat seat = FindTileSeat<kStridedThreads>(arguments, device::BlockIndex());
  const int64_t classes = problem.call.classes;
  const int64_t inner = problem.call.inner;
  const bool has_row = seat.position < problem.positions();
  const int64_t position = has_row ? seat.position : 0;
  const int64_t first = problem.First(position);
  const Label<Acc> label = problem.LabelOf(position);
  const bool reads = has_row && (label.counts || problem.call.lse != nullptr);
  const Summary<Acc> summary = SummariseTile(problem, seat, reads);
  if (!has_row) return;
  const Result<Acc> result = FinishRow(problem, position, label, summary);
  if (seat.lane == 0) problem.Store(position, result.loss, result.lse);
  if (problem.call.dlogits == nullptr) return;
  for (int64_t c = seat.lane; c < classes; c += seat.lanes) {
    const int64_t place = first + c * inner;
    Acc value = label.bad ? NotANumber<Acc>() : Acc{0};
    if (label.counts && !label.bad) {
      const Acc logit = Wide(problem.logits()[place]);
      value = GradientOf<T, Row>(result, problem.Capped(logit),
                                 CoefficientAt<T, Row, Acc>(problem, place, c));
      if (Row::kHasTarget && c == label.index) value = result.at_target;
      value *= problem.CapSlope(logit);
    }
    problem.dlogits()[place] = Narrow<T>(value);
  }
}

// logits are probabilities, [outer, C, inner]: loss = sum_c a_c * -log(x_c), dlogits_c = -k a_c /
// x_c. A coefficient of 0 switches its term off.
template <class T, class Row>
ONNXLOSS_KERNEL(kStridedThreads)
ProbabilityRows(const Arguments arguments) {
  using Acc = Accumulator<T>;

  const Problem<T, Row> problem(arguments);
  const TileSeat seat = FindTileSeat<kStridedThreads>(arguments, device::BlockIndex());
  const int64_t classes = problem.call.classes;
  const int64_t inner = problem.call.inner;
  const bool has_row = seat.position < problem.positions();
  const int64_t position = has_row ? seat.position : 0;
  const int64_t first = problem.First(position);
  const Label<Acc> label = problem.LabelOf(position);
  const bool counts = has_row && label.counts && !label.bad;

  double own = 0;
  const bool writes = problem.call.dlogits != nullptr;
  const Acc k = writes ? static_cast<Acc>(problem.PlainUpstream(position)) : Acc{0};
  const bool reads_all = Row::kDense || writes;
  for (int64_t c = seat.lane; has_row && c < classes; c += seat.lanes) {
    if (!reads_all && c != label.index) continue;
    const int64_t place = first + c * inner;
    Acc a = CoefficientAt<T, Row, Acc>(problem, place, c);
    if (Row::kHasTarget && c == label.index) a += problem.row.keep * problem.Weight(c);
    Acc gradient = label.bad ? NotANumber<Acc>() : Acc{0};
    if (counts && a != 0) {
      const Acc logit = Wide(problem.logits()[place]);
      const Acc x = problem.Capped(logit);
      own += static_cast<double>(a * -Log(x));
      gradient = k * problem.Weighted(position, -a * problem.CapSlope(logit) / x);
    }
    if (writes) problem.dlogits()[place] = Narrow<T>(gradient);
  }
  double loss = 0;
  VisitLanes<kStridedThreads>(seat, own, [&](double other) { loss += other; });
  if (!has_row || seat.lane != 0) return;
  problem.Store(position, label.bad ? NotANumber<Acc>() : static_cast<Acc>(loss), Acc{0});
}

// The gradient by probabilities as labels, for the few graphs that ask for it: dlabels_c = k (1-e)
// w_c -log softmax(x)_c, or k (1-e) w_c -log x_c where logits are probabilities.
template <class T, class Row>
ONNXLOSS_KERNEL(kStridedThreads)
LabelGradients(const Arguments arguments) {
  using Acc = Accumulator<T>;
  const Problem<T, Row> problem(arguments);
  const TileSeat seat = FindTileSeat<kStridedThreads>(arguments, device::BlockIndex());
  const bool has_row = seat.position < problem.positions();
  const bool are_logits = problem.call.from_logits != 0;
  const Summary<Acc> summary = SummariseTile(problem, seat, has_row && are_logits);
  if (!has_row) return;
  const RowSoftmax<Acc> softmax = Finish(summary.stats);
  const Acc k = problem.Upstream(seat.position);
  const int64_t first = problem.First(seat.position);
  for (int64_t c = seat.lane; c < problem.call.classes; c += seat.lanes) {
    const int64_t place = first + c * problem.call.inner;
    const Acc x = problem.Capped(Wide(problem.logits()[place]));
    const Acc neg_log_p = are_logits ? NegLogP(softmax, x) : -Log(x);
    const Acc gradient = LabelGradient(k, problem.row.keep, problem.Weight(c), neg_log_p);
    static_cast<T*>(problem.call.dlabels)[place] = Narrow<T>(gradient);
  }
}

}  // namespace onnxloss::cuda
