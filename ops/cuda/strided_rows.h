// SPDX-License-Identifier: MIT
// Rows whose class axis is not the last, where neighbouring threads have neighbouring positions,
// and those that cannot be moved as vectors. Read once where their threads have room for them.
#pragma once

#include "cuda/tiles.h"
#include "cuda/vectors.h"

namespace onnxloss::cuda {

// Calls visit(j) for the positions of a thread, whose numbers stay in registers.
template <int kAcross, class Visitor>
ONNXLOSS_DEVICE void ForPositions(Visitor visit) {
#pragma unroll
  for (int j = 0; j < kAcross; ++j) visit(j);
}

// Where the rows of a thread's positions are: in the call's arrays. `first` is the place of the
// first position's first class; the others are inner() apart.
template <class T, class Row>
struct RowsInArrays {
  using Place = int64_t;
  const Problem<T, Row>& problem;
  const Place first;

  ONNXLOSS_DEVICE RowsInArrays(const Problem<T, Row>& of, int64_t position)
      : problem(of), first(of.First(position)) {}

  ONNXLOSS_DEVICE const T* logits() const { return problem.logits(); }
  ONNXLOSS_DEVICE const T* probabilities() const { return problem.probabilities(); }
  ONNXLOSS_DEVICE T* dlogits() const { return problem.dlogits(); }
  ONNXLOSS_DEVICE Place inner() const { return problem.call.inner; }
};

// Positions that a thread has: one, or the two neighbours whose 16-bit elements share a word.
template <class T, class Row, Cap kCap, int kAcross, class Rows = RowsInArrays<T, Row>>
struct Columns {
  using Acc = Accumulator<T>;
  using Place = typename Rows::Place;
  static constexpr bool kPaired = kAcross == 2;
  using Unit = std::conditional_t<kPaired, device::Pair<T>, Acc>;
  static_assert(!kPaired || (sizeof(T) == 2 && kCap == Cap::kNone), "a cap makes floats of them");
  // The arithmetic of a cap is long.
  static constexpr int kClasses = kCap == Cap::kNone ? kTileClasses : 8;

  const Problem<T, Row>& problem;
  const TileSeat seat;
  const Rows rows;
  // In hand are classes from `begin` on, each lanes-th, where they are below begin + left.
  int64_t begin = 0;
  int left = 0;
  Unit logits[kClasses];
  Unit labels[Row::kHasTarget ? 1 : kClasses];

  ONNXLOSS_DEVICE Columns(const Problem<T, Row>& of, const TileSeat& at, const Rows& given)
      : problem(of), seat(at), rows(given) {}

  ONNXLOSS_DEVICE static Unit UnitOf(const Acc (&x)[kAcross]) {
    if constexpr (kPaired) return Paired(x[0], x[1], T{});
    if constexpr (!kPaired) return x[0];
  }
  ONNXLOSS_DEVICE static Acc At(Unit unit, int j) {
    if constexpr (kPaired) return ElementOf(unit, j);
    if constexpr (!kPaired) return unit;
  }
  ONNXLOSS_DEVICE static Unit Read(const T* from) {
    if constexpr (kPaired) return *reinterpret_cast<const Unit*>(from);
    if constexpr (!kPaired) return Wide(*from);
  }
  ONNXLOSS_DEVICE static void Write(T* to, const Acc (&values)[kAcross]) {
    if constexpr (kPaired) *reinterpret_cast<Unit*>(to) = UnitOf(values);
    if constexpr (!kPaired) *to = Narrow<T>(values[0]);
  }

  ONNXLOSS_DEVICE Place PlaceOf(int64_t c) const {
    return rows.first + static_cast<Place>(c) * rows.inner();
  }
  // Calls visit(i, place) for the classes in hand.
  template <class Visitor>
  ONNXLOSS_DEVICE void ForClasses(Visitor visit) const {
    const Place step = seat.lanes * rows.inner();
    Place place = PlaceOf(begin);
#pragma unroll
    for (int i = 0; i < kClasses; ++i) {
      if (i * seat.lanes >= left) break;
      visit(i, place);
      place += step;
    }
  }
  ONNXLOSS_DEVICE Acc WeightOf(int i) const {
    return Row::kDense ? problem.Weight(begin + int64_t{i} * seat.lanes) : Acc{1};
  }

  // All on their way at once.
  ONNXLOSS_DEVICE void Load(int64_t from) {
    const int64_t all = problem.call.classes - from;
    const int room = kClasses * seat.lanes;
    begin = from;
    left = all < room ? static_cast<int>(all) : room;
    ForClasses([&](int i, Place place) {
      logits[i] = Read(rows.logits() + place);
      if constexpr (!Row::kHasTarget) labels[i] = Read(rows.probabilities() + place);
    });
  }

  ONNXLOSS_DEVICE Acc Coefficient(int i, int j, Acc weight) const {
    const Acc label = Row::kHasTarget ? Acc{0} : At(labels[Row::kHasTarget ? 0 : i], j);
    return problem.row.Coefficient(label, weight);
  }

  ONNXLOSS_DEVICE void AddTo(Summary<Acc> (&summaries)[kAcross]) const {
    Unit seen[kClasses];
    Acc maxima[kAcross];
    ForPositions<kAcross>([&](int j) { maxima[j] = summaries[j].stats.max; });
    Unit former = UnitOf(maxima);
    Unit best = former;
    ForClasses([&](int i, Place) {
      if constexpr (kCap == Cap::kNone) seen[i] = logits[i];
      if constexpr (kCap == Cap::kSome) seen[i] = problem.Capped(logits[i]);
      best = device::Greater(best, seen[i]);
    });
    Terms<Acc> terms[kAcross];
    ForPositions<kAcross>([&](int j) {
      summaries[j].stats.count_max = 0;
      Raise<Row::kDense>(At(best, j), &summaries[j]);
      terms[j] = Terms<Acc>(At(best, j));
    });
    ForClasses([&](int i, Place) {
      if constexpr (kPaired) device::Forget(&seen[i].bits);
      const Unit lesser = Outdo(seen[i], &former);
      const Acc weight = WeightOf(i);
      ForPositions<kAcross>([&](int j) {
        terms[j].template Add<T>(At(lesser, j));
        if constexpr (Row::kDense) terms[j].AddDense(At(seen[i], j), Coefficient(i, j, weight));
        // More of them would lose digits in the sums of float, which those of 16 bits do not have.
        if (!kPaired && i % 8 == 7) terms[j].template Join<Row::kDense>(&summaries[j]);
      });
    });
    ForPositions<kAcross>([&](int j) { terms[j].template Join<Row::kDense>(&summaries[j]); });
  }

  // dlogits of what is in hand, as if there were no targets.
  ONNXLOSS_DEVICE void StoreGradients(const Label<Acc> (&given)[kAcross],
                                      const Result<Acc> (&results)[kAcross]) const {
    ForClasses([&](int i, Place place) {
      const Acc weight = WeightOf(i);
      Unit unit = logits[i];
      if constexpr (kPaired) device::Forget(&unit.bits);  // or it stays unpacked from the sum on
      Acc gradients[kAcross];
      ForPositions<kAcross>([&](int j) {
        const Acc x = At(unit, j);
        const Acc a = Row::kDense ? Coefficient(i, j, weight) : Acc{0};
        const Acc seen = kCap == Cap::kSome ? problem.Capped(x) : x;
        Acc value = GradientOf<T, Row>(results[j], seen, ShareOf<Row>(results[j], a));
        if constexpr (kCap == Cap::kSome) value *= problem.CapSlope(x);
        gradients[j] = given[j].counts ? value : Acc{0};
      });
      Write(rows.dlogits() + place, gradients);
    });
  }

  // Summaries of all classes of the thread, the first of which are in hand.
  ONNXLOSS_DEVICE void Summarise(Summary<Acc> (&summaries)[kAcross]) {
    while (begin < problem.call.classes) {
      AddTo(summaries);
      if (IsInHand()) return;
      Load(begin + kClasses * seat.lanes);
    }
  }
  // Whether all classes are in hand at once.
  ONNXLOSS_DEVICE bool IsInHand() const { return problem.call.classes <= kClasses * seat.lanes; }

  // dlogits of all classes of the thread.
  ONNXLOSS_DEVICE void Differentiate(const Label<Acc> (&given)[kAcross],
                                     const Result<Acc> (&results)[kAcross]) {
    if (IsInHand()) {
      StoreGradients(given, results);
    } else {
      for (int64_t c = seat.lane; c < problem.call.classes; c += kClasses * seat.lanes) {
        Load(c);
        StoreGradients(given, results);
      }
    }
    StoreTargets(given, results);
  }
  // That of positions that do not count.
  ONNXLOSS_DEVICE void StoreZeros() const {
    for (int64_t c = seat.lane; c < problem.call.classes; c += seat.lanes) {
      Write(rows.dlogits() + PlaceOf(c), {});
    }
  }

  // A target's element is replaced by the thread that stored it: lanes are a power of two.
  ONNXLOSS_DEVICE void StoreTargets(const Label<Acc> (&given)[kAcross],
                                    const Result<Acc> (&results)[kAcross]) const {
    if constexpr (!Row::kHasTarget) return;
    ForPositions<kAcross>([&](int j) {
      const int64_t c = given[j].index;
      if (c == kNoLabel || (c & (seat.lanes - 1)) != seat.lane) return;
      const Place place = PlaceOf(c) + j;
      Acc value = results[j].at_target;
      if constexpr (kCap == Cap::kSome) value *= problem.CapSlope(Wide(rows.logits()[place]));
      rows.dlogits()[place] = Narrow<T>(value);
    });
  }
};

// One for each position of a thread.
template <class Value, int kAcross>
struct EachPosition {
  Value at[kAcross];
};

// Joins the summaries of the threads that share positions. What finish(j, summary) makes of each is
// made by the first of them, since the others would only take its time to repeat it; all get it.
// All threads of the block take part.
template <bool kDense, class Acc, int kAcross, class Finished, class Finish>
ONNXLOSS_DEVICE void FinishTile(const TileSeat& seat, Summary<Acc> (&summaries)[kAcross],
                                Finished (&finished)[kAcross], Finish finish) {
  if (seat.lanes > 1) {
    EachPosition<Acc, kAcross> max;
    ForPositions<kAcross>([&](int j) { max.at[j] = summaries[j].stats.max; });
    VisitLanes<kStridedThreads>(seat, max, [&](const EachPosition<Acc, kAcross>& other) {
      ForPositions<kAcross>([&](int j) { max.at[j] = device::Greater(max.at[j], other.at[j]); });
    });
    EachPosition<Summary<Acc>, kAcross> own;
    ForPositions<kAcross>([&](int j) {
      own.at[j] = summaries[j];
      Raise<kDense>(max.at[j], &own.at[j]);
      summaries[j] = {{max.at[j]}, {}};
    });
    VisitLanes<kStridedThreads>(seat, own, [&](const EachPosition<Summary<Acc>, kAcross>& other) {
      if (seat.lane != 0) return;
      ForPositions<kAcross>([&](int j) { AddSums<kDense>(other.at[j], &summaries[j]); });
    });
  }
  EachPosition<Finished, kAcross> made;
  if (seat.lane == 0) {
    ForPositions<kAcross>([&](int j) { made.at[j] = finish(j, summaries[j]); });
  }
  if (seat.lanes > 1) made = OfFirstLane<kStridedThreads>(seat, made);
  ForPositions<kAcross>([&](int j) { finished[j] = made.at[j]; });
}

// Dense coefficients, a cap and 16-bit elements without a neighbour take registers.
template <class T, class Row, Cap kCap, int kAcross>
constexpr int StridedBlocksAtOnce() {
  if (sizeof(T) == 8) return 1;
  const bool is_plain = !Row::kDense && kCap == Cap::kNone && sizeof(T) * kAcross == 4;
  return is_plain ? 3 : 2;
}

// What the threads of a tile make of their rows, with all threads of the block.
template <Cap kCap, int kAcross, class T, class Row, class Rows, class Acc>
ONNXLOSS_DEVICE void RunTile(const Problem<T, Row>& problem, const TileSeat& seat, bool has_row,
                             const Rows& rows, const Label<Acc> (&labels)[kAcross]) {
  bool reads = problem.call.lse != nullptr;
  ForPositions<kAcross>([&](int j) { reads |= labels[j].counts; });
  reads &= has_row;

  Columns<T, Row, kCap, kAcross, Rows> columns(problem, seat, rows);
  if (reads) columns.Load(seat.lane);
  RowInputs<Acc> inputs[kAcross];
  if (seat.lane == 0) {
    ForPositions<kAcross>([&](int j) {
      inputs[j] = ReadInputs(problem, seat.position + j, rows.logits() + rows.first + j, labels[j]);
    });
  }
  Summary<Acc> summaries[kAcross];
  if (reads) columns.Summarise(summaries);
  Result<Acc> results[kAcross];
  FinishTile<Row::kDense>(seat, summaries, results, [&](int j, const Summary<Acc>& summary) {
    return FinishRow(problem, labels[j], inputs[j], summary);
  });
  if (!has_row) return;
  if (seat.lane == 0) {
    ForPositions<kAcross>(
        [&](int j) { problem.Store(seat.position + j, results[j].loss, results[j].lse); });
  }
  if (problem.call.dlogits == nullptr) return;
  if (reads) {
    columns.Differentiate(labels, results);
  } else {
    columns.StoreZeros();
  }
}

// logits are [outer, C, inner]. A row of more classes than its threads have room for is read once
// for the loss and once more for the gradient.
template <class T, class Row, Cap kCap, int kAcross>
ONNXLOSS_KERNEL(kStridedThreads, (StridedBlocksAtOnce<T, Row, kCap, kAcross>()))
StridedRows(const Arguments arguments) {
  device::StartNext();
  const Problem<T, Row> problem(arguments);
  TileSeat seat = FindTileSeat<kStridedThreads, kAcross>(arguments, device::BlockIndex());
  const bool has_row = seat.position < problem.positions();
  if (!has_row) seat.position = 0;
  Label<Accumulator<T>> labels[kAcross];
  ForPositions<kAcross>([&](int j) { labels[j] = problem.LabelOf(seat.position + j); });
  const RowsInArrays<T, Row> rows(problem, seat.position);
  RunTile<kCap>(problem, seat, has_row, rows, labels);
}

}  // namespace onnxloss::cuda
