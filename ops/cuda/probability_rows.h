// SPDX-License-Identifier: MIT
// Rows of probabilities instead of logits, and the gradient by probabilities as labels. Elements
// are read one by one, coalesced where the class axis is not last.
#pragma once

#include "cuda/strided_rows.h"

namespace onnxloss::cuda {

// What a position's probabilities add up to: see cpu/probabilities.h.
struct ProbabilitySums {
  double others;     // S, but for the label's class where it alone has a coefficient
  double label;      // and what that adds to S
  double logs;       // sum_c a_c -log(r_c)
  double total;      // A
  double quotients;  // -sum_j dq_j q_j / k

  ONNXLOSS_DEVICE double r() const { return others + label; }
  ONNXLOSS_DEVICE void Add(const ProbabilitySums& other) {
    others += other.others;
    label += other.label;
    logs += other.logs;
    total += other.total;
    quotients += other.quotients;
  }
};

// One element of a row of probabilities, and its coefficient.
template <class Acc>
struct Probability {
  Acc q;
  Acc r;
  Acc a;
};

// Rows of probabilities, [outer, C, inner], as their threads go along them.
template <class T, class Row>
struct ProbabilityWalk {
  using Acc = Accumulator<T>;

  const Problem<T, Row>& problem;
  const TileSeat& seat;
  bool has_row;
  int64_t first;
  Label<Acc> label;
  Normalization<Acc> normalization;

  ONNXLOSS_DEVICE ProbabilityWalk(const Problem<T, Row>& given, const TileSeat& at)
      : problem(given),
        seat(at),
        has_row(at.position < given.positions()),
        first(given.First(has_row ? at.position : 0)),
        label(given.LabelOf(has_row ? at.position : 0)),
        normalization(given.Bounds()) {}

  // Calls visit(c, place) for the thread's classes.
  template <class Visitor>
  ONNXLOSS_DEVICE void ForClasses(Visitor visit) const {
    for (int64_t c = seat.lane; has_row && c < problem.call.classes; c += seat.lanes) {
      visit(c, first + c * problem.call.inner);
    }
  }
  static constexpr bool kLabelAlone = Row::kHasTarget && !Row::kDense;
  ONNXLOSS_DEVICE bool HasLabel(int64_t c) const { return Row::kHasTarget && c == label.index; }
  ONNXLOSS_DEVICE Probability<Acc> At(int64_t c, int64_t place) const {
    const Acc q = normalization.Quotient(problem.Capped(Wide(problem.logits()[place])));
    Acc a = CoefficientAt<T, Row, Acc>(problem, place, c);
    if (HasLabel(c)) a += problem.row.keep * problem.Weight(c);
    return {q, normalization.Clipped(q), a};
  }

  // All threads of the block take part.
  ONNXLOSS_DEVICE void Divide() {
    if (!problem.DividesFirst()) return;
    double own = 0;
    ForClasses(
        [&](int64_t, int64_t place) { own += static_cast<double>(Wide(problem.logits()[place])); });
    double sum = 0;
    VisitLanes<kStridedThreads>(seat, own, [&](double other) { sum += other; });
    device::SyncBlock();  // every thread has read the others' sums
    normalization.divisor = static_cast<Acc>(sum);
  }
  ONNXLOSS_DEVICE ProbabilitySums Sums() const {
    // Elsewhere the target alone need be read.
    const bool reads_all = !kLabelAlone || problem.DividesLast() || !normalization.IsFinite();
    ProbabilitySums own = {};
    ForClasses([&](int64_t c, int64_t place) {
      if (!reads_all && !HasLabel(c)) return;
      const Probability<Acc> p = At(c, place);
      const double r = static_cast<double>(p.r);
      const bool alone = kLabelAlone && HasLabel(c);
      own.Add({alone ? 0 : r, alone ? r : 0, static_cast<double>(GapTerm(p.a, -Log(p.r))),
               static_cast<double>(p.a), static_cast<double>(normalization.OfQuotients(p.q, p.a))});
    });
    ProbabilitySums sums = {};
    VisitLanes<kStridedThreads>(seat, own, [&](const ProbabilitySums& other) { sums.Add(other); });
    return sums;
  }

  ONNXLOSS_DEVICE Acc LossOf(const ProbabilitySums& sums, double lse) const {
    // Of the others alone, which keeps the digits of a confident row.
    const double loss = kLabelAlone && problem.DividesLast()
                            ? GapTerm(sums.total, ::log1p(sums.others / sums.label))
                            : sums.logs + GapTerm(sums.total, lse);
    return static_cast<Acc>(loss + problem.call.z_loss * lse * lse);
  }

  ONNXLOSS_DEVICE void WriteGradient(const ProbabilitySums& sums, double lse) const {
    const bool counts = label.counts && !label.bad;
    const Acc k = static_cast<Acc>(problem.PlainUpstream(seat.position));
    const double share = sums.total + 2 * problem.call.z_loss * lse;
    const Acc pull = problem.DividesLast() ? static_cast<Acc>(share / sums.r()) : Acc{0};
    ForClasses([&](int64_t c, int64_t place) {
      Acc gradient = label.bad ? NotANumber<Acc>() : Acc{0};
      if (counts) {
        const Probability<Acc> p = At(c, place);
        Acc slope = normalization.Slope(p.q, p.a, pull);
        if (problem.DividesFirst()) {
          slope = (slope + static_cast<Acc>(sums.quotients)) / normalization.divisor;
        }
        slope *= problem.CapSlope(Wide(problem.logits()[place]));
        gradient = k * Weighted(problem.PositionWeight(seat.position), slope);
      }
      problem.dlogits()[place] = Narrow<T>(gradient);
    });
  }
};

// logits are probabilities, [outer, C, inner], and read once for each sum over a row's classes that
// what follows needs.
template <class T, class Row>
ONNXLOSS_KERNEL(kStridedThreads)
ProbabilityRows(const Arguments arguments) {
  using Acc = Accumulator<T>;

  device::StartNext();
  device::AwaitPrevious();
  const Problem<T, Row> problem(arguments);
  const TileSeat seat = FindTileSeat<kStridedThreads>(arguments, device::BlockIndex());
  ProbabilityWalk<T, Row> walk(problem, seat);
  walk.Divide();
  const ProbabilitySums sums = walk.Sums();
  if (!walk.has_row) return;
  const double lse = problem.DividesLast() ? LogOfSum(sums.r()) : 0;
  if (problem.call.dlogits != nullptr) walk.WriteGradient(sums, lse);
  if (seat.lane != 0) return;
  Acc loss = walk.label.counts ? walk.LossOf(sums, lse) : Acc{0};
  if (walk.label.bad) loss = NotANumber<Acc>();
  problem.Store(seat.position, loss, static_cast<Acc>(lse));
}

// The gradient by probabilities as labels, for the few graphs that ask for it: dlabels_c = k (1-e)
// w_c -lp_c.
template <class T, class Row>
ONNXLOSS_KERNEL(kStridedThreads)
LabelGradients(const Arguments arguments) {
  using Acc = Accumulator<T>;
  device::StartNext();
  device::AwaitPrevious();
  const Problem<T, Row> problem(arguments);
  const TileSeat seat = FindTileSeat<kStridedThreads>(arguments, device::BlockIndex());
  ProbabilityWalk<T, Row> walk(problem, seat);
  const Acc k = walk.has_row ? problem.Upstream(seat.position) : Acc{0};
  const auto write = [&](const auto& neg_log_p) {
    walk.ForClasses([&](int64_t c, int64_t place) {
      const Acc gradient =
          LabelGradient(k, problem.row.keep, problem.Weight(c), neg_log_p(c, place));
      static_cast<T*>(problem.call.dlabels)[place] = Narrow<T>(gradient);
    });
  };
  if (problem.call.from_logits != 0) {
    const RowsInArrays<T, Row> rows(problem, walk.has_row ? seat.position : 0);
    Columns<T, Row, Cap::kSome, 1> columns(problem, seat, rows);
    Summary<Acc> summaries[1];
    columns.Load(seat.lane);
    columns.Summarise(summaries);
    RowSoftmax<Acc> softmax[1];
    FinishTile<Row::kDense>(seat, summaries, softmax,
                            [](int, const Summary<Acc>& summary) { return Finish(summary.stats); });
    write([&](int64_t, int64_t place) {
      return NegLogP(softmax[0], problem.Capped(Wide(problem.logits()[place])));
    });
    return;
  }
  walk.Divide();
  const Acc lse = problem.DividesLast() ? static_cast<Acc>(LogOfSum(walk.Sums().r())) : Acc{0};
  write([&](int64_t c, int64_t place) { return lse - Log(walk.At(c, place).r); });
}

}  // namespace onnxloss::cuda
